"""Read the tools of a request for a response and the choice among them, whose names stand in the tools themselves.

Shapes: OpenAI API reference, "Responses": tools, tool_choice.
"""

from typing import Any

from lmi_chat.codec.json_text import Json
from lmi_chat.dialects.chat import tools
from lmi_chat.dialects.chat.tools import CallableTools, Choice
from lmi_chat.dialects.reader import BodyReader
from lmi_chat.job import Tool
from lmi_chat.text import echo

EXAMPLE = '{"type":"function","name":"…"}'
SERVED = "must be function: the tools that are built in elsewhere and custom tools are not served here"


def check_tools(body: Json, reader: BodyReader) -> CallableTools:
    """What the model may call, what is wrong noted in `reader`."""
    if body.get(tools.TOOLS) is None and body.get(tools.CHOICE) is None:
        return tools.NOTHING
    before = len(reader.problems)
    given = body.get(tools.TOOLS)
    found = tools.read_list(given, tools.TOOLS, _read_tool, reader) if given is not None else []
    choice = _read_choice(body[tools.CHOICE], reader) if body.get(tools.CHOICE) is not None else None
    if len(reader.problems) > before:
        return tools.NOTHING
    return tools.settle(tools.TOOLS, found, choice, body, reader)


def _read_tool(tool: Any, path: str, reader: BodyReader) -> tuple[Tool, Json] | None:
    if not isinstance(tool, dict):
        reader.add_problem(path, f"must be an object such as {EXAMPLE}, got {echo(tool)}")
        return None
    if (kind := tool.get("type")) != "function":
        reader.add_problem(f"{path}.type", f"{SERVED}, got {echo(kind)}")
        return None
    return tools.read_function({name: value for name, value in tool.items() if name != "type"}, path, reader)


def _read_choice(value: Any, reader: BodyReader) -> Choice | None:
    if isinstance(value, str) and value in tools.WORDS:
        return Choice(value)
    kind = value.get("type") if isinstance(value, dict) else None
    if kind == "function" and isinstance(value.get("name"), str):
        reader.check_keys(value, ("type", "name"), tools.CHOICE)
        return Choice("named", (value["name"],))
    if kind == tools.ALLOWED:
        return _read_allowed(value, reader)
    words = ", ".join(tools.WORDS)
    text = f"must be one of {words}, or an object such as {EXAMPLE}: no other tools are served; got {echo(value)}"
    reader.add_problem(tools.CHOICE, text)
    return None


def _read_allowed(value: Json, reader: BodyReader) -> Choice | None:
    """A choice among some of the tools: {"type":"allowed_tools","mode":"auto","tools":[…]}."""
    mode, given = value.get("mode"), value.get("tools")
    listed = given if isinstance(given, list) else []
    names = [
        each["name"]
        for each in listed
        if isinstance(each, dict) and each.get("type") == "function" and isinstance(each.get("name"), str)
    ]
    if mode not in ("auto", "required") or not names or len(names) < len(listed):
        text = f"must have mode auto or required and tools such as [{EXAMPLE}], got {echo(value)}"
        reader.add_problem(tools.CHOICE, text)
        return None
    return Choice(mode, allowed=tuple(names))


def shown(body: Json) -> list[Json]:
    """The tools as a response repeats them."""
    return [
        {"type": "function", "description": None, "parameters": None, "strict": False}
        | {name: value for name, value in tool.items() if value is not None}
        for tool in body.get(tools.TOOLS) or []
    ]
