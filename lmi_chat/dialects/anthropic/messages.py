"""Write a conversation in Anthropic's form as the messages that chat templates know.

Shapes: Anthropic API reference, "Create a Message": messages, system and their blocks.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from lmi_chat.codec.json_text import Json, dump
from lmi_chat.dialects.chat import media_parts
from lmi_chat.dialects.chat.messages import Message
from lmi_chat.dialects.reader import BodyReader
from lmi_chat.errors import PROBLEMS_MOST
from lmi_chat.text import echo

MESSAGES, SYSTEM = "messages", "system"
ROLES = ("user", "assistant", "system")
BILLING = "x-anthropic-billing-header"
"""How a text in `system` begins that is for Anthropic alone; it differs each time, and no cached prefix would fit."""
MARKS = ("type", "cache_control", "citations")
OF_USER = ("text", "image", "document", "search_result", "tool_result")
OF_RESULT = ("text", "image", "document", "search_result", "tool_reference")
OF_ASSISTANT = ("text", "thinking", "redacted_thinking", "tool_use", "compaction", "fallback")
ADDS, REMOVES = "tool_addition", "tool_removal"
OF_SYSTEM = ("text", ADDS, REMOVES)
FOREIGN = (
    *("server_tool_use", "web_search_tool_result", "web_fetch_tool_result", "code_execution_tool_result"),
    *("bash_code_execution_tool_result", "text_editor_code_execution_tool_result", "tool_search_tool_result"),
    *("advisor_tool_result", "mcp_tool_use", "mcp_tool_result", "mcp_tool_listing", "container_upload"),
)
"""Blocks of tools that another server ran, in a conversation that goes on here."""
FAILED, NOTE = "Error: ", "System: "
CLEARED, KEPT = "next_user_message", "never"


class ToolChange(NamedTuple):
    """What a block `tool_addition` or `tool_removal` at `path` names as its tool, not checked yet."""

    path: str
    tool: object
    is_added: bool


@dataclass(slots=True)
class _Turn:
    """What one side says, which may stand in several messages."""

    role: str
    parts: list[Message] = field(default_factory=list)
    thoughts: list[str] = field(default_factory=list)
    calls: list[Json] = field(default_factory=list)


@dataclass(slots=True)
class _Conversation:
    """What is being read: chat messages so far, the turn that may go on, and the ids of the calls that were made.

    `last_user`: the place of the last message of the user's. `foreign`: path and type of each block that is FOREIGN.
    """

    reader: BodyReader
    last_user: int = -1
    chat: list[Json] = field(default_factory=list)
    turn: _Turn | None = None
    called: set[str] = field(default_factory=set)
    changes: list[ToolChange] = field(default_factory=list)
    foreign: list[tuple[str, str]] = field(default_factory=list)
    is_moved: bool = False

    def append(self, message: Json) -> None:
        """Add a message that none goes on with."""
        self.end_turn()
        self.chat.append(message)

    def end_turn(self) -> None:
        """Write the open turn as a message, once: joined block by block, thousands would take seconds."""
        if self.turn is None:
            return
        turn, self.turn = self.turn, None
        message: Json = {"role": turn.role, "content": _plain(turn.parts) if turn.parts else None}
        if reasoning := "".join(turn.thoughts):
            message["reasoning"] = reasoning
        if turn.calls:
            message["tool_calls"] = turn.calls
        self.chat.append(message)


def read_messages(body: Json, reader: BodyReader) -> tuple[Sequence[Message], Sequence[ToolChange]]:
    """A body's system and messages as chat messages, and what they change in the tools; problems go to `reader`."""
    given, most = body.get(MESSAGES), reader.deployment.limits.max_messages
    talk = _Conversation(reader)
    if (system := _read_system(body.get(SYSTEM), SYSTEM, ("text",), talk)) is not None:
        talk.append({"role": "system", "content": system})
    if not isinstance(given, list):
        reader.add_problem(MESSAGES, f"must be an array of messages, got {echo(given)}")
    elif not given or len(given) > most:
        reader.add_problem(MESSAGES, f"must have at least 1 and at most {most} messages, got {len(given)}")
    else:
        users = (place for place in range(len(given) - 1, -1, -1) if _role(given[place]) == "user")
        talk.last_user = next(users, -1)
        for place, message in enumerate(given):
            if len(reader.problems) >= PROBLEMS_MOST:
                break
            _read_message(message, place, talk)
    talk.end_turn()
    if talk.foreign:
        (first, kind), *others = talk.foreign
        more = f", and so are {len(others)} more" if others else ""
        reader.warnings.append(f"{first} is ignored{more}: {kind} is of a tool that another server ran")
    if not reader.problems and all(message["role"] == "system" for message in talk.chat):
        reader.add_problem(MESSAGES, "must have a message that says something")
    media_parts.check_counts([message.get("content") for message in talk.chat], MESSAGES, reader)
    return talk.chat, talk.changes


def is_prefilled(chat: Sequence[Message]) -> bool:
    """Whether the answer goes on with the last message."""
    return bool(chat) and chat[-1]["role"] == "assistant" and not chat[-1].get("tool_calls")


def _role(message: object) -> object:
    return message.get("role") if isinstance(message, dict) else None


def _read_system(value: object, path: str, kinds: Sequence[str], talk: _Conversation) -> str | Sequence[Message] | None:
    reader = talk.reader
    if value in (None, "", []):
        return None
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        reader.add_problem(path, f"must be a string or an array of texts, got {echo(value)}")
        return None
    parts = []
    for block, place in _blocks(value, path, kinds, talk):
        if block["type"] != "text":
            talk.changes.append(ToolChange(place, block.get("tool"), block["type"] == ADDS))
        elif (part := _text(block, place, reader)) and not part["text"].startswith(BILLING):
            parts.append(part)
    return _plain(parts) or None


def _read_message(message: object, place: int, talk: _Conversation) -> None:
    reader, path = talk.reader, f"{MESSAGES}[{place}]"
    if not isinstance(message, dict):
        reader.add_problem(path, f"must be an object with role and content, got {echo(message)}")
        return
    role, content = message.get("role"), message.get("content")
    reader.check_keys(message, ("role", "content", *(("clear_at",) if role == "system" else ())), path)
    if role not in ROLES:
        reader.add_problem(f"{path}.role", f"must be one of {', '.join(ROLES)}, got {echo(role)}")
    elif role == "system":
        _read_note(message, place, talk)
    elif isinstance(content, str):
        _add(role, [{"type": "text", "text": content}], talk)
    elif not isinstance(content, list):
        reader.add_problem(f"{path}.content", f"must be a string or an array of blocks, got {echo(content)}")
    elif role == "user":
        _read_user(content, f"{path}.content", talk)
    else:
        _read_assistant(content, f"{path}.content", talk)


def _read_note(message: Json, place: int, talk: _Conversation) -> None:
    """A message of the system's amid the others, or one that is not shown any more."""
    reader, path = talk.reader, f"{MESSAGES}[{place}]"
    text = _read_system(message.get("content"), f"{path}.content", OF_SYSTEM, talk)
    if (until := message.get("clear_at")) not in (None, CLEARED, KEPT):
        reader.add_problem(f"{path}.clear_at", f"must be one of {CLEARED}, {KEPT}, got {echo(until)}")
    if text is None or (until == CLEARED and talk.last_user > place):
        return
    if reader.deployment.template.takes_later_system or not (talk.chat or talk.turn):
        talk.append({"role": "system", "content": text})
        return
    # At the head it would change all that is cached after it, and stand before what it is about.
    said = text if isinstance(text, str) else "\n".join(part["text"] for part in text)
    _add("user", [{"type": "text", "text": f"{NOTE}{said}"}], talk)
    if not talk.is_moved:
        talk.is_moved = True
        where = "stands in the user's turn: the model's chat template takes it at the beginning alone"
        reader.warnings.append(f"{path}.role system {where}")


def _blocks(
    content: Sequence[object], path: str, kinds: Sequence[str], talk: _Conversation
) -> Iterator[tuple[Json, str]]:
    """The blocks of an array that are of these kinds, each with its path; a turn's FOREIGN ones are noted."""
    reader, are_said = talk.reader, kinds in (OF_USER, OF_ASSISTANT)
    for place, block in enumerate(content):
        where = f"{path}[{place}]"
        if len(reader.problems) >= PROBLEMS_MOST:
            return
        if not isinstance(block, dict):
            reader.add_problem(where, f'must be an object such as {{"type":"text","text":"…"}}, got {echo(block)}')
        elif are_said and block.get("type") in FOREIGN:
            talk.foreign.append((where, str(block["type"])))
        elif block.get("type") not in kinds:
            text = f"must be {'one of ' if len(kinds) > 1 else ''}{', '.join(kinds)}, got {echo(block.get('type'))}"
            reader.add_problem(f"{where}.type", text)
        else:
            yield block, where


def _read_user(content: Sequence[object], path: str, talk: _Conversation) -> None:
    """Results of tools become messages of their own; what images they have follows them."""
    parts: list[Message] = []
    for block, where in _blocks(content, path, OF_USER, talk):
        if block["type"] != "tool_result":
            parts += filter(None, [_part(block, where, talk.reader)])
            continue
        _add("user", parts, talk)
        said = _read_result(block, where, talk)
        texts = [part for part in said if part["type"] == "text"]
        text = (FAILED if block.get("is_error") else "") + _joined(texts)
        result = {"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": text}
        talk.append(result)
        parts = [part for part in said if part["type"] != "text"]
    _add("user", parts, talk)


def _read_result(block: Json, path: str, talk: _Conversation) -> Sequence[Message]:
    reader = talk.reader
    reader.check_keys(block, (*MARKS, "tool_use_id", "content", "is_error"), path)
    if not isinstance(call := block.get("tool_use_id"), str) or call not in talk.called:
        text = f"must be the id of a tool_use block in an earlier message, got {echo(call)}"
        reader.add_problem(f"{path}.tool_use_id", text)
    if not isinstance(block.get("is_error"), bool | None):
        reader.add_problem(f"{path}.is_error", f"must be true or false, got {echo(block['is_error'])}")
    content = block.get("content")
    if content is None:
        return []
    if isinstance(content, str):
        return [{"type": "text", "text": content}]
    if not isinstance(content, list):
        reader.add_problem(f"{path}.content", f"must be a string or an array of blocks, got {echo(content)}")
        return []
    found = _blocks(content, f"{path}.content", OF_RESULT, talk)
    return [part for one, where in found if (part := _part(one, where, reader))]


def _read_assistant(content: Sequence[object], path: str, talk: _Conversation) -> None:
    parts: list[Message] = []
    calls: list[Json] = []
    thoughts: list[str] = []
    for block, where in _blocks(content, path, OF_ASSISTANT, talk):
        match block["type"]:
            case "text":
                parts += filter(None, [_text(block, where, talk.reader)])
            case "compaction" if block.get("content") is not None:
                parts.append({"type": "text", "text": _string(block, "content", where, talk.reader)})
            case "thinking":
                talk.reader.check_keys(block, (*MARKS, "thinking", "signature"), where)
                thoughts.append(_string(block, "thinking", where, talk.reader))
            case "tool_use":
                calls.append(_read_call(block, where, talk))
    _add("assistant", parts, talk, calls=calls, reasoning="".join(thoughts))


def _read_call(block: Json, path: str, talk: _Conversation) -> Json:
    reader = talk.reader
    reader.check_keys(block, (*MARKS, "id", "name", "input", "caller"), path)
    name, call = (_string(block, key, path, reader) for key in ("name", "id"))
    if not isinstance(given := block.get("input"), dict):
        reader.add_problem(f"{path}.input", f"must be an object, got {echo(given)}")
    talk.called.add(call)
    return {"id": call, "type": "function", "function": {"name": name, "arguments": dump(given).decode()}}


def _add(
    role: str, parts: Sequence[Message], talk: _Conversation, *, calls: Sequence[Json] = (), reasoning: str = ""
) -> None:
    """Add a message, or go on with the last one of the same role: Anthropic's turns may follow their like."""
    if not (parts or calls or reasoning):
        return
    if talk.turn is None or talk.turn.role != role:
        talk.end_turn()
        talk.turn = _Turn(role)
    talk.turn.parts += parts
    talk.turn.calls += calls
    talk.turn.thoughts.append(reasoning)


def _plain(parts: Sequence[Message]) -> str | Sequence[Message]:
    """A single text is a message's whole content."""
    if not parts:
        return ""
    return str(parts[0]["text"]) if len(parts) == 1 and parts[0]["type"] == "text" else parts


def _joined(parts: Sequence[Message]) -> str:
    """The texts of a result as one: not every template takes parts of a tool's."""
    return "\n".join(part["text"] for part in parts)


def _part(block: Json, path: str, reader: BodyReader) -> Message | None:
    return PARTS[block["type"]](block, path, reader)


def _text(block: Json, path: str, reader: BodyReader) -> Message | None:
    reader.check_keys(block, (*MARKS, "text"), path)
    text = _string(block, "text", path, reader)
    return {"type": "text", "text": text} if text else None


def _string(block: Json, name: str, path: str, reader: BodyReader) -> str:
    value = block.get(name)
    if isinstance(value, str):
        return value
    reader.add_problem(f"{path}.{name}", f"must be a string, got {echo(value)}")
    return ""


def _texts(value: object, path: str, reader: BodyReader) -> str:
    """The text of a string, or of an array of texts alone."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        reader.add_problem(path, f"must be a string or an array of texts, got {echo(value)}")
        return ""
    return _joined(
        [
            part
            for block, where in _blocks(value, path, ("text",), _Conversation(reader))
            if (part := _text(block, where, reader))
        ]
    )


def _document(block: Json, path: str, reader: BodyReader) -> Message | None:
    """A document that is text: what it is called, what is said of it, and its text."""
    reader.check_keys(block, (*MARKS, "source", "title", "context"), path)
    source, place = block.get("source"), f"{path}.source"
    kind = source.get("type") if isinstance(source, dict) else None
    if not isinstance(source, dict) or kind not in ("text", "content"):
        told = "must be of type text or content: of other documents, such as PDF, send the text"
        reader.add_problem(place, f"{told}; got {echo(kind if isinstance(source, dict) else source)}")
        return None
    if kind == "text":
        reader.check_keys(source, ("type", "media_type", "data"), place)
        text = _string(source, "data", place, reader)
    else:
        reader.check_keys(source, ("type", "content"), place)
        text = _texts(source.get("content"), f"{place}.content", reader)
    heads = [_string(block, name, path, reader) for name in ("title", "context") if block.get(name) is not None]
    return _lines(*heads, text)


def _search_result(block: Json, path: str, reader: BodyReader) -> Message | None:
    """What was found, with its title and where it stands."""
    reader.check_keys(block, (*MARKS, "title", "source", "content"), path)
    heads = [_string(block, name, path, reader) for name in ("title", "source")]
    return _lines(*heads, _texts(block.get("content"), f"{path}.content", reader))


def _reference(block: Json, path: str, reader: BodyReader) -> Message | None:
    """The name of a tool that was found: all tools are shown from the beginning."""
    reader.check_keys(block, (*MARKS, "tool_name"), path)
    return _lines(_string(block, "tool_name", path, reader))


def _lines(*texts: str) -> Message | None:
    text = "\n".join(filter(None, texts))
    return {"type": "text", "text": text} if text else None


def _image(block: Json, path: str, reader: BodyReader) -> Message | None:
    """An image as chat has it."""
    reader.check_keys(block, (*MARKS, "source"), path)
    source, place = block.get("source"), f"{path}.source"
    kind = source.get("type") if isinstance(source, dict) else None
    if not isinstance(source, dict) or kind not in ("base64", "url"):
        text = 'must be an object such as {"type":"base64","media_type":"image/png","data":"…"}, or of type url'
        reader.add_problem(place, f"{text}, got {echo(source)}")
        return None
    taken = reader.deployment.media
    if taken is None or not taken.most("image"):  # in the words of these blocks, not of chat's parts
        told = f"must be text: the model {reader.deployment.model} takes no images"
        reader.add_problem(f"{path}.type", f'{told}; got "image"')
        return None
    if kind == "url":
        reader.check_keys(source, ("type", "url"), place)
        url = _string(source, "url", place, reader)
    else:
        reader.check_keys(source, ("type", "media_type", "data"), place)
        media, data = (_string(source, name, place, reader) for name in ("media_type", "data"))
        url = f"data:{media};base64,{data}"
    return media_parts.check_part({"type": "image_url", "image_url": url}, path, reader) or None


PARTS: Mapping[str, Callable[[Json, str, BodyReader], Message | None]] = {
    "text": _text,
    "image": _image,
    "document": _document,
    "search_result": _search_result,
    "tool_reference": _reference,
}
