"""Serve SageMaker's runtime API to an unmodified `boto3.client("sagemaker-runtime")`.

The platform wraps a container's errors itself, so this happens below /endpoints/ only. Source of names, statuses and
patterns: the service model that botocore brings (sagemaker-runtime, 2017-05-13). The signature is not looked at.
"""

import re
import uuid
from collections.abc import Callable, Mapping
from pathlib import PurePosixPath
from typing import ClassVar

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Scope, Send

from lmi_chat.async_requests import NAME_BYTES, AsyncRequest
from lmi_chat.async_requests.folder import Folder
from lmi_chat.codec import eventstream, json_text
from lmi_chat.codec.eventstream import EVENT_STREAM
from lmi_chat.errors import BadField, Error, Problem, TimedOut, TooLarge
from lmi_chat.http import routes as inference_routes
from lmi_chat.http.access import OWNER
from lmi_chat.http.answers import Accepted, ModelError, RuntimeFault
from lmi_chat.http.endpoint import InferenceEndpoint, Reply, header, path_model, read_body
from lmi_chat.http.state import AppState, Headers, RequestContext
from lmi_chat.http.transport.send_stream import AnyBodyStream
from lmi_chat.pipeline.request import INFERENCE_ID, of_headers
from lmi_chat.text import echo, one_line

PREFIX = "/endpoints/"
REQUEST_ID = b"x-amzn-requestid"
VARIANT = (b"x-amzn-invoked-production-variant", b"AllTraffic")
NAME = re.compile(r"[a-zA-Z0-9](?:-*[a-zA-Z0-9]){0,62}")
HEADERS = {
    b"x-amzn-sagemaker-custom-attributes": ("CustomAttributes", 1024, re.compile(r"[\x00-\x7f]*")),
    b"x-amzn-sagemaker-inference-id": ("InferenceId", 64, re.compile(r"[!-~][ -~]*")),
    b"x-amzn-sagemaker-session-id": ("SessionId", 256, re.compile(r"NEW_SESSION|[a-zA-Z0-9](?:-*[a-zA-Z0-9])*")),
    b"x-amzn-sagemaker-prefix-aware-id": ("PrefixAwareId", 64, re.compile(r"[!-~][ -~]*")),
    b"x-amzn-sagemaker-inputlocation": ("InputLocation", 1024, re.compile(r"[ -~]+")),
    b"x-amzn-sagemaker-filename": ("Filename", 32, re.compile(r"(?!.*\..*\.)[a-zA-Z0-9][a-zA-Z0-9_.-]*")),
    b"x-amzn-sagemaker-s3outputpathextension": (
        "S3OutputPathExtension",
        512,
        re.compile(r"(?!s3:|https:)[a-zA-Z0-9!_.*'()/-]+"),
    ),
}
ADAPTER, COMPONENT = b"x-amzn-sagemaker-adapter-identifier", b"x-amzn-sagemaker-inference-component"
ASYNC_HEADERS = (
    *("inputlocation", "filename", "s3outputpathextension", "inference-id", "content-type", "accept"),
    "adapter-identifier",
    *("invocationtimeoutseconds", "requestttlseconds", "custom-attributes"),
)
ASYNC_OWN = {
    INFERENCE_ID: "inference-id",
    ADAPTER: "adapter-identifier",
    b"content-type": "content-type",
    b"accept": "accept",
}
"""The headers of the request that is answered later."""
INLINE_BYTES = 128_000
INLINE_SAYS = f"Body must have at most {INLINE_BYTES} bytes; use InputLocation for more"
TIMEOUT_S, TTL_S = (1, 3600), (60, 21_600)
ERROR_BYTES = 2048
SUMMARY_BYTES = 400
SHORT_BYTES = 280
OPENAI = tuple(PREFIX + middle + "/openai" for middle in ("{name}", "{name}/inference-components/{component}"))
"""Where the platform has OpenAI's paths, of an endpoint and of one of its inference components."""
IS_OPENAI = re.compile(r"/endpoints/[^/]+(?:/inference-components/[^/]+)?/openai/")
BodyOf = Callable[[Error], json_text.Json]


WHOLE = re.compile(r"0|[1-9][0-9]{0,8}")


class Endpoint(InferenceEndpoint):
    """POST /endpoints/{name}/invocations: what SageMaker checks before the container is asked, is checked here."""

    def exchange(self, scope: Scope, given: Mapping[bytes, str]) -> RequestContext:
        """As at every door, with the variant's name and the id where boto3 looks for it. Raises BadField."""
        check_head(scope)
        exchange = super().exchange(scope, given)
        if COMPONENT in given and not exchange.request.adapter:
            exchange.request.adapter = self._adapter_of(given[COMPONENT])
        exchange.headers += [VARIANT, (REQUEST_ID, exchange.request.id.encode())]
        return exchange

    def _adapter_of(self, component: str) -> str:
        """The adapter of an inference component, as the platform would name it; "" for a component of the model's."""
        pipeline = self._state.pipeline
        if pipeline.refusal is not None or pipeline.deployment.knows_adapter is None:
            return ""
        return component if pipeline.adapters.has(component) else ""


class OpenAi(Endpoint):
    """POST …/openai/v1/…: OpenAI's routes as the platform has them, whose answers and errors come as they are."""

    def exchange(self, scope: Scope, given: Mapping[bytes, str]) -> RequestContext:
        """As at the runtime API, where the inference component stands in the path. Raises BadField."""
        exchange = super().exchange(scope, given)
        component = scope["path_params"].get("component", "")
        if component and not exchange.request.adapter:
            exchange.request.adapter = self._adapter_of(component)
        return exchange


class Parts(Reply):
    """An answer as AWS event-stream messages: each frame is a PayloadPart, an error in mid-stream an exception."""

    def __init__(self, exchange: RequestContext, send: Send, body_stream: AnyBodyStream) -> None:
        """Answer `exchange` by `send` and `body_stream`."""
        super().__init__(exchange, send, body_stream)
        self._push = body_stream.write
        self.write = self._write_parts

    def types(self, content_type: str) -> Headers:
        """The stream's own type, and the type of what its parts join to."""
        own = (b"content-type", EVENT_STREAM.encode())
        return [own, (b"x-amzn-sagemaker-content-type", content_type.encode())]

    async def whole(self, body: bytes, content_type: str) -> None:
        """One document in as many parts as it takes; readers of lines wait for a newline at its end."""
        line = body if body.endswith(b"\n") else body + b"\n"
        await super().whole(b"".join(eventstream.parts(line)), content_type)

    def _write_parts(self, data: bytes) -> None:
        for part in eventstream.parts(data):
            self._push(part)

    def fail(self, error: Error, frame: bytes) -> None:  # noqa: ARG002 the exception says it
        """What boto3 raises while it reads; the dialect's own frame would look like a part of the answer."""
        code = "ModelInvocationTimeExceeded" if isinstance(error, TimedOut) else "StreamBroken"
        payload = json_text.dump({"Message": error.message, "ErrorCode": code})
        self._push(eventstream.exception("ModelStreamError", payload))


class Stream(Endpoint):
    """POST /endpoints/{name}/invocations-response-stream."""

    reply: ClassVar[type[Reply]] = Parts


class Later:
    """POST /endpoints/{name}/async-invocations: 202 with the places where answer or failure will be."""

    def __init__(self, state: AppState) -> None:
        """Hand over to the spool of `state`."""
        self._state = state

    async def __call__(self, request: Request) -> Response:
        """Accept one request. Raises what makes it unacceptable."""
        check_head(request.scope)
        if self._state.async_requests is None:
            raise _bad("InvokeEndpointAsync", "is not served: option.async_folder is not set")
        body = await read_body(request.scope, request.receive, INLINE_BYTES, INLINE_SAYS)
        order = _order(request, body, self._state.async_requests.folder)
        served = inference_routes.served(is_tgi=self._state.is_tgi)
        inference_routes.follow(order.request, header(request.scope, inference_routes.KEY), served)
        order = await self._state.async_requests.submit(order)
        headers = {
            "X-Amzn-SageMaker-OutputLocation": self._state.async_requests.folder.url(order.output),
            "X-Amzn-SageMaker-FailureLocation": self._state.async_requests.folder.url(order.failure),
            REQUEST_ID.decode(): order.request.id,
        }
        answer: Accepted = {"InferenceId": order.request.id}
        return Response(json_text.dump(answer), 202, headers, "application/json")


def _order(request: Request, body: bytes, folder: Folder) -> AsyncRequest:
    """The request's own words checked. Raises BadField."""
    given = {name: header(request.scope, b"x-amzn-sagemaker-" + name.encode()) for name in ASYNC_HEADERS}
    location, name = given["inputlocation"], given["filename"] or f"{uuid.uuid4().hex}.out"
    if bool(location) == bool(body):
        raise _bad("InputLocation", "and Body: exactly one of them is needed")
    path = PurePosixPath(given["s3outputpathextension"].lstrip("/"))
    if ".." in path.parts or any(len(part) > NAME_BYTES for part in path.parts):
        raise _bad("S3OutputPathExtension", f"must have parts of at most {NAME_BYTES} characters, and no ..")
    call = of_headers(
        {name: given[own] for name, own in ASYNC_OWN.items()}, body=body, owner=request.scope.get(OWNER, "")
    )
    call.path_model = path_model(request.scope)
    call.deadline_s = _seconds(given["invocationtimeoutseconds"], "InvocationTimeoutSeconds", *TIMEOUT_S)
    mine = (call.owner,) if call.owner else ()
    source = folder.parts(location) if location else None
    if source and source[: len(mine)] != mine:
        raise _bad("InputLocation", f"must name a file in the folder of the key {call.owner}, got {echo(location)}")
    return AsyncRequest(
        request=call,
        source=source,
        output=(*mine, "output", *path.parts, name),
        failure=(*mine, "failure", *path.parts, name),
        wait_s=_seconds(given["requestttlseconds"], "RequestTTLSeconds", *TTL_S) or TTL_S[1],
    )


def _seconds(text: str, field: str, low: int, high: int) -> int | None:
    if not text:
        return None
    if not WHOLE.fullmatch(text) or not low <= int(text) <= high:
        raise _bad(field, f"must be a whole number, at least {low} and at most {high}, got {echo(text)}")
    return int(text)


def _bad(field: str, text: str) -> BadField:
    return BadField([Problem(field, f"{field} {text}")])


def check_head(scope: Scope) -> None:
    """The endpoint's name and the headers that SageMaker bounds. Raises BadField."""
    name = scope["path_params"]["name"]
    if not NAME.fullmatch(name):
        raise _bad("EndpointName", f"must be at most 63 letters, digits and inner hyphens, got {echo(name)}")
    for key, (field, most, pattern) in HEADERS.items():
        value = header(scope, key)
        if value and (len(value) > most or not pattern.fullmatch(value)):
            text = f"must have at most {most} characters and match {pattern.pattern}, got {echo(value)}"
            raise _bad(field, text)


def refusal(error: Error, body_of: BodyOf, *, is_models: bool) -> tuple[int, str, RuntimeFault]:
    """An Error as the runtime API tells it: status, error type, body. `is_models`: it is the container's own word.

    boto3 sends a request again after 500, 502, 503, 504 and 429. Only what cost nothing is a 503; all else that the
    container says is a ModelError, status 424, with the real status inside.
    """
    if isinstance(error, TooLarge) or (not is_models and error.status == 400):  # noqa: PLR2004
        return 400, "ValidationError", {"Message": error.message}
    if error.status == 503 and error.is_retry_free:  # noqa: PLR2004
        return 503, "ServiceUnavailable", {"Message": error.message}
    if not is_models and error.status < 500:  # noqa: PLR2004
        return error.status, "UnknownOperationException", {"Message": error.message}
    if not is_models:
        return 500, "InternalFailure", {"Message": error.message}
    body = _model_error(error, body_of)
    if len(json_text.dump(body)) > ERROR_BYTES:
        body = _model_error(error.shortened(SHORT_BYTES), body_of)
    return 424, "ModelError", body


def _model_error(error: Error, body_of: BodyOf) -> ModelError:
    """OriginalMessage is the body that /invocations gives."""
    side = "client" if error.status < 500 else "server"  # noqa: PLR2004
    text = f'Received {side} error ({error.status}) from primary with message "{error.message}"'
    return {
        "Message": one_line(text, SUMMARY_BYTES),
        "OriginalStatusCode": error.status,
        "OriginalMessage": json_text.dump(body_of(error)).decode(),
        "LogStreamArn": "",
    }


def openai_routes(state: AppState) -> list[Route]:
    """The inference routes of OpenAI's paths, below an endpoint's and an inference component's."""
    return [
        Route(prefix + path, OpenAi(state, route), methods=["POST"])
        for prefix in OPENAI
        for path, route in inference_routes.ROUTES.items()
        if path.startswith("/v1/")
    ]


def routes(state: AppState) -> list[Route]:
    """The runtime API's routes."""
    one = PREFIX + "{name}/"
    return [
        Route(one + "invocations", Endpoint(state), methods=["POST"]),
        Route(one + "invocations-response-stream", Stream(state), methods=["POST"]),
        Route(one + "async-invocations", Later(state).__call__, methods=["POST"]),
    ]
