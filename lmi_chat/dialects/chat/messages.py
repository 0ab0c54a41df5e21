"""Check the messages of a chat, with their roles, contents and parts, before a template sees them."""

from collections.abc import Mapping, Sequence
from typing import Any

from lmi_chat.chat_template import joined
from lmi_chat.dialects.chat import media_parts
from lmi_chat.dialects.reader import BodyReader
from lmi_chat.errors import PROBLEMS_MOST
from lmi_chat.text import echo

ROLES = ("system", "developer", "user", "assistant", "tool", "function")
PLAIN = ("role", "content")
STRINGS = ("name", "tool_call_id", "reasoning", "reasoning_content", "refusal")
SHOWN = frozenset({*PLAIN, *STRINGS, "tool_calls"})
"""What a template may see."""
ANSWERED = ("annotations", "id", "content_parts", "provider_specific_fields", "thinking_blocks")
"""What APIs answer with beside it, and says nothing to a model."""
CALL = "function_call"
UNSERVED = (CALL, "audio")
KNOWN = (*PLAIN, *STRINGS, "tool_calls", *ANSWERED, *UNSERVED)
WORDLESS = ("tool_calls", "reasoning", "reasoning_content")
"""An assistant's turn needs no content beside one of these: it has called, or was cut while it reasoned."""
PARTS = {"text": "text", "refusal": "refusal", "input_text": "text", "output_text": "text"}
"""The kinds of parts, and the key that has their text."""
Message = Mapping[str, Any]


def check_messages(messages: object, reader: BodyReader, path: str = "messages") -> Sequence[Message]:
    """The messages at `path` as a template may see them, what is wrong noted in `reader`; empty for no usable array."""
    if not isinstance(messages, list):
        reader.add_problem(path, f"must be an array of messages, got {echo(messages)}")
        return []
    most = reader.deployment.limits.max_messages
    if not messages or len(messages) > most:
        reader.add_problem(path, f"must have at least 1 and at most {most} messages, got {len(messages)}")
        return []
    messages = _with_tools(messages, reader)
    checked = [check_message(message, f"{path}[{index}]", reader) for index, message in enumerate(messages)]
    if reader.deployment.media is not None:
        media_parts.check_counts([message.get("content") for message in checked], path, reader)
    return checked


def _with_tools(messages: list[Any], reader: BodyReader) -> list[Any]:
    """The messages with calls of functions as OpenAI's API had them before tools, in the words that templates know.

    An assistant's `function_call` becomes its `tool_calls`; what the function gave, of role `function`, a message of
    role `tool`, unless the template itself knows the role.
    """
    if not any(isinstance(one, dict) and (CALL in one or one.get("role") == "function") for one in messages):
        return messages  # nearly always
    is_known, call_id, told = reader.deployment.template.names_role("function"), "", []
    for index, one in enumerate(messages):
        message = one
        if isinstance(message, dict) and isinstance(message.get(CALL), dict):
            message = {name: value for name, value in message.items() if name != CALL}
            if message.get("role") == "assistant" and not message.get("tool_calls"):
                call_id = f"call{index:05}"  # of nine letters and digits, as Mistral's templates want it
                message["tool_calls"] = [{"id": call_id, "type": "function", "function": one[CALL]}]
        if isinstance(message, dict) and message.get("role") == "function" and not is_known:
            message = {"tool_call_id": call_id} | message | {"role": "tool"}
        told.append(message)
    return told


def check_message(message: object, path: str, reader: BodyReader, key: str = "content") -> Message:
    """One message at `path`, where `key` is what its content is called; what is wrong is noted in `reader`."""
    if not isinstance(message, dict):
        reader.add_problem(path, f"must be an object with role and content, got {echo(message)}")
        return {}
    role, content = message.get("role"), message.get("content")
    is_plain = isinstance(content, str)
    if is_plain and role in ROLES and len(message) == len(PLAIN):
        return message  # nearly all are
    message = _check_keys(message, path, reader)
    if "tool_calls" in message:
        _check_calls(message["tool_calls"], f"{path}.tool_calls", reader)
    if role not in ROLES:
        reader.add_problem(f"{path}.role", f"must be one of {', '.join(ROLES)}, got {echo(role)}")
    if is_plain:
        return message
    if isinstance(content, list) and content:
        return {**message, "content": _check_parts(content, f"{path}.{key}", reader)}
    if role == "assistant" and content is None and "refusal" in message:
        return {**message, "content": message["refusal"]}
    if not (content is None and role == "assistant" and any(message.get(name) for name in WORDLESS)):
        got = "an empty array" if content == [] else echo(content)
        reader.add_problem(f"{path}.{key}", f"must be a string or an array of at least 1 part, got {got}")
    return message


def _check_keys(message: Message, path: str, reader: BodyReader) -> Message:
    """The message without what no template is shown: unknown keys, and the empty ones that answers are full of."""
    shown, unknown = {}, []
    for name, value in message.items():
        if name in SHOWN:
            if value or name == "content":
                shown[name] = value
        elif name not in ANSWERED and (value is not None or name not in UNSERVED):
            unknown.append(name)
    for name in STRINGS:
        if (value := message.get(name)) is not None and not isinstance(value, str):
            reader.add_problem(f"{path}.{name}", f"must be a string, got {echo(value)}")
    if unknown:
        reader.note_unknown(unknown, {name: f"{path}.{name}" for name in KNOWN if name not in unknown}, f"{path}.")
    return shown


def _check_calls(calls: object, path: str, reader: BodyReader) -> None:
    """The calls of functions that an assistant has made, as an answer told them."""
    if not isinstance(calls, list):
        reader.add_problem(path, f"must be an array of calls, got {echo(calls)}")
        return
    for index, call in enumerate(calls):
        if len(reader.problems) >= PROBLEMS_MOST:
            break
        function = call.get("function") if isinstance(call, dict) else None
        if not isinstance(function, dict) or call.get("type", "function") != "function":
            text = 'must be an object such as {"id":"…","type":"function","function":{"name":"…","arguments":"{}"}}'
            reader.add_problem(f"{path}[{index}]", f"{text}, got {echo(call)}")
        elif not isinstance(call.get("id"), str | None):
            reader.add_problem(f"{path}[{index}].id", f"must be a string, got {echo(call['id'])}")
        elif not isinstance(function.get("name"), str):
            name = function.get("name")
            reader.add_problem(f"{path}[{index}].function.name", f"must be a string, got {echo(name)}")
        elif not isinstance(arguments := function.get("arguments"), str | dict | None):
            text = f"must be an object, or one as JSON text, got {echo(arguments)}"
            reader.add_problem(f"{path}[{index}].function.arguments", text)


def _check_parts(parts: Sequence[object], path: str, reader: BodyReader) -> Sequence[Message]:
    checked = []
    for index, part in enumerate(parts):
        if len(reader.problems) >= PROBLEMS_MOST:
            break
        checked.append(_check_part(part, f"{path}[{index}]", reader))
    return checked


def _check_part(part: object, path: str, reader: BodyReader) -> Message:
    """A part that is text, or a refusal, which is text too; or media, where the model takes any."""
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(part, dict) or not isinstance(kind, str):
        reader.add_problem(
            path, f'must be an object with a type, such as {{"type":"text","text":"…"}}, got {echo(part)}'
        )
        return {}
    if kind in media_parts.TYPES:
        return media_parts.check_part(part, path, reader)
    if kind not in PARTS:
        kinds = ", ".join(("text", *media_parts.types_of(reader.deployment)))
        reader.add_problem(f"{path}.type", f"must be {'one of ' if ', ' in kinds else ''}{kinds}, got {echo(kind)}")
        return {}
    name = PARTS[kind]
    text = part.get(name)
    reader.check_keys(part, ("type", name), path)
    if not isinstance(text, str):
        reader.add_problem(f"{path}.{name}", f"must be a string, got {echo(text)}")
    return {"type": "text", "text": text}


def text_of(message: Message) -> str:
    """A checked message's text, parts joined as a template without parts gets them."""
    content = message.get("content")
    return joined(content) if isinstance(content, list) else content or ""
