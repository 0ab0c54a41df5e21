"""Describe the bodies of requests in Anthropic's form as JSON Schema, and their paths."""

from lmi_chat.codec.json_text import Json
from lmi_chat.dialects.anthropic import messages, tools
from lmi_chat.dialects.anthropic.body import (
    MessagesBody,
    OutputOptions,
    RequestMetadata,
    ThinkingOptions,
    ToolChoiceOptions,
)
from lmi_chat.dialects.chat.tools import NAME_CHARS, NAME_PATTERN
from lmi_chat.dialects.deployment import Deployment
from lmi_chat.http.openapi.requests import NULL, shared, table, variables
from lmi_chat.http.openapi.shapes import BOOLEAN, TEXT, array, nullable, record
from lmi_chat.http.openapi.structured_output import text_formats

FREE: Json = {}
MARKS = {"cache_control": FREE, "citations": FREE}

CLEAR_AT: Json = {"enum": [messages.CLEARED, messages.KEPT, None]}
TYPED: Json = {"not": {"properties": {"type": {"type": "null"}}}}
"""An object whose type is not null."""


def of_anthropic(deployment: Deployment) -> Json:
    """A message in Anthropic's form."""
    is_strict, limits = deployment.is_strict, deployment.limits
    text = record({"type": {"const": "text"}, "text": TEXT, **MARKS}, ["type", "text"], is_closed=is_strict)
    foreign = record({"type": {"enum": [*messages.FOREIGN]}}, ["type"])
    user = [text, *_images(deployment), *_documents(text), _result(text, deployment), foreign]
    thought = record({"type": {"const": "thinking"}, "thinking": TEXT}, ["type", "thinking"])
    call = {"type": {"const": "tool_use"}, "id": TEXT, "name": TEXT, "input": {"type": "object"}, **MARKS}
    assistant = [
        text,
        thought,
        record({"type": {"enum": ["redacted_thinking", "fallback"]}}, ["type"]),
        record({"type": {"const": "compaction"}, "content": nullable(TEXT)}, ["type"]),
        record(call, ["type", "id", "name", "input"]),
        foreign,
    ]
    tool, form = _tool(is_strict=is_strict), {"anyOf": [*text_formats(is_strict=is_strict), NULL]}
    turns = [
        record({"role": {"const": role}, "content": content, **more}, ["role", "content"], is_closed=is_strict)
        for role, content, more in (
            ("user", {"anyOf": [TEXT, array({"anyOf": user})]}, {}),
            ("assistant", {"anyOf": [TEXT, array({"anyOf": assistant})]}, {}),
            ("system", {"anyOf": [TEXT, array({"anyOf": [text, *_changes(tool)]})]}, {"clear_at": CLEAR_AT}),
        )
    ]
    insides = {name: one for name, one in shared(deployment).items() if name in ("model", "adapters", "cache_salt")}
    insides |= {
        "messages": array({"anyOf": turns}) | {"minItems": 1, "maxItems": limits.max_messages},
        "system": {"anyOf": [TEXT, array(text), NULL]},
        "tools": {"anyOf": [array(tool) | {"maxItems": limits.max_tools}, NULL]},
        "tool_choice": {"anyOf": [_inside(ToolChoiceOptions, deployment) | {"required": ["type"]}, NULL]},
        "thinking": {"anyOf": [_inside(ThinkingOptions, deployment) | {"required": ["type"]} | TYPED, NULL]},
        "output_config": {"anyOf": [_inside(OutputOptions, deployment, format=form), NULL]},
        "output_format": form,
        "chat_template_kwargs": variables(deployment),
        "metadata": {"anyOf": [_inside(RequestMetadata, deployment), NULL]},
    }
    rows = table(MessagesBody, deployment, insides)
    rows["max_tokens"] = rows["max_tokens"] | {"type": "integer"}
    return record(rows, ["messages", "max_tokens"], is_closed=is_strict)


def _inside(kind: type, deployment: Deployment, **insides: Json) -> Json:
    return record(table(kind, deployment, insides), is_closed=deployment.is_strict)


def _images(deployment: Deployment) -> list[Json]:
    """An image, where the model takes any."""
    if deployment.media is None or not deployment.media.most("image"):
        return []
    inline = record({"type": {"const": "base64"}, "media_type": TEXT, "data": TEXT}, ["type", "media_type", "data"])
    named = record({"type": {"const": "url"}, "url": TEXT}, ["type", "url"])
    return [record({"type": {"const": "image"}, "source": {"anyOf": [inline, named]}, **MARKS}, ["type", "source"])]


def _documents(text: Json) -> list[Json]:
    """Documents that are text, and what a search has found."""
    said: Json = {"anyOf": [TEXT, array(text)]}
    plain = record({"type": {"const": "text"}, "data": TEXT}, ["type", "data"])
    parts = record({"type": {"const": "content"}, "content": said}, ["type", "content"])
    heads = {"title": nullable(TEXT), "context": nullable(TEXT)}
    document: Json = {"type": {"const": "document"}, "source": {"anyOf": [plain, parts]}, **heads, **MARKS}
    found: Json = {"type": {"const": "search_result"}, "title": TEXT, "source": TEXT, "content": said, **MARKS}
    return [record(document, ["type", "source"]), record(found, ["type", "title", "source", "content"])]


def _changes(tool: Json) -> list[Json]:
    """What adds a tool amid a conversation, and what takes one away."""
    named = record({"type": {"const": "tool_reference"}, "name": TEXT}, ["type", "name"])
    other = record({"type": {"enum": ["mcp_tool_reference", "mcp_toolset_reference"]}}, ["type"])
    given = record({"type": {"const": "tool_definition"}, "definition": tool}, ["type", "definition"])
    added = record({"type": {"const": messages.ADDS}, "tool": {"anyOf": [named, other, given]}}, ["type", "tool"])
    removed = record({"type": {"const": messages.REMOVES}, "tool": {"anyOf": [named, other]}}, ["type", "tool"])
    return [added, removed]


def _result(text: Json, deployment: Deployment) -> Json:
    found = record({"type": {"const": "tool_reference"}, "tool_name": TEXT}, ["type", "tool_name"])
    parts = [text, *_images(deployment), *_documents(text), found]
    content: Json = {"anyOf": [TEXT, array({"anyOf": parts}), NULL]}
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
    custom = record(properties, ["name", "input_schema"], is_closed=is_strict)
    known: Json = {"type": "string", "pattern": f"^({tools.OF_SERVER.pattern}|{tools.BUILT_IN.pattern})$"}
    return {"anyOf": [custom, record({"type": known}, ["type"])]}
