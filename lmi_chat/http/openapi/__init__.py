"""Describe this server as an OpenAPI 3.1 document, from the same types that requests are checked against.

Bodies of requests: requests.py (and structured_output.py), of models that pool pooled.py; of answers: answers.py.
Here: paths, parameters, headers, statuses.
"""

from lmi_chat import __version__
from lmi_chat.codec.json_text import Json
from lmi_chat.dialects import OWN, adapter
from lmi_chat.dialects.chat import stored
from lmi_chat.dialects.deployment import Deployment
from lmi_chat.http import routes
from lmi_chat.http.openapi import answers, anthropic, console, operators, pooled, requests, responses_body, runtime
from lmi_chat.http.openapi.responses import (
    ALWAYS,
    ANTHROPIC,
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
    _header(
        routes.HEADER,
        "comes back in the answer, up to 1024 characters of visible ASCII; where any kind of body is taken, "
        "route=/v1/… in it asks for the answer of that inference route",
    ),
    _header("X-Amzn-SageMaker-Prefix-Aware-Id", "of requests that begin alike: visible ASCII, up to 64 characters"),
    _header(adapter.HEADER, "the adapter to answer with"),
    _header("X-Amzn-SageMaker-Accept", "as Accept, and before it: the shape of a stream"),
]
SESSION_IN = _header("X-Amzn-SageMaker-Session-Id", "the session of this request; NEW_SESSION begins one with a chat")
WARNING_OUT: Json = {"X-LMI-Chat-Warning": {"schema": TEXT, "description": "what of the request was ignored, and why"}}
METERING_OUT: Json = {
    "X-Amzn-Inference-Metering": {"schema": TEXT, "description": "what it is billed by, with inference_metering"},
}
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
GENERATES: Json = {"chat": ("messages",), "standard": ("inputs",), "completion": ("prompt",), "responses": ("input",)}
"""The dialects of a model that generates, and the keys that choose them."""


def document(
    deployment: Deployment,
    *,
    has_sessions: bool,
    has_async: bool,
    has_keys: bool = False,
    has_rates: bool = False,
    has_console: bool = False,
) -> Json:
    """The whole document, of this deployment and its bounds.

    Stored completions, sessions, asynchronous requests, API keys, rates and the console stand in it where they are on.
    """
    own, is_hearing = "standard", deployment.speech is not None and deployment.speech.is_only
    if deployment.pooler:
        own = OWN[deployment.pooler.task]
        bodies, paths = pooled.bodies(deployment), _of_pooler(deployment, has_async=has_async)
    elif is_hearing:
        bodies, paths = {}, _shared(_of_recording("A recording"), has_async=has_async)
    else:
        bodies = _bodies(deployment, has_sessions=has_sessions)
        labels = bodies["Metadata"]["properties"]["metadata"] if "Metadata" in bodies else None
        paths = _paths(deployment, labels, has_sessions=has_sessions, has_async=has_async)
    bodies |= requests.of_tokenization(deployment)
    if deployment.speech:
        bodies |= {"TranscriptionRequest": requests.of_transcription(deployment)}
        paths |= _of_speech()
    if deployment.is_tgi and not is_hearing:
        paths |= _of_tgi(own, has_sessions=has_sessions)
    paths |= runtime.openai_paths(paths)
    if has_console:
        paths |= console.paths()
    if deployment.knows_adapter is None:
        _name_no_adapter(paths)
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


def _name_no_adapter(paths: Json) -> None:
    """None is loaded, so that only what asks for none is answered."""
    for operation in (each for item in paths.values() for each in item.values()):
        operation["parameters"] = [
            one | {"schema": TEXT | {"maxLength": 0}} if one["name"] == adapter.HEADER else one
            for one in operation["parameters"]
        ]


def _bodies(deployment: Deployment, *, has_sessions: bool) -> Json:
    bodies = {
        "ChatRequest": requests.of_chat(deployment),
        "BatchRequest": requests.of_batch(deployment),
        "StandardRequest": requests.of_standard(deployment),
        "CompletionRequest": requests.of_completion(deployment),
        "ResponsesRequest": responses_body.of_responses(deployment),
        "AnthropicRequest": anthropic.of_anthropic(deployment),
    }
    if has_sessions:
        bodies["SessionRequest"] = requests.of_session(deployment)
    if deployment.save is not None:
        bodies["Metadata"] = requests.of_update(deployment)
    return bodies


def _paths(deployment: Deployment, labels: Json | None, *, has_sessions: bool, has_async: bool) -> Json:
    """The paths of a model that generates; `labels`: the schema of a stored completion's, None where none is stored."""
    paths = _shared(_door(GENERATES, deployment, has_sessions=has_sessions), has_async=has_async)
    paths |= {
        "/v1/chat/completions": {"post": _inference("Chat completions", "chat", has_sessions=has_sessions)},
        "/v1/chat/completions/batch": {"post": _batch()},
        "/v1/completions": {"post": _inference("Completions", "completion", has_sessions=has_sessions)},
        "/v1/responses": {"post": _inference("Responses", "responses", has_sessions=has_sessions)},
        "/v1/messages": {"post": _inference("Anthropic's Messages", "anthropic", has_sessions=False)},
        "/v1/messages/count_tokens": {"post": _counted()},
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
        paths |= _of_responses()
        paths[one + "/messages"] = {"get": _stored("What was asked in it", "StoredMessages", ID, *PAGING)}
    return paths


def _of_responses() -> Json:
    """The paths of stored responses."""
    one, own = "/v1/responses/{id}", responses_body.ID
    return {
        one: {
            "get": _stored("A stored response", "Response", own, responses_body.STREAM),
            "delete": _stored("Delete it", "DeletedResponse", own),
        },
        one + "/cancel": {"post": _stored("Refused: none is made in the background", "Response", own)},
        one + "/input_items": {
            "get": _stored("What stood before it", "ResponseInputItems", own, *responses_body.PAGING)
        },
    }


def _counted() -> Json:
    """The tokens of a message's prompt: the same body, of which max_tokens may be absent."""
    operation = _inference("The tokens of such a request's prompt", "anthropic", has_sessions=False)
    shown = operation["responses"]["200"] | {"content": {"application/json": {"schema": ref("CountedTokens")}}}
    body = {"allOf": [{"type": "object", "required": ["messages"]}]}
    return operation | {
        "responses": operation["responses"] | {"200": shown},
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
    }


def _of_pooler(deployment: Deployment, *, has_async: bool) -> Json:
    """The paths of a model that pools."""
    served = pooled.served(deployment)
    paths = {
        path: {"post": _inference(summary, name, has_sessions=False)}
        for name in served
        for path, summary in pooled.PATHS[name].items()
    }
    if "classification" in served:
        body = {"application/json": {"schema": ref("PredictRequest")}}
        predict = _operation("As /classify, for inputs", ("classification",), body, has_sessions=False)
        paths["/predict"] = {"post": predict}
    chosen = {name: keys for name, keys in served.items() if keys}
    return _shared(_door(chosen, deployment, has_sessions=False), has_async=has_async) | paths


def _of_speech() -> Json:
    """The paths of a model that hears."""
    kinds = {"transcriptions": "in its own language", "translations": "in English"}
    return {f"/v1/audio/{name}": {"post": _of_recording(f"A recording, {how}")} for name, how in kinds.items()}


def _of_recording(summary: str) -> Json:
    """An operation that takes a form with a recording, or nothing but a recording."""
    bodies: Json = {
        "multipart/form-data": {"schema": ref("TranscriptionRequest")},
        "audio/*": {"schema": {"description": "the same as file"}},
    }
    operation = _operation(summary, ("transcription",), bodies, has_sessions=False)
    shown = operation["responses"]["200"]
    texts = {kind: {"schema": TEXT} for kind in ("text/plain", "application/x-subrip", "text/vtt")}
    answer = shown | {"content": shown["content"] | texts}
    return operation | {
        "description": "The answer's form is response_format's.",
        "requestBody": {"required": True, "content": bodies},
        "responses": operation["responses"] | {"200": answer},
    }


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
        "/live": {"get": _get("Health: 200 as long as the process answers, whatever it does", "Live")},
        "/tokenize": {"post": _tokenization("The token ids of a text or a chat", "TokenizeRequest", "Tokens")},
        "/detokenize": {"post": _tokenization("The text of token ids", "DetokenizeRequest", "DetokenizedText")},
        "/version": {"get": _get("The engine's version, and this server's", "Version", 503)},
        "/load": {"get": _get("How many requests run or wait to", "Load")},
        "/kv_event_sources": {"get": _get("What publishes the engine's cache events", "KvEventSources", 503)},
        "/tokenizer_info": {"get": _get("The tokenizer's configuration, where it is shown", "TokenizerInfo", 404, 503)},
        **operators.paths(),
        "/openapi.json": {"get": _get("This document", "", 503)},
    }
    health = paths["/ping"]["get"]
    health["responses"]["503"] = answered(STATUSES[503], "NotReady")
    del health["responses"]["401"]
    health["security"] = []  # it asks for no key
    paths["/health"] = paths["/ping"]
    return paths


def _door(dialects: Json, deployment: Deployment, *, has_sessions: bool) -> Json:
    """A door for every one of these dialects."""
    kinds = dialects | ({"session": ("requestType",)} if has_sessions else {})
    schemas = [requests.at_any_door(f"{name.capitalize()}Request", keys, deployment) for name, keys in kinds.items()]
    bodies: Json = {
        "application/json": {"schema": {"anyOf": schemas}},
        "text/plain": {"schema": {"type": "string", "minLength": 1, "description": "the same as inputs"}},
    }
    if "chat" in dialects:
        of_version = {"required": ["anthropic_version"], "properties": {"anthropic_version": TEXT}}
        schemas.append({"allOf": [ref("AnthropicRequest"), of_version]})
    summary = f"{', '.join(dialects)}: which one, its key says"
    names = (*dialects, "anthropic") if "chat" in dialects else tuple(dialects)
    return _operation(summary, names, bodies, has_sessions=has_sessions)


def _inference(summary: str, dialect: str, *, has_sessions: bool) -> Json:
    bodies = {"application/json": {"schema": ref(f"{dialect.capitalize()}Request")}}
    return _operation(summary, (dialect,), bodies, has_sessions=has_sessions)


def _batch() -> Json:
    bodies = {"application/json": {"schema": ref("BatchRequest")}}
    shown = _operation("Several conversations, a choice for each", ("chat",), bodies, has_sessions=False)
    whole = shown["responses"]["200"]["content"]
    shown["responses"]["200"]["content"] = {"application/json": whole["application/json"]}
    return shown


def _tokenization(summary: str, body: str, answer: str) -> Json:
    bodies = {"application/json": {"schema": ref(body)}}
    shown = _operation(summary, ("tokenization",), bodies, has_sessions=False)
    shown["responses"]["200"]["content"]["application/json"]["schema"] = ref(answer)
    return shown


def _operation(summary: str, dialects: tuple[str, ...], bodies: Json, *, has_sessions: bool) -> Json:
    errors = (OPENAI, LMI) if "standard" in dialects else (OPENAI,)
    if "anthropic" in dialects:
        errors = (*errors, ANTHROPIC) if len(dialects) > 1 else (ANTHROPIC,)
    headers = HEAD_OUT | WARNING_OUT | METERING_OUT | (SESSION_OUT if has_sessions else {})
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
