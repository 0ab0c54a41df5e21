"""Describe SageMaker's runtime API: the same operation, with the platform's bounds and errors of its own."""

from typing import Any

from lmi_chat.codec.eventstream import EVENT_STREAM
from lmi_chat.codec.json_text import Json
from lmi_chat.http import sagemaker
from lmi_chat.http.openapi.responses import ALWAYS, HEAD_OUT, OF_STATUS, OPENAI, STATUSES, answered, refusals
from lmi_chat.http.openapi.shapes import TEXT
from lmi_chat.http.routes import ROUTES

NAME: Json = {"type": "string", "pattern": f"^{sagemaker.NAME.pattern}$"}
NAMED: Json = {"name": "name", "in": "path", "required": True, "schema": NAME}
VARIANT: Json = {
    "X-Amzn-Invoked-Production-Variant": {"schema": TEXT, "description": "AllTraffic"},
    "X-Amzn-RequestId": {"schema": TEXT, "description": "the request's id, as boto3 reads it"},
}
PREFIX = "X-Amzn-SageMaker-"
SECONDS: Json = {
    "invocationtimeoutseconds": sagemaker.TIMEOUT_S,
    "requestttlseconds": sagemaker.TTL_S,
}
ERRORS = (
    (400, "What SageMaker itself refuses: names, headers, sizes", ("RuntimeError", OPENAI)),
    (401, STATUSES[401], ("RuntimeError",)),
    (405, STATUSES[405], ("RuntimeError",)),
    (500, STATUSES[500], ("RuntimeError",)),
    (503, "Not now; the same request may be sent again", ("RuntimeError",)),
)
OF_RATES = (429, STATUSES[429], ("RuntimeError",))
OF_MODEL = (424, "The model's own refusal or failure, with its status and body inside", ("ModelError",))


def paths(door: Json, *, has_async: bool) -> Json:
    """The paths of the runtime API; `door` is the operation that takes every dialect."""
    one = "/endpoints/{name}/"
    shown = {one + "invocations": {"post": _whole(door)}}
    shown[one + "invocations-response-stream"] = {"post": _parted(_whole(door))}
    return shown | ({one + "async-invocations": {"post": _later(door)}} if has_async else {})


def openai_paths(paths: Json) -> Json:
    """The paths under `/v1/` of those, as the platform has them: below an endpoint, and below its components."""
    component: Json = {"name": "component", "in": "path", "required": True, "schema": TEXT}
    names = {prefix: [NAMED, component] if "{component}" in prefix else [NAMED] for prefix in sagemaker.OPENAI}
    return {
        prefix + path: {
            method: operation | {"parameters": [*more, *operation["parameters"]]}
            for method, operation in item.items()
            if (method == "post") == (path in ROUTES)
        }
        for prefix, more in names.items()
        for path, item in paths.items()
        if (path in ROUTES and path.startswith("/v1/")) or path in {"/v1/models", "/v1/models/{model}"}
    }


def _bounded(name: str) -> Json:
    """A header's schema as it is checked."""
    key = name.lower()
    bounds = sagemaker.HEADERS.get(key.encode())
    if bounds:
        return {"type": "string", "maxLength": bounds[1], "pattern": f"^(?:{bounds[2].pattern})?$"}
    low, high = SECONDS.get(key.removeprefix(PREFIX.lower()), (None, None))
    return TEXT if low is None else {"type": "integer", "minimum": low, "maximum": high}


def _errors(*rows: tuple[int, str, tuple[str, ...]]) -> Json:
    kind = {"X-Amzn-ErrorType": {"schema": TEXT, "description": "which of the API's errors"}} | HEAD_OUT | VARIANT
    own = {
        str(status): answered(meaning, *names) | {"headers": kind | OF_STATUS.get(status, {})}
        for status, meaning, names in rows
    }
    return refusals(ALWAYS) | own


def _whole(door: Json) -> Json:
    parameters = [NAMED, *(one | {"schema": _bounded(one["name"])} for one in door["parameters"])]
    answer = door["responses"]["200"]
    headers = answer["headers"] | VARIANT
    responses = {"200": answer | {"headers": headers}} | _errors(*ERRORS, OF_MODEL)
    return door | {"parameters": parameters, "responses": responses}


def _parted(whole: Json) -> Json:
    """Its answer in an AWS event stream, whose parts join to the body that the other route sends."""
    answer: dict[str, Any] = whole["responses"]["200"]
    joined = {"X-Amzn-SageMaker-Content-Type": {"schema": TEXT, "description": "of what the parts join to"}}
    content = {EVENT_STREAM: {"schema": {"description": "messages of vnd.amazon.eventstream"}}}
    parts = answer | {"headers": answer["headers"] | joined, "content": content}
    return whole | {"responses": whole["responses"] | {"200": parts}}


def _later(door: Json) -> Json:
    names = [PREFIX + name for name in sagemaker.ASYNC_HEADERS]
    parameters = [NAMED, *({"name": name, "in": "header", "schema": _bounded(name)} for name in names)]
    places = {name: {"schema": TEXT, "description": "where it will be"} for name in ("Output", "Failure")}
    headers = {f"{PREFIX}{name}Location": place for name, place in places.items()}
    taken = answered("Taken; the answer or the failure will be at one of these places", "Accepted")
    return {
        "summary": "The same, answered later",
        "description": f"Either InputLocation or a body of at most {sagemaker.INLINE_BYTES} bytes.",
        "parameters": parameters,
        "requestBody": door["requestBody"] | {"required": False},
        "responses": {"202": taken | {"headers": headers}} | _errors(*ERRORS, OF_RATES),
    }
