"""The messages of a chat: roles, contents and parts, checked before a template sees them."""

from collections.abc import Mapping, Sequence
from typing import Any

from lmi_chat.dialects.desk import Form
from lmi_chat.errors import PROBLEMS_MOST, echo

ROLES = ("system", "developer", "user", "assistant", "tool")


def check_messages(messages: object, form: Form) -> Sequence[Mapping[str, Any]]:
    """The messages as they came, with what is wrong noted in `form`; empty when they are no usable array."""
    if not isinstance(messages, list):
        form.wrong("messages", f"must be an array of messages, got {echo(messages)}")
        return []
    most = form.desk.limits.max_messages
    if not messages or len(messages) > most:
        form.wrong("messages", f"must have at least 1 and at most {most} messages, got {len(messages)}")
        return []
    for index, message in enumerate(messages):
        _check_message(message, f"messages[{index}]", form)
    return messages


def _check_message(message: object, path: str, form: Form) -> None:
    if not isinstance(message, dict):
        form.wrong(path, f"must be an object with role and content, got {echo(message)}")
        return
    role, content = message.get("role"), message.get("content")
    if role not in ROLES:
        form.wrong(f"{path}.role", f"must be one of {', '.join(ROLES)}, got {echo(role)}")
    if isinstance(content, str):
        return
    if isinstance(content, list) and content:
        for index, part in enumerate(content):
            if len(form.problems) >= PROBLEMS_MOST:
                break
            _check_part(part, f"{path}.content[{index}]", form)
    elif not (content is None and role == "assistant" and message.get("tool_calls")):
        form.wrong(f"{path}.content", f"must be a string or an array of parts, got {echo(content)}")


def _check_part(part: object, path: str, form: Form) -> None:
    kind = part.get("type") if isinstance(part, dict) else None
    if not isinstance(part, dict) or not isinstance(kind, str):
        form.wrong(path, f'must be an object with a type, such as {{"type":"text","text":"…"}}, got {echo(part)}')
    elif kind != "text":
        form.wrong(f"{path}.type", f"must be text, this version serves no other parts; got {echo(kind)}")
    elif not isinstance(part.get("text"), str):
        form.wrong(f"{path}.text", f"must be a string, got {echo(part.get('text'))}")


def text_of(message: Mapping[str, Any]) -> str:
    """A checked message's text, parts joined as a template without parts gets them."""
    content = message.get("content")
    if isinstance(content, list):
        return "\n".join(part["text"] for part in content)
    return content or ""
