"""Carry an inference route's body to the pipeline and its reply to the connection."""

import asyncio
import contextlib
import re
from collections.abc import Mapping
from typing import ClassVar

from starlette.types import Receive, Scope, Send

from lmi_chat.errors import BadField, Error, ModelNotFound, Problem, TooLarge
from lmi_chat.http import routes
from lmi_chat.http.access import OWNER
from lmi_chat.http.routes import InferenceRoute
from lmi_chat.http.state import AppState, Headers, RequestContext
from lmi_chat.http.transport.body_stream import OUTLET
from lmi_chat.http.transport.send_stream import AnyBodyStream, SendStream
from lmi_chat.pipeline.bodies import Body
from lmi_chat.pipeline.parsing import warning
from lmi_chat.pipeline.request import PREFIX_ID, REQUEST_ID, of_headers
from lmi_chat.text import echo

VISIBLE: dict[str, tuple[re.Pattern[str], int]] = {
    "X-Amzn-SageMaker-Inference-Id": (REQUEST_ID, 128),
    routes.HEADER: (re.compile(r"[ -~]{1,1024}"), 1024),
}
"""Headers that are taken unchanged, what they may be and how long."""
CHECKED = VISIBLE | {"X-Amzn-SageMaker-Prefix-Aware-Id": (PREFIX_ID, 64)}
"""These and one that no answer repeats."""


class Reply:
    """flow's Out over ASGI: head and end go through `send`, a stream's frames straight to the connection."""

    def __init__(self, exchange: RequestContext, send: Send, body_stream: AnyBodyStream) -> None:
        """Answer `exchange` by `send` and `body_stream`."""
        self._exchange, self._send = exchange, send
        self.write = body_stream.write

    async def whole(self, body: bytes, content_type: str) -> None:
        """One document with its length."""
        headers = [*self.types(content_type), (b"content-length", str(len(body)).encode()), *self._headers()]
        await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send({"type": "http.response.body", "body": body, "more_body": False})

    async def start(self, content_type: str) -> None:
        """A stream's head; proxies are told not to hold it back."""
        headers = [*self.types(content_type), (b"cache-control", b"no-cache"), (b"x-accel-buffering", b"no")]
        await self._send({"type": "http.response.start", "status": 200, "headers": [*headers, *self._headers()]})

    def fail(self, error: Error, frame: bytes) -> None:  # noqa: ARG002 the frame says it
        """A stream's last frame, of an error."""
        self.write(frame)

    async def end(self) -> None:
        """A stream's end."""
        await self._send({"type": "http.response.body", "body": b"", "more_body": False})

    def types(self, content_type: str) -> Headers:
        """The headers that say what the body is."""
        return [(b"content-type", content_type.encode())]

    def _headers(self) -> Headers:
        call = self._exchange.request
        headers = [
            *self._exchange.headers,
            *((name.lower().encode(), text.encode()) for name, text in call.headers.items()),
        ]
        if call.warnings:
            text = warning(call.warnings)
            headers.append((b"x-lmi-chat-warning", text.encode()))
            if self._exchange.warns_in_attributes:
                given = next((value.decode() for name, value in headers if name == routes.KEY), "")
                headers = [each for each in headers if each[0] != routes.KEY]
                headers.append((routes.KEY, routes.with_warning(given, text).encode()))
        return headers


def header(scope: Scope, name: bytes) -> str:
    """The first of a request's headers of that name (in lower case), or ""."""
    return next((value.decode("latin-1") for key, value in scope["headers"] if key == name), "")


def heads(scope: Scope) -> dict[bytes, str]:
    """All of a request's headers, names in lower case; of those with the same name the first."""
    return {name: value.decode("latin-1") for name, value in reversed(scope["headers"])}


def visible(given: Mapping[bytes, str], name: str) -> str:
    """One of VISIBLE's headers; "" where it is absent or not what it may be."""
    text = given.get(name.lower().encode(), "")
    return text if text and VISIBLE[name][0].fullmatch(text) else ""


def _check_headers(given: Mapping[bytes, str]) -> None:
    for name, (pattern, most) in CHECKED.items():
        text = given.get(name.lower().encode())
        if text and not pattern.fullmatch(text):
            says = f"{name} must be at most {most} characters of visible ASCII, got {echo(text)} ({len(text)})"
            raise BadField([Problem(name, says)])


def path_model(scope: Scope) -> str:
    """The name in a request's path, of an endpoint or a model; "" in a path that has none."""
    names: Mapping[str, str] = scope["path_params"]
    return names.get("name") or names.get("model") or ""


class InferenceEndpoint:
    """An inference route as an ASGI application: the body goes to the line, the reply to the connection."""

    reply: ClassVar[type[Reply]] = Reply

    def __init__(self, state: AppState, route: InferenceRoute = routes.ANY) -> None:
        """Answer by the rules of `route`, or of one that a request names where these take every dialect."""
        self._state, self._route = state, route
        self._routes = routes.served(is_tgi=state.is_tgi)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; a client that goes cancels it."""
        body_stream: AnyBodyStream | None
        try:
            body_stream = scope["extensions"][OUTLET]
        except KeyError:  # the server's protocol class is not ours
            body_stream = None
        if body_stream is None:
            await SendStream(receive, send).serve(self, scope)
            return
        given = heads(scope)
        exchange = self.exchange(scope, given)
        scope["lmi_chat.exchange"] = exchange
        task = asyncio.current_task()
        body_stream.on_gone = task.cancel if task else None
        try:
            with self._state.pipeline.request_log.recording(exchange.request.record):
                if (trace := exchange.request.record.trace) is not None:
                    exchange.headers += [(name.encode(), text.encode()) for name, text in trace.headers().items()]
                _check_headers(given)
                if attributes := given.get(routes.KEY):
                    routes.follow(exchange.request, attributes, self._routes)
                self._check_name(scope)
                with self._state.bodies.body() as body:
                    exchange.request.on_body_freed, exchange.request.on_held = body.free, body.add
                    exchange.request.body = await read_body(scope, receive, self._state.max_body_bytes, body=body)
                    exchange.request.record.received_s = exchange.request.record.age_s
                    await self._state.pipeline.answer(exchange.request, self.reply(exchange, send, body_stream))
        except asyncio.CancelledError:
            if not body_stream.is_gone:
                raise

    def exchange(self, scope: Scope, given: Mapping[bytes, str]) -> RequestContext:
        """A request's head as the line takes it, by its headers `given`, and what its reply repeats."""
        route = self._route
        call = of_headers(given, route_shape=route.shape, forced=route.forced, owner=scope.get(OWNER, ""))
        call.path_model = path_model(scope)
        headers: Headers = [(name, call.id.encode()) for name in route.id_headers]
        headers += [(name.lower().encode(), text.encode()) for name in VISIBLE if (text := visible(given, name))]
        return RequestContext(call, headers, self._state.pipeline.warns_in_attributes)

    def _check_name(self, scope: Scope) -> None:
        name = scope["path_params"].get("model")
        if (
            name is not None
            and self._state.pipeline.refusal is None
            and name not in self._state.pipeline.deployment.names | {"model"}
        ):
            raise ModelNotFound(f"model {echo(name)} is not served here", param="model")


async def read_body(scope: Scope, receive: Receive, most: int, says: str = "", *, body: Body | None = None) -> bytes:
    """A request's body of at most `most` bytes. Raises TooLarge, Busy; CancelledError for a client that goes.

    `says` is what is said of a larger one, in place of the general sentence; `body` counts it among all bodies.
    """
    length = header(scope, b"content-length")
    if length.isdigit() and int(length) > most:
        raise TooLarge(says or f"the body has {int(length)} bytes; at most {most} are read")
    parts: list[bytes] = []
    size = 0
    with contextlib.nullcontext() if body is None else body.reading():
        while True:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise asyncio.CancelledError
            parts.append(message.get("body", b""))
            size += len(parts[-1])
            if size > most:
                raise TooLarge(says or f"the body has more than {most} bytes")
            if body is not None:
                body.add(len(parts[-1]))
            if not message.get("more_body", False):
                return b"".join(parts)
