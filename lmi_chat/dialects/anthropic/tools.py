"""Read the tools of a request in Anthropic's form, and the choice among them.

Shapes: Anthropic API reference, "Create a Message": tools, tool_choice.
"""

from collections.abc import Mapping
from typing import Any

from lmi_chat.codec.json_text import Json
from lmi_chat.dialects import structured_output
from lmi_chat.dialects.anthropic.body import ToolChoiceOptions
from lmi_chat.dialects.chat.tools import (
    CHOICE,
    NAME,
    NAME_CHARS,
    NOTHING,
    TOOLS,
    CallableTools,
    Choice,
    read_list,
    settle,
)
from lmi_chat.dialects.reader import BodyReader
from lmi_chat.job import Tool, ToolChoice
from lmi_chat.text import echo

KEYS = ("type", "name", "description", "input_schema", "strict", "cache_control")
HINTS = ("eager_input_streaming", "input_examples", "defer_loading", "allowed_callers")
"""What tells Anthropic's own server how to treat a tool, and changes nothing here."""
CUSTOM = "custom"
KINDS: Mapping[str, ToolChoice] = {"auto": "auto", "any": "required", "tool": "named", "none": "none"}


def read_tools(body: Json, reader: BodyReader) -> CallableTools:
    """What the model may call; what is wrong is noted in `reader`."""
    before = len(reader.problems)
    items = body.get(TOOLS)
    found = [] if items is None else read_list(items, TOOLS, _read_tool, reader)
    choice = _read_choice(body.get(CHOICE), reader)
    return NOTHING if len(reader.problems) > before else settle(TOOLS, found, choice, body, reader)


def _read_tool(tool: Any, path: str, reader: BodyReader) -> tuple[Tool, Json] | None:
    if not isinstance(tool, dict):
        reader.add_problem(path, f'must be an object such as {{"name":"…","input_schema":{{…}}}}, got {echo(tool)}')
        return None
    if (kind := tool.get("type")) not in (None, CUSTOM):
        text = f"must be {CUSTOM}, tools that a server runs are not called here; got {echo(kind)}"
        reader.add_problem(f"{path}.type", text)
        return None
    reader.check_keys(tool, (*KEYS, *HINTS), path)
    name, description, schema = (tool.get(key) for key in KEYS[1:4])
    before = len(reader.problems)
    if not isinstance(name, str) or not NAME.match(name):
        text = f"must be 1 to {NAME_CHARS} letters, digits or _ . : / -, got {echo(name)}"
        reader.add_problem(f"{path}.name", text)
    if not isinstance(description, str | None):
        reader.add_problem(f"{path}.description", f"must be a string, got {echo(description)}")
    if not isinstance(tool.get("strict"), bool | None):
        reader.add_problem(f"{path}.strict", f"must be true or false, got {echo(tool['strict'])}")
    if isinstance(schema, dict):
        structured_output.check_limits(schema, f"{path}.input_schema", reader)
    else:
        reader.add_problem(f"{path}.input_schema", f"must be a JSON Schema (an object), got {echo(schema)}")
    if len(reader.problems) > before:
        return None
    function = {"name": name, "description": description, "parameters": schema}
    shown = {key: value for key, value in function.items() if value is not None}
    read = Tool(str(name), description or "", schema, is_strict=tool.get("strict") is True)
    return read, {"type": "function", "function": shown}


def _read_choice(value: object, reader: BodyReader) -> Choice | None:
    if value is None:
        return None
    if not isinstance(value, dict):
        reader.add_problem(CHOICE, f'must be an object such as {{"type":"auto"}}, got {echo(value)}')
        return None
    inner = reader.inside(CHOICE)
    inner.read(value, ToolChoiceOptions)
    kind, name = inner.extra.get("type"), inner.extra.get("name")
    if "type" not in value:
        inner.add_problem(f"{CHOICE}.type", f"must be one of {', '.join(KINDS)}")
    if kind == "tool" and name is None:
        inner.add_problem(f"{CHOICE}.name", "must be given with type tool")
    reader.extra["parallel_tool_calls"] = not inner.get("disable_parallel_tool_use")
    return Choice(KINDS.get(kind or "", "auto"), (name,) if kind == "tool" and name else ())
