"""The OpenAPI 3.1 document of this server, made from the same tables that requests are checked against."""

from collections.abc import Mapping

from lmi_chat import __version__
from lmi_chat import fields as tables
from lmi_chat.bounds import Field, Limits
from lmi_chat.dialects import stored
from lmi_chat.dialects.messages import ROLES
from lmi_chat.wire import Json

JSON_KINDS = {"integer": "integer", "number": "number", "boolean": "boolean", "string": "string", "object": "object"}
METADATA: Json = {
    "type": ["object", "null"],
    "maxProperties": tables.PAIRS_MOST,
    "propertyNames": {"maxLength": tables.KEY_CHARS},
    "additionalProperties": {"type": "string", "maxLength": tables.VALUE_CHARS},
}
METADATA_REF = "#/components/schemas/Metadata"
ID: Json = {"name": "id", "in": "path", "required": True, "schema": {"type": "string"}}
LIMIT = {"type": "integer", "minimum": 1, "maximum": stored.LIMIT_MOST, "default": stored.LIMIT_DEFAULT}
PAGING: list[Json] = [
    {"name": "after", "in": "query", "schema": {"type": "string"}},
    {"name": "limit", "in": "query", "schema": LIMIT},
    {"name": "order", "in": "query", "schema": {"enum": list(stored.ORDERS), "default": stored.ORDERS[0]}},
]
FILTERS: list[Json] = [
    {"name": "model", "in": "query", "schema": {"type": "string"}},
    {"name": "metadata", "in": "query", "style": "deepObject", "explode": True, "schema": METADATA},
]
STATUSES = {
    400: "A field or the body is wrong; the message names it, its bound and the value",
    404: "No such model or path",
    405: "Not a method of this path",
    408: "The request came too slowly",
    413: "The body is larger than the limit",
    415: "A content type or encoding that is not read",
    431: "The head is larger than the limit",
    503: "Loading, full, draining or without an engine; see Retry-After",
    504: "Not complete within the deadline",
}


def document(limits: Limits) -> Json:
    """The whole document, with the deployment's own bounds."""
    chat_schema = _object(_chat(limits), ["messages"])
    standard_schema = _object(_standard(limits), ["inputs"])
    return {
        "openapi": "3.1.0",
        "info": {"title": "lmi-chat", "version": __version__, "license": {"name": "Apache-2.0"}},
        "paths": {
            "/invocations": {
                "post": _operation(
                    "A chat, a standard request or a completion, by its key",
                    ["ChatRequest", "StandardRequest", "CompletionRequest"],
                )
            },
            "/v1/chat/completions": {
                "post": _operation("Chat completions", ["ChatRequest"]),
                "get": _stored("Stored completions", *PAGING, *FILTERS),
            },
            "/v1/completions": {"post": _operation("Completions", ["CompletionRequest"])},
            "/v1/chat/completions/{id}": {
                "get": _stored("A stored completion", ID),
                "post": _stored("Replace its metadata", ID) | {"requestBody": _body([{"$ref": METADATA_REF}])},
                "delete": _stored("Delete it", ID),
            },
            "/v1/chat/completions/{id}/messages": {"get": _stored("What was asked in it", ID, *PAGING)},
            "/v1/models": {"get": _get("The served model")},
            "/ping": {"get": _get("Health: 200 when requests are taken, 503 with what goes on otherwise", 503)},
            "/metrics": {"get": _get("Figures for Prometheus", kind="text/plain")},
        },
        "components": {
            "schemas": {
                "ChatRequest": chat_schema,
                "StandardRequest": standard_schema,
                "CompletionRequest": _object(_completion(limits), ["prompt"]),
                "Metadata": _object({"metadata": METADATA}, ["metadata"]),
                "Error": {"type": "object", "required": ["error"], "properties": {"error": {}}},
            }
        },
    }


def schema(field: Field, limits: Limits) -> Json:
    """One parameter as JSON Schema."""
    shown: Json = {"description": field.meaning} if field.meaning else {}
    if field.default is not None:
        shown["default"] = field.default
    low, high = field.low, field.top(limits)
    match field.kind:
        case "strings":
            text = {"type": "string", "minLength": 1, "maxLength": limits.max_stop_chars}
            shown["anyOf"] = [text, {"type": "array", "items": text, "maxItems": high}, {"type": "null"}]
        case "token ids":
            ids = {"type": "array", "items": {"type": "integer", "minimum": 0}, "maxItems": high}
            shown["anyOf"] = [ids, {"type": "null"}]
        case "bias":
            bias = {"type": "number", "minimum": low, "maximum": high}
            keys = {"pattern": r"^[0-9]{1,9}$"}
            shown |= {"type": ["object", "null"], "additionalProperties": bias, "propertyNames": keys}
            shown["maxProperties"] = limits.max_logit_bias
        case "word":
            shown["enum"] = [*field.words, None]
        case "refused":
            shown["enum"] = [*field.nothing, None]
        case "structure":
            pass
        case kind:
            shown["type"] = [JSON_KINDS[kind], "null"]
    if field.kind == "string":
        bounds = {"minLength": low, "maxLength": high}
        shown |= {name: bound for name, bound in bounds.items() if bound is not None}
    if field.kind in {"integer", "number"}:
        bounds = {("exclusiveMinimum" if field.is_above_low else "minimum"): low, "maximum": high}
        shown |= {name: bound for name, bound in bounds.items() if bound is not None}
    return shown


def _table(fields: Mapping[str, Field], limits: Limits) -> Json:
    return {name: schema(field, limits) for name, field in fields.items()}


def _object(properties: Json, required: list[str]) -> Json:
    return {"type": "object", "properties": properties, "required": required}


def _chat(limits: Limits) -> Json:
    part = _object({"type": {"const": "text"}, "text": {"type": "string"}}, ["type", "text"])
    content = {"anyOf": [{"type": "string"}, {"type": "array", "items": part, "minItems": 1}]}
    message = _object({"role": {"enum": list(ROLES)}, "content": content}, ["role", "content"])
    shown = _table(tables.CHAT, limits)
    shown["messages"] |= {"type": "array", "items": message, "minItems": 1, "maxItems": limits.max_messages}
    shown["stream_options"] |= _options(limits)
    shown["metadata"] |= METADATA
    shown["modalities"] |= {"enum": [["text"], None]}
    shown["audio"] |= {"type": "null"}
    return shown


def _options(limits: Limits) -> Json:
    return {"anyOf": [_object(_table(tables.USAGE, limits), []), {"type": "null"}]}


def _completion(limits: Limits) -> Json:
    ids = {"type": "array", "items": {"type": "integer", "minimum": 0}, "minItems": 1}
    one: list[Json] = [{"type": "string", "minLength": 1}, ids]
    several = {"type": "array", "items": {"anyOf": one}, "minItems": 1, "maxItems": limits.max_prompts}
    shown = _table(tables.COMPLETION, limits)
    shown["prompt"] |= {"anyOf": [*one, several]}
    shown["stream_options"] |= _options(limits)
    return shown


def _standard(limits: Limits) -> Json:
    prompt = {"type": "string", "minLength": 1}
    several = {"type": "array", "items": prompt, "minItems": 1, "maxItems": limits.max_prompts}
    shown = _table(tables.STANDARD, limits)
    shown["inputs"] |= {"anyOf": [prompt, several]}
    shown["parameters"] |= {"type": ["object", "null"], "properties": _table(tables.PARAMETERS, limits)}
    return shown


def _operation(summary: str, names: list[str]) -> Json:
    bodies = [{"$ref": f"#/components/schemas/{name}"} for name in names]
    answers: Json = {"application/json": {}, "application/jsonlines": {}, "text/event-stream": {}}
    responses: Json = {"200": {"description": "The answer, whole or streamed", "content": answers}}
    return {
        "summary": summary,
        "requestBody": _body(bodies),
        "responses": responses | {str(status): _error(status) for status in STATUSES},
    }


def _body(schemas: list[Json]) -> Json:
    schema = schemas[0] if len(schemas) == 1 else {"anyOf": schemas}
    return {"required": True, "content": {"application/json": {"schema": schema}}}


def _stored(summary: str, *parameters: Json) -> Json:
    """An operation on stored completions; 404 also where none are stored."""
    responses: Json = {"200": {"description": summary, "content": {"application/json": {}}}}
    responses |= {str(status): _error(status) for status in (400, 404, 405, 408, 413, 431, 503)}
    return {"summary": summary, "parameters": list(parameters), "responses": responses}


def _error(status: int) -> Json:
    content = {"application/json": {"schema": {"$ref": "#/components/schemas/Error"}}}
    return {"description": STATUSES[status], "content": content}


def _get(summary: str, *others: int, kind: str = "application/json") -> Json:
    statuses = (*others, 400, 405, 408, 431, *(() if others else (503,)))
    responses: Json = {"200": {"description": summary, "content": {kind: {}}}}
    responses |= {
        str(status): _error(status) if status not in others else {"description": STATUSES[status]}
        for status in statuses
    }
    return {"summary": summary, "responses": responses}
