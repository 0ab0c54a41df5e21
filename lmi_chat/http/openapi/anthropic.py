"""Describe the bodies of requests in Anthropic's form as JSON Schema, and their paths."""

from lmi_chat.codec.json_text import Json
from lmi_chat.dialects.anthropic import tools
from lmi_chat.dialects.anthropic.body import (
    MessagesBody,
    OutputOptions,
    RequestMetadata,
    ThinkingOptions,
    ToolChoiceOptions,
)
from lmi_chat.dialects.chat.tools import NAME_CHARS, NAME_PATTERN
from lmi_chat.dialects.deployment import Deployment
from lmi_chat.http.openapi.requests import NULL, shared, table
from lmi_chat.http.openapi.shapes import BOOLEAN, TEXT, array, nullable, record

FREE: Json = {}
MARKS = {"cache_control": FREE, "citations": FREE}

TYPED: Json = {"not": {"properties": {"type": {"type": "null"}}}}
"""An object whose type is not null."""


def of_anthropic(deployment: Deployment) -> Json:
    """A message in Anthropic's form."""
    is_strict, limits = deployment.is_strict, deployment.limits
    text = record({"type": {"const": "text"}, "text": TEXT, **MARKS}, ["type", "text"], is_closed=is_strict)
    said: Json = {"anyOf": [TEXT, array(text)]}
    user = [text, _result(text, deployment), *_images(deployment)]
    thought = record({"type": {"const": "thinking"}, "thinking": TEXT}, ["type", "thinking"])
    call = {"type": {"const": "tool_use"}, "id": TEXT, "name": TEXT, "input": {"type": "object"}, **MARKS}
    assistant = [
        text,
        thought,
        record({"type": {"const": "redacted_thinking"}}, ["type"]),
        record(call, ["type", "id", "name", "input"]),
    ]
    turns = [
        record({"role": {"const": role}, "content": content}, ["role", "content"], is_closed=is_strict)
        for role, content in (
            ("user", {"anyOf": [TEXT, array({"anyOf": user})]}),
            ("assistant", {"anyOf": [TEXT, array({"anyOf": assistant})]}),
            ("system", said),
        )
    ]
    insides = {name: one for name, one in shared(deployment).items() if name in ("model", "adapters", "cache_salt")}
    insides |= {
        "messages": array({"anyOf": turns}) | {"minItems": 1, "maxItems": limits.max_messages},
        "system": {"anyOf": [TEXT, array(text), NULL]},
        "tools": {"anyOf": [array(_tool(is_strict=is_strict)) | {"maxItems": limits.max_tools}, NULL]},
        "tool_choice": {"anyOf": [_inside(ToolChoiceOptions, deployment) | {"required": ["type"]}, NULL]},
        "thinking": {"anyOf": [_inside(ThinkingOptions, deployment) | {"required": ["type"]} | TYPED, NULL]},
        "output_config": {"anyOf": [_inside(OutputOptions, deployment), NULL]},
        "metadata": {"anyOf": [_inside(RequestMetadata, deployment), NULL]},
    }
    rows = table(MessagesBody, deployment, insides)
    rows["max_tokens"] = rows["max_tokens"] | {"type": "integer"}
    return record(rows, ["messages", "max_tokens"], is_closed=is_strict)


def _inside(kind: type, deployment: Deployment) -> Json:
    return record(table(kind, deployment, {}), is_closed=deployment.is_strict)


def _images(deployment: Deployment) -> list[Json]:
    """An image, where the model takes any."""
    if deployment.media is None or not deployment.media.most("image"):
        return []
    inline = record({"type": {"const": "base64"}, "media_type": TEXT, "data": TEXT}, ["type", "media_type", "data"])
    named = record({"type": {"const": "url"}, "url": TEXT}, ["type", "url"])
    return [record({"type": {"const": "image"}, "source": {"anyOf": [inline, named]}, **MARKS}, ["type", "source"])]


def _result(text: Json, deployment: Deployment) -> Json:
    content: Json = {"anyOf": [TEXT, array({"anyOf": [text, *_images(deployment)]}), NULL]}
    given = {"type": {"const": "tool_result"}, "tool_use_id": TEXT, "content": content, "is_error": nullable(BOOLEAN)}
    return record({**given, **MARKS}, ["type", "tool_use_id"])


def _tool(*, is_strict: bool) -> Json:
    properties: Json = {
        "type": {"enum": [tools.CUSTOM, None]},
        "name": {"type": "string", "minLength": 1, "maxLength": NAME_CHARS, "pattern": NAME_PATTERN},
        "description": nullable(TEXT),
        "input_schema": {"type": "object", "description": "a JSON Schema"},
        "strict": nullable(BOOLEAN),
        "cache_control": FREE,
        **dict.fromkeys(tools.HINTS, FREE),
    }
    return record(properties, ["name", "input_schema"], is_closed=is_strict)
