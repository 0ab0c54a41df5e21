"""Describe this server as an OpenAPI 3.1 document, from the same types that requests are checked against.

Bodies of requests: requests.py (and structured_output.py); of answers: answers.py. Here: paths, parameters, headers,
statuses.
"""

from lmi_chat import __version__
from lmi_chat.codec.json_text import Json
from lmi_chat.dialects.chat import stored
from lmi_chat.dialects.deployment import Deployment
from lmi_chat.http.openapi import answers, operators, requests, runtime
from lmi_chat.http.openapi.responses import (
    ALWAYS,
    HEAD_OUT,
    INFERENCE,
    LMI,
    OPENAI,
    STATUSES,
    answered,
    refusals,
)
from lmi_chat.http.openapi.shapes import TEXT, ref


def _header(name: str, meaning: str) -> Json:
    return {"name": name, "in": "header", "schema": TEXT, "description": meaning}


LINES_TOO = "in JSON Lines (application/jsonlines) too: a record per line, answered by a line each, in order"
REQUEST_ID = "the request's id: visible ASCII, up to 128 characters"
HEADERS_IN: list[Json] = [
    _header("X-Request-Id", REQUEST_ID + "; what is none gets a new one"),
    _header("X-Amzn-SageMaker-Inference-Id", REQUEST_ID + "; before X-Request-Id"),
    _header("X-Amzn-SageMaker-Custom-Attributes", "comes back in the answer, up to 1024 characters of visible ASCII"),
    # none is loaded, so that only what asks for none is answered
    _header("X-Amzn-SageMaker-Adapter-Identifier", "the adapter to answer with") | {"schema": TEXT | {"maxLength": 0}},
    _header("X-Amzn-SageMaker-Accept", "as Accept, and before it: the shape of a stream"),
]
SESSION_IN = _header("X-Amzn-SageMaker-Session-Id", "the session of this request; NEW_SESSION begins one with a chat")
WARNING_OUT: Json = {"X-LMI-Chat-Warning": {"schema": TEXT, "description": "what of the request was ignored, and why"}}
SESSION_OUT: Json = {
    "X-Amzn-SageMaker-New-Session-Id": {"schema": TEXT, "description": "id; Expires=time, of a session that begins"},
    "X-Amzn-SageMaker-Session-Id": {"schema": TEXT, "description": "the same"},
    "X-Amzn-SageMaker-Closed-Session-Id": {"schema": TEXT, "description": "of a session that ends"},
}
ID: Json = {"name": "id", "in": "path", "required": True, "schema": TEXT}
LIMIT = {"type": "integer", "minimum": 1, "maximum": stored.LIMIT_MOST, "default": stored.LIMIT_DEFAULT}
PAGING: list[Json] = [
    {"name": "after", "in": "query", "schema": TEXT},
    {"name": "limit", "in": "query", "schema": LIMIT},
    {"name": "order", "in": "query", "schema": {"enum": list(stored.ORDERS), "default": stored.ORDERS[0]}},
]


KEYS: Json = {
    "bearer": {"type": "http", "scheme": "bearer"},
    "header": {"type": "apiKey", "in": "header", "name": "x-api-key"},
}
"""How a request shows its API key: one of these."""
GENERATES: Json = {"chat": ("messages",), "standard": ("inputs",), "completion": ("prompt",)}
EMBEDS: Json = {"embedding": ("input", "inputs")}
"""The dialects of either kind of model, and the keys that choose them."""


def document(
    deployment: Deployment, *, has_sessions: bool, has_async: bool, has_keys: bool = False, has_rates: bool = False
) -> Json:
    """The whole document, of this deployment and its bounds.

    Stored completions, sessions, asynchronous requests, API keys and rates stand in it where they are on.
    """
    if deployment.space:
        bodies, paths = {"EmbeddingRequest": requests.of_embedding(deployment)}, _of_embedder(has_async=has_async)
    else:
        bodies = _bodies(deployment, has_sessions=has_sessions)
        labels = bodies["Metadata"]["properties"]["metadata"] if "Metadata" in bodies else None
        paths = _paths(labels, has_sessions=has_sessions, has_async=has_async)
    if deployment.is_tgi:
        paths |= _of_tgi("embedding" if deployment.space else "standard", has_sessions=has_sessions)
    never = [status for status, is_on in (("401", has_keys), ("429", has_rates)) if not is_on]
    for operation in (each for item in paths.values() for each in item.values()):
        operation["responses"] = {status: one for status, one in operation["responses"].items() if status not in never}
    keys: Json = {"security": [{name: []} for name in KEYS]} if has_keys else {}
    components = {"schemas": bodies | answers.schemas(deployment)} | ({"securitySchemes": KEYS} if has_keys else {})
    return {
        "openapi": "3.1.0",
        "info": {"title": "lmi-chat", "version": __version__, "license": {"name": "Apache-2.0"}},
        "paths": paths,
        **keys,
        "components": components,
    }


def _bodies(deployment: Deployment, *, has_sessions: bool) -> Json:
    bodies = {
        "ChatRequest": requests.of_chat(deployment),
        "StandardRequest": requests.of_standard(deployment),
        "CompletionRequest": requests.of_completion(deployment),
    }
    if has_sessions:
        bodies["SessionRequest"] = requests.of_session(deployment)
    if deployment.save is not None:
        bodies["Metadata"] = requests.of_update(deployment)
    return bodies


def _paths(labels: Json | None, *, has_sessions: bool, has_async: bool) -> Json:
    """The paths of a model that generates; `labels`: the schema of a stored completion's, None where none is stored."""
    paths = _shared(_door(GENERATES, has_sessions=has_sessions), has_async=has_async)
    paths |= {
        "/v1/chat/completions": {"post": _inference("Chat completions", "chat", has_sessions=has_sessions)},
        "/v1/completions": {"post": _inference("Completions", "completion", has_sessions=has_sessions)},
    }
    if labels is not None:
        one = "/v1/chat/completions/{id}"
        filters: list[Json] = [
            {"name": "model", "in": "query", "schema": TEXT},
            {"name": "metadata", "in": "query", "style": "deepObject", "explode": True, "schema": labels},
        ]
        paths["/v1/chat/completions"]["get"] = _stored("Stored completions", "StoredCompletions", *PAGING, *filters)
        paths[one] = {
            "get": _stored("A stored completion", "ChatCompletion", ID),
            "post": _stored("Replace its metadata", "ChatCompletion", ID, has_body=True),
            "delete": _stored("Delete it", "Deleted", ID),
        }
        paths[one + "/messages"] = {"get": _stored("What was asked in it", "StoredMessages", ID, *PAGING)}
    return paths


def _of_embedder(*, has_async: bool) -> Json:
    """The paths of a model that embeds."""
    own = {"/v1/embeddings": {"post": _inference("Embeddings", "embedding", has_sessions=False)}}
    return _shared(_door(EMBEDS, has_sessions=False), has_async=has_async) | own


def _of_tgi(dialect: str, *, has_sessions: bool) -> Json:
    """TGI's own paths."""
    summaries = {
        "/": "As /invocations, for inputs alone",
        "/generate": "One object, with details if they are asked for",
        "/generate_stream": "The same as a stream of events",
    }
    doors = {
        path: {"post": _inference(summary, dialect, has_sessions=has_sessions)} for path, summary in summaries.items()
    }
    return doors | {"/info": {"get": _get("The served model and its limits", "Info", 503)}}


def _shared(door: Json, *, has_async: bool) -> Json:
    """What every server has; `door` is the operation that takes every dialect."""
    paths: Json = {
        "/invocations": {"post": door},
        "/predictions/{model}": {"post": _named(door, "model")},
        "/models/{model}/invoke": {"post": _named(door, "model")},
        **runtime.paths(door, has_async=has_async),
        "/v1/models": {"get": _get("The served model", "Models", 503)},
        "/v1/models/{model}": {"get": _named(_get("One of its names", "Model", 404, 503), "model")},
        "/ping": {"get": _get("Health: 200 when requests are taken, 503 with what goes on otherwise", "Ready")},
        **operators.paths(),
        "/openapi.json": {"get": _get("This document", "", 503)},
    }
    health = paths["/ping"]["get"]
    health["responses"]["503"] = answered(STATUSES[503], "NotReady")
    del health["responses"]["401"]
    health["security"] = []  # it asks for no key
    paths["/health"] = paths["/ping"]
    return paths


def _door(dialects: Json, *, has_sessions: bool) -> Json:
    """A door for every one of these dialects."""
    kinds = dialects | ({"session": ("requestType",)} if has_sessions else {})
    schemas = [requests.at_any_door(f"{name.capitalize()}Request", *keys) for name, keys in kinds.items()]
    bodies: Json = {
        "application/json": {"schema": {"anyOf": schemas}},
        "text/plain": {"schema": {"type": "string", "minLength": 1, "description": "the same as inputs"}},
    }
    summary = f"{', '.join(dialects)}: which one, its key says"
    return _operation(summary, tuple(dialects), bodies, has_sessions=has_sessions)


def _inference(summary: str, dialect: str, *, has_sessions: bool) -> Json:
    bodies = {"application/json": {"schema": ref(f"{dialect.capitalize()}Request")}}
    return _operation(summary, (dialect,), bodies, has_sessions=has_sessions)


def _operation(summary: str, dialects: tuple[str, ...], bodies: Json, *, has_sessions: bool) -> Json:
    errors = (OPENAI, LMI) if "standard" in dialects else (OPENAI,)
    headers = HEAD_OUT | WARNING_OUT | (SESSION_OUT if has_sessions else {})
    content = answers.contents(dialects, has_sessions=has_sessions and "standard" in dialects)
    responses: Json = {"200": {"description": "The answer, whole or streamed", "headers": headers, "content": content}}
    rules = "".join(f"\n- {rule}" for rule in requests.UNSAID)
    return {
        "summary": summary,
        "description": f"Beyond its schema, a body is refused unless:{rules}",
        "parameters": [*HEADERS_IN, *([SESSION_IN] if has_sessions else [])],
        "requestBody": {"required": True, "content": bodies, "description": LINES_TOO},
        "responses": responses | refusals(INFERENCE, errors),
    }


def _named(operation: Json, name: str) -> Json:
    """The same operation under a path with that parameter."""
    parameter: Json = {"name": name, "in": "path", "required": True, "schema": TEXT}
    return operation | {"parameters": [parameter, *operation["parameters"]]}


def _get(summary: str, name: str, *statuses: int) -> Json:
    shown = answered(summary, name) if name else {"description": summary, "content": {"application/json": {}}}
    return {"summary": summary, "parameters": [], "responses": {"200": shown} | refusals((*ALWAYS, *statuses))}


def _stored(summary: str, name: str, *parameters: Json, has_body: bool = False) -> Json:
    """An operation on stored completions."""
    shown = _get(summary, name, 404, 503, *((413,) if has_body else ()))
    shown["parameters"] = list(parameters)
    shown["responses"]["200"]["headers"] = WARNING_OUT
    if has_body:
        shown["requestBody"] = {"required": True, "content": {"application/json": {"schema": ref("Metadata")}}}
    return shown
