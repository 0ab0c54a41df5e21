"""Read the items of an input as the messages of a chat, which its template and its checks know.

Shapes: OpenAI API reference, "Responses": messages, function_call, custom_tool_call, their outputs, reasoning.
"""

import os
from collections.abc import Mapping, Sequence
from typing import Any

from lmi_chat.codec.json_text import Json
from lmi_chat.dialects.chat import media_parts
from lmi_chat.dialects.chat.messages import Message, check_message
from lmi_chat.dialects.reader import BodyReader
from lmi_chat.dialects.responses.custom_input import as_arguments
from lmi_chat.dialects.responses.tools import flat_name
from lmi_chat.errors import PROBLEMS_MOST
from lmi_chat.text import echo

ROLES = ("user", "assistant", "system", "developer")
PREFIX = {
    "message": "msg",
    "function_call": "fc",
    "function_call_output": "fco",
    "custom_tool_call": "ctc",
    "custom_tool_call_output": "ctco",
    "reasoning": "rs",
}
SAYS_NOTHING = ("annotations", "logprobs")
"""Keys of a text that an answer has and a template does not see."""
UNKEPT = frozenset({"encrypted_content", "status"})
"""Keys of an item that are not kept: the first cannot be read, and what is kept is complete."""
OUTPUT_KEYS = ("type", "id", "status", "call_id", "output", "name", "namespace")
KEYS: Mapping[str, tuple[str, ...]] = {
    "message": ("type", "id", "status", "role", "content", "phase"),
    "function_call": ("type", "id", "status", "call_id", "name", "arguments", "namespace"),
    "function_call_output": OUTPUT_KEYS,
    "custom_tool_call": ("type", "id", "status", "call_id", "name", "input", "namespace"),
    "custom_tool_call_output": OUTPUT_KEYS,
    "reasoning": ("type", "id", "status", "summary", "content", "encrypted_content"),
}
KINDS = tuple(KEYS)
SAID = ("content", "reasoning", "tool_calls")
THOUGHTS = "thoughts"
"""Where the reasoning of one turn is collected: joined one by one, thousands of items would take seconds."""
MAY_BE_EMPTY = ("arguments", "input")
TEXTS = ("summary_text", "reasoning_text")


def read_items(value: object, path: str, reader: BodyReader) -> tuple[list[Json], list[Message]]:
    """The items of an input, each with an id, and each as a message; what is wrong is noted in `reader`.

    Messages of one turn of the assistant stand apart: `as_chat` joins them.
    """
    if isinstance(value, str):
        value = [{"role": "user", "content": value}]
    if not isinstance(value, list):
        reader.add_problem(path, f"must be a string or an array of items, got {echo(value)}")
        return [], []
    most = reader.deployment.limits.max_messages
    if not value or len(value) > most:
        reader.add_problem(path, f"must have at least 1 and at most {most} items, got {len(value)}")
        return [], []
    items, messages = [], []
    for place, item in enumerate(value):
        if len(reader.problems) >= PROBLEMS_MOST:
            break
        where = f"{path}[{place}]"
        told = len(reader.problems)
        messages.append(_read_item(item, where, reader))
        if isinstance(item, dict) and len(reader.problems) == told:
            items.append(_named(item))
    return items, messages


def _named(item: Json) -> Json:
    """An item as it is kept: with a type, a status and an id, its text in parts, and nothing that no prompt needs."""
    kind = item.get("type") or "message"
    own = item.get("id")
    item_id = own if isinstance(own, str) and own else f"{PREFIX[kind]}_{os.urandom(12).hex()}"
    given = {name: item[name] for name in KEYS[kind] if item.get(name) is not None and name not in UNKEPT}
    kept: Json = {"id": item_id, "type": kind, "status": "completed"} | given
    kept["id"], kept["type"] = item_id, kind
    if isinstance(content := item.get("content"), list):
        kept["content"] = [_bare(part) for part in content]
    if isinstance(content, str):
        is_own = item.get("role") == "assistant"
        text: Json = {"type": "output_text", "text": content, "annotations": []} if is_own else {}
        kept["content"] = [text or {"type": "input_text", "text": content}]
    return kept


def _bare(part: object) -> object:
    """A part without what a template does not see."""
    if not isinstance(part, dict):
        return part
    bare: Json = {name: value for name, value in part.items() if name not in SAYS_NOTHING}
    return bare | {"annotations": []} if part.get("type") == "output_text" else bare


def with_own_ids(items: Sequence[Json]) -> list[Json]:
    """The items of a conversation; one whose id another has before it gets a new one: pages go on after an id."""
    seen: set[str] = set()
    told = []
    for item in items:
        again = item["id"] in seen
        told.append(item | {"id": f"{PREFIX[item['type']]}_{os.urandom(12).hex()}"} if again else item)
        seen.add(item["id"])
    return told


def _read_item(item: object, path: str, reader: BodyReader) -> Message:
    if not isinstance(item, dict):
        reader.add_problem(path, f'must be an object such as {{"role":"user","content":"…"}}, got {echo(item)}')
        return {}
    kind = "message" if item.get("type") is None and "role" in item else item.get("type")
    if kind == "item_reference" or (kind is None and "id" in item):
        text = "must be an item, not a reference to one; previous_response_id goes on with a stored response"
        reader.add_problem(f"{path}.type", text)
        return {}
    if kind not in KINDS:
        reader.add_problem(f"{path}.type", f"must be one of {', '.join(KINDS)}, got {echo(kind)}")
        return {}
    reader.check_keys(item, KEYS[kind], path)
    match kind:
        case "message":
            return _read_message(item, path, reader)
        case "function_call" | "custom_tool_call":
            return _read_call(item, path, reader)
        case "function_call_output" | "custom_tool_call_output":
            return _read_output(item, path, reader)
        case _:
            return _read_reasoning(item, path, reader)


def _read_message(item: Json, path: str, reader: BodyReader) -> Message:
    role = item.get("role")
    if role not in ROLES:
        reader.add_problem(f"{path}.role", f"must be one of {', '.join(ROLES)}, got {echo(role)}")
        return {}
    return check_message({"role": role, "content": _content(item.get("content"))}, path, reader)


def _content(value: object) -> object:
    """A content as a chat has it: one text is a string, as it is there."""
    if not isinstance(value, list):
        return value
    parts = [
        {name: each for name, each in part.items() if name not in SAYS_NOTHING} if isinstance(part, dict) else part
        for part in value
    ]
    if len(parts) == 1 and isinstance(parts[0], dict) and parts[0].keys() == {"type", "text"}:
        one = parts[0]
        if one["type"] in ("input_text", "output_text") and isinstance(one["text"], str):
            return one["text"]
    return parts


def _text(item: Json, name: str, path: str, reader: BodyReader, *, default: str | None = None) -> str:
    value = item.get(name, default)
    if isinstance(value, str) and (value or name in MAY_BE_EMPTY):
        return value
    reader.add_problem(f"{path}.{name}", f"must be a string that is not empty, got {echo(value)}")
    return ""


def _read_call(item: Json, path: str, reader: BodyReader) -> Message:
    call_id, name = _text(item, "call_id", path, reader), _text(item, "name", path, reader)
    if item.get("namespace") is not None:
        name = flat_name(_text(item, "namespace", path, reader), name)
    is_custom = item["type"] == "custom_tool_call"
    told = _text(item, "input" if is_custom else "arguments", path, reader)
    function = {"name": name, "arguments": as_arguments(told) if is_custom else told}
    return {"role": "assistant", "tool_calls": [{"id": call_id, "type": "function", "function": function}]}


def _read_output(item: Json, path: str, reader: BodyReader) -> Message:
    call_id, output = _text(item, "call_id", path, reader), item.get("output")
    if not isinstance(output, str | list):
        reader.add_problem(f"{path}.output", f"must be a string or an array of parts, got {echo(output)}")
        return {}
    content = _content(output) or ""
    return check_message({"role": "tool", "tool_call_id": call_id, "content": content}, path, reader, "output")


def _read_reasoning(item: Json, path: str, reader: BodyReader) -> Message:
    """What was thought, or without it its summary; of an encrypted one nothing can be known."""
    texts: dict[str, list[str]] = {}
    for name in ("content", "summary"):
        parts = [] if item.get(name) is None else item[name]
        if not isinstance(parts, list):
            reader.add_problem(f"{path}.{name}", f"must be an array of parts, got {echo(parts)}")
            continue
        for place, part in enumerate(parts):
            if isinstance(part, dict) and part.get("type") in TEXTS and isinstance(part.get("text"), str):
                texts.setdefault(name, []).append(part["text"])
            else:
                text = f'must be an object such as {{"type":"reasoning_text","text":"…"}}, got {echo(part)}'
                reader.add_problem(f"{path}.{name}[{place}]", text)
                break
    told = "\n".join(texts.get("content") or texts.get("summary") or [])
    return {"role": "assistant", "reasoning": told}


def as_chat(messages: Sequence[Message], path: str, reader: BodyReader) -> list[Message]:
    """The messages of a chat: what one turn of the assistant thought, said and called is one message.

    An output without its call, and more media than one chat may have, are noted in `reader`.
    """
    chat: list[dict[str, Any]] = []
    called: set[str] = set()
    for message in messages:
        called |= {call["id"] for call in message.get("tool_calls", ())}
        if message.get("role") == "tool" and message["tool_call_id"] and message["tool_call_id"] not in called:
            text = f"has an output for call {echo(message['tool_call_id'])}, and no call before it has that id"
            reader.add_problem(path, text)
        if chat and _is_same_turn(chat[-1], message):
            _join(chat[-1], message)
        else:
            chat.append(dict(message))
    joined = [_closed(message) for message in chat if message.get("role") != "assistant" or any(map(message.get, SAID))]
    most = reader.deployment.limits.max_messages
    if len(joined) > most:
        reader.add_problem(
            path, f"must have at most {most} messages with the conversation before it, got {len(joined)}"
        )
    if reader.deployment.media is not None:
        media_parts.check_counts([message.get("content") for message in joined], path, reader)
    return joined


def _is_same_turn(last: Message, message: Message) -> bool:
    """Whether an assistant goes on: it thinks, then speaks, then calls."""
    if last.get("role") != "assistant" or message.get("role") != "assistant":
        return False
    if "tool_calls" in message:
        return True
    return "tool_calls" not in last and "content" not in last


def _join(last: dict[str, Any], message: Message) -> None:
    for name, value in message.items():
        if name == "tool_calls":
            last[name] = [*last.get(name, ()), *value]
        elif name == "reasoning" and last.get(name):
            last.setdefault(THOUGHTS, [last[name]]).append(value)
        elif name != "role":
            last[name] = value


def _closed(message: dict[str, Any]) -> Message:
    """A message as checked ones are: of an assistant that says nothing the content is null."""
    if message.get("role") == "assistant":
        message["reasoning"] = "\n".join(message.pop(THOUGHTS, [message.get("reasoning", "")]))
        message.setdefault("content", None)
        if not message.get("reasoning"):
            message.pop("reasoning", None)
    return message
