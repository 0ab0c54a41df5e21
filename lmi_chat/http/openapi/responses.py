"""List the statuses that a route may answer with, and the bodies and headers of each."""

from collections.abc import Mapping, Sequence

from lmi_chat.codec.json_text import Json
from lmi_chat.http.openapi.shapes import TEXT, one_of

OPENAI, LMI, ANTHROPIC = "OpenAIError", "LmiError", "AnthropicError"
STATUSES = {
    400: "A field or the body is wrong; the message names it, its bound and the value",
    401: "No API key, or none of this server's",
    404: "No such model or path",
    405: "Not a method of this path; Allow names those that are",
    408: "The request came too slowly",
    409: "The session is answering another request, or the model is loaded and stays",
    413: "The body is larger than the limit",
    415: "A content type or encoding that is not read",
    424: "Code of the deployment's own, a formatter's, failed; the log says more",
    429: "The API key, or without keys all requests together, has used what a minute allows; see Retry-After",
    431: "The head is larger than the limit",
    500: "A mistake of this server's; its log says more",
    503: "Loading, full, draining or without an engine; see Retry-After",
    504: "Not complete within the deadline",
    507: "No room for another model, another adapter, or for another that is pinned",
}
ALWAYS = (400, 401, 405, 408, 431, 500)
"""What can meet any request; 401 where there are API keys, and not at health checks."""
INFERENCE = (*ALWAYS, 404, 409, 413, 415, 429, 503, 504)
"""What can meet a request to the model; 429 where there are rates."""
RETRY: Json = {"Retry-After": {"schema": {"type": "integer"}, "description": "seconds"}}


HEAD_OUT: Json = {
    "X-Request-Id": {"schema": TEXT, "description": "the request's id"},
    "X-Amzn-SageMaker-Inference-Id": {"schema": TEXT, "description": "as it came"},
    "X-Amzn-SageMaker-Custom-Attributes": {
        "schema": TEXT,
        "description": "as they came; after them the warning, with warnings_in_attributes",
    },
}
OF_STATUS: Mapping[int, Json] = {
    401: {"WWW-Authenticate": {"schema": TEXT, "description": "Bearer"}},
    405: {"Allow": {"schema": TEXT, "description": "the methods of this path"}},
    429: RETRY,
    503: RETRY,
}


def refusals(statuses: Sequence[int], errors: tuple[str, ...] = (OPENAI,)) -> Json:
    """The responses of these statuses, by their text; `errors` are the shapes of their bodies."""
    return {
        str(status): answered(STATUSES[status], *errors) | {"headers": HEAD_OUT | OF_STATUS.get(status, {})}
        for status in sorted(statuses)
    }


def answered(meaning: str, *names: str) -> Json:
    """A response with one of these schemas as its document."""
    return {"description": meaning, "content": {"application/json": {"schema": one_of(*names)}}}
