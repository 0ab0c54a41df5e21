"""Describe a request for a response, and the paths of responses, from the type that its dialect checks."""

from lmi_chat.codec.json_text import Json
from lmi_chat.dialects.chat import media_parts, tools
from lmi_chat.dialects.chat.stored import LIMIT_DEFAULT, LIMIT_MOST, ORDERS
from lmi_chat.dialects.deployment import Deployment
from lmi_chat.dialects.responses.body import (
    INCLUDED,
    LOGPROBS,
    OF_TOOLS,
    ReasoningOptions,
    ResponsesBody,
    StreamOptions,
    TextOptions,
)
from lmi_chat.dialects.responses.items import ROLES, TEXTS
from lmi_chat.dialects.responses.tools import BUILT_IN_PATTERN, CALLED, CUSTOM, FUNCTION, NAMESPACE
from lmi_chat.http.openapi import requests, structured_output
from lmi_chat.http.openapi.requests import NULL, streams, table, tool_rules, variables
from lmi_chat.http.openapi.shapes import BOOLEAN, TEXT, if_then, nullable, record

FILLED: Json = {"type": "string", "minLength": 1}
ID: Json = {"name": "id", "in": "path", "required": True, "schema": TEXT}
LIMIT = {"type": "integer", "minimum": 1, "maximum": LIMIT_MOST, "default": LIMIT_DEFAULT}
PAGING: list[Json] = [
    {"name": "after", "in": "query", "schema": TEXT},
    {"name": "limit", "in": "query", "schema": LIMIT},
    {"name": "order", "in": "query", "schema": {"enum": list(ORDERS), "default": "desc"}},
]
SOME_CALLED: Json = {
    "type": "array",
    "contains": {
        "anyOf": [
            record({"type": {"enum": list(CALLED)}}, ["type"]),
            record({"type": {"const": NAMESPACE}, "tools": {"type": "array", "minItems": 1}}, ["type", "tools"]),
        ]
    },
}
STREAM: Json = {"name": "stream", "in": "query", "schema": {"enum": ["false"]}}


def of_responses(deployment: Deployment) -> Json:
    """A request for a response."""
    is_strict, most = deployment.is_strict, deployment.limits.max_messages

    def inner(kind: type, **insides: Json) -> Json:
        return {"anyOf": [record(table(kind, deployment, insides), is_closed=is_strict), NULL]}

    included = {"type": "array", "items": {"enum": [*INCLUDED, *OF_TOOLS]}}
    items: Json = {"type": "array", "items": {"anyOf": _items(deployment)}, "minItems": 1, "maxItems": most}
    known = requests.shared(deployment)
    insides = {name: known[name] for name in ("model", "adapters", "cache_salt")} | {
        "input": {"anyOf": [TEXT, items]},
        "include": {"anyOf": [included, NULL]},
        "text": inner(TextOptions, format={"anyOf": [*structured_output.text_formats(is_strict=is_strict), NULL]}),
        "reasoning": inner(ReasoningOptions),
        "stream_options": inner(StreamOptions),
        "chat_template_kwargs": variables(deployment),
        **_tools(deployment),
    }
    if not deployment.reasoning_parser:
        insides["thinking_token_budget"] = {"enum": [-1, None]}
    has_logprobs = {"include": {"type": "array", "contains": {"const": LOGPROBS}}}
    rules = [
        if_then({"top_logprobs": {"minimum": 1, "type": "integer"}}, has_logprobs, is_given=True),
        {"if": streams(deployment), "then": {}, "else": {"properties": {"stream_options": NULL}}},
        *tool_rules(deployment, (tools.CHOICE,), (tools.TOOLS,), {"mode": {"const": "auto"}}, SOME_CALLED),
    ]
    rows = table(ResponsesBody, deployment, insides)
    return record(rows, ["input"], is_closed=is_strict) | {"allOf": rules}


def _items(deployment: Deployment) -> list[Json]:
    """The kinds of items."""
    is_strict = deployment.is_strict
    own: Json = {"id": {}, "status": {}}
    ignored: Json = {"annotations": {}, "logprobs": {}}
    parts = [
        record({"type": {"const": kind}, name: TEXT} | ignored, ["type", name], is_closed=is_strict)
        for kind, name in requests.PARTS.items()
    ]
    parts += [record({"type": {"enum": media_parts.types_of(deployment)}}, ["type"])] if deployment.media else []
    several: Json = {"type": "array", "items": {"anyOf": parts}}
    thought = record({"type": {"enum": list(TEXTS)}, "text": TEXT}, ["type", "text"])
    thoughts: Json = {"anyOf": [{"type": "array", "items": thought}, NULL]}
    message: Json = {
        "type": {"enum": ["message", None]},
        "role": {"enum": list(ROLES)},
        "content": {"anyOf": [TEXT, several | {"minItems": 1}]},
        "phase": {},
    }
    call: Json = {"call_id": FILLED, "name": FILLED, "namespace": {"anyOf": [FILLED, NULL]}}
    output: Json = {"call_id": FILLED, "output": {"anyOf": [TEXT, several]}, "name": {}, "namespace": {}}

    def item(kind: str, fields: Json, *needed: str) -> Json:
        return record({"type": {"const": kind}} | own | fields, ["type", *needed], is_closed=is_strict)

    return [
        record(own | message, ["role", "content"], is_closed=is_strict),
        item("function_call", call | {"arguments": TEXT}, "call_id", "name", "arguments"),
        item("custom_tool_call", call | {"input": TEXT}, "call_id", "name", "input"),
        item("function_call_output", output, "call_id", "output"),
        item("custom_tool_call_output", output, "call_id", "output"),
        item("reasoning", {"summary": thoughts, "content": thoughts, "encrypted_content": {}}),
    ]


def _tools(deployment: Deployment) -> Json:
    """What the model may call, and the choice."""
    is_strict = deployment.is_strict
    name: Json = {"type": "string", "minLength": 1, "maxLength": tools.NAME_CHARS, "pattern": tools.NAME_PATTERN}
    own: Json = {"name": name, "description": nullable(TEXT)}

    def tool(kind: str, fields: Json, *needed: str) -> Json:
        return record({"type": {"const": kind}, **own, **fields}, ["type", "name", *needed], is_closed=is_strict)

    parameters: Json = {"type": ["object", "null"], "description": "a JSON Schema"}
    free = record({"type": {"const": "text"}}, ["type"])
    called = [
        tool(FUNCTION, {"parameters": parameters, "strict": nullable(BOOLEAN)}),
        tool(CUSTOM, {"format": {"anyOf": [free, NULL]}}),
    ]
    most = {"maxItems": deployment.limits.max_tools}
    space = tool(NAMESPACE, {"tools": {"type": "array", "items": {"anyOf": called}} | most}, "tools")
    left_out = record({"type": {"type": "string", "pattern": BUILT_IN_PATTERN}}, ["type"])
    several = {"type": "array", "items": {"anyOf": [*called, space, left_out]}} | most
    kinds = {"enum": list(CALLED)}
    named = record({"type": kinds, "name": TEXT}, ["type", "name"], is_closed=is_strict)
    one = record({"type": kinds, "name": TEXT}, ["type", "name"])
    among: Json = {
        "type": {"const": tools.ALLOWED},
        "mode": {"enum": ["auto", "required"]},
        "tools": {"type": "array", "items": one, "minItems": 1},
    }
    return {
        tools.TOOLS: {"anyOf": [several, NULL]},
        tools.CHOICE: {"anyOf": [{"enum": [*tools.WORDS, None]}, named, record(among, list(among))]},
    }
