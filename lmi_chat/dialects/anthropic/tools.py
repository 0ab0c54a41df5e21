"""Read the tools of a request in Anthropic's form, and the choice among them.

Shapes: Anthropic API reference, "Create a Message": tools, tool_choice.
"""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from lmi_chat.codec.json_text import Json, dump
from lmi_chat.dialects import structured_output
from lmi_chat.dialects.anthropic.body import ToolChoiceOptions
from lmi_chat.dialects.anthropic.messages import ToolChange
from lmi_chat.dialects.chat.tools import (
    CHOICE,
    NAME,
    NAME_CHARS,
    NOTHING,
    TOOLS,
    CallableTools,
    Choice,
    Pairs,
    read_list,
    settle,
)
from lmi_chat.dialects.reader import BodyReader
from lmi_chat.errors import PROBLEMS_MOST
from lmi_chat.job import Tool, ToolChoice
from lmi_chat.text import echo

KEYS = ("type", "name", "description", "input_schema", "strict", "cache_control")
HINTS = ("eager_input_streaming", "input_examples", "defer_loading", "allowed_callers")
"""What tells Anthropic's own server how to treat a tool, and changes nothing here."""
CUSTOM = "custom"
OF_SERVER = re.compile(
    r"(web_search|web_fetch|code_execution|advisor)_\d{8}|tool_search_tool_(bm25|regex)(_\d{8})?|mcp_toolset"
)
"""Tools that Anthropic's own server runs."""
BUILT_IN = re.compile(r"(bash|text_editor|computer|memory|computer_toolset|browser_toolset)_\d{8}")
"""Tools that the client runs and Anthropic's own models know: no request describes them."""
EXAMPLE = '{"type":"tool_reference","name":"…"}'
KINDS: Mapping[str, ToolChoice] = {"auto": "auto", "any": "required", "tool": "named", "none": "none"}


def read_tools(body: Json, changes: Sequence[ToolChange], reader: BodyReader) -> CallableTools:
    """What the model may call once the conversation has made its changes; what is wrong is noted in `reader`."""
    before = len(reader.problems)
    items, left_out = body.get(TOOLS), set[object]()
    unfold = partial(_leave_out, left_out=left_out)
    found = [] if items is None else read_list(items, TOOLS, _read_tool, reader, unfold)
    if changes:
        found = _changed(found, changes, left_out, reader)
    choice = _read_choice(body.get(CHOICE), reader)
    for name in choice.names if choice else ():
        if name in left_out:
            reader.add_problem(CHOICE, f"must not name a tool that cannot be called here, got {echo(name)}")
    return NOTHING if len(reader.problems) > before else settle(TOOLS, found, choice, body, reader)


def _changed(
    found: list[tuple[Tool, Json]], changes: Sequence[ToolChange], left_out: set[object], reader: BodyReader
) -> list[tuple[Tool, Json]]:
    """The tools as they are at the conversation's end: a template is shown one list of them."""
    known, gone, limits = {one[0].name: one for one in found}, set[str](), reader.deployment.limits
    for change in changes:
        if len(reader.problems) >= PROBLEMS_MOST:
            break
        name = _apply(change, known, left_out, reader)
        (gone.discard if change.is_added else gone.add)(name)
    if len(known) > limits.max_tools:
        reader.add_problem(TOOLS, f"must have at most {limits.max_tools} {TOOLS}, got {len(known)} with those added")
    elif (size := len(dump([shown for _, shown in known.values()]))) > limits.max_tools_bytes:
        reader.add_problem(TOOLS, f"must be at most {limits.max_tools_bytes} bytes of JSON in all, got {size}")
    return [one for name, one in known.items() if name not in gone]


def _apply(change: ToolChange, known: dict[str, tuple[Tool, Json]], left_out: set[object], reader: BodyReader) -> str:
    """The name of the tool that is changed, "" for none; one that is given by value joins the `known`."""
    place = f"{change.path}.tool"
    match change.tool:
        case {"type": "tool_definition", "definition": definition} if change.is_added:
            for where, tool in _leave_out([(f"{place}.definition", definition)], reader, left_out):
                if (read := _read_tool(tool, where, reader)) is not None:
                    known[read[0].name] = read
                    return read[0].name
        case {"type": "tool_reference", "name": str(name)}:
            if name not in known and name not in left_out:
                reader.add_problem(f"{place}.name", f"must be the name of a tool, got {echo(name)}")
            return name
        case {"type": "mcp_tool_reference" | "mcp_toolset_reference"}:
            pass  # of a server whose tools are not called here
        case other:
            reader.add_problem(place, f"must be an object such as {EXAMPLE}, got {echo(other)}")
    return ""


def _leave_out(given: Pairs, reader: BodyReader, left_out: set[object]) -> Pairs:
    """The tools without those that are known and cannot be called here, of which warnings tell; their names are noted.

    One that Anthropic's models know is like any other where the request describes it.
    """
    pairs: list[tuple[str, Any]] = []
    told: list[str] = []
    for where, tool in given:
        kind = tool.get("type") if isinstance(tool, dict) else None
        if isinstance(kind, str) and OF_SERVER.fullmatch(kind):
            told.append(f"{where} is ignored: {kind} is built in elsewhere, and nothing runs it here")
        elif isinstance(kind, str) and BUILT_IN.fullmatch(kind) and "input_schema" not in tool:
            told.append(f"{where} is ignored: the model does not know {kind}; describe it as a custom tool")
        else:
            pairs.append((where, tool))
            continue
        if isinstance(name := tool.get("name"), str):
            left_out.add(name)
    reader.warn_of_tools(told)
    return pairs


def _read_tool(tool: Any, path: str, reader: BodyReader) -> tuple[Tool, Json] | None:
    if not isinstance(tool, dict):
        reader.add_problem(path, f'must be an object such as {{"name":"…","input_schema":{{…}}}}, got {echo(tool)}')
        return None
    kind = tool.get("type")
    if kind not in (None, CUSTOM) and not (isinstance(kind, str) and BUILT_IN.fullmatch(kind)):
        reader.add_problem(f"{path}.type", f"must be {CUSTOM}, no other tools are called here; got {echo(kind)}")
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
