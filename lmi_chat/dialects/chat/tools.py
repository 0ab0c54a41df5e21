"""Check the tools of a chat and the choice among them, in today's fields and in the older ones of functions.

Shapes: OpenAI API reference, "Create chat completion": tools, tool_choice, functions, function_call.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lmi_chat.codec.json_text import Json, dump
from lmi_chat.dialects import structured_output
from lmi_chat.dialects.deployment import Deployment
from lmi_chat.dialects.reader import BodyReader
from lmi_chat.errors import PROBLEMS_MOST
from lmi_chat.job import Tool, ToolChoice
from lmi_chat.text import echo

TOOLS, FUNCTIONS, CHOICE, CALL = "tools", "functions", "tool_choice", "function_call"
FIELDS = frozenset({TOOLS, FUNCTIONS, CHOICE, CALL})
TOOL_KEYS = ("type", "function", "strict")
FUNCTION_KEYS = ("name", "description", "parameters", "strict")
ALLOWED = "allowed_tools"
WORDS: tuple[ToolChoice, ...] = ("none", "auto", "required")
NAME_CHARS = 128
NAME_PATTERN = rf"^[A-Za-z0-9_.:/-]{{1,{NAME_CHARS}}}$"
"""OpenAI's names have 64 characters of A-Z a-z 0-9 _ -; the names that MCP's servers give have these others, too."""
NAME = re.compile(NAME_PATTERN.removesuffix("$") + r"\Z")
EXAMPLE = '{"type":"function","function":{"name":"…"}}'


@dataclass(frozen=True, slots=True, kw_only=True)
class CallableTools:
    """What the model may call: `tools` as `choice` says; `shown` are those that the template gets."""

    tools: tuple[Tool, ...] = ()
    shown: Sequence[Json] = ()
    choice: ToolChoice = "none"
    named: str = ""


@dataclass(frozen=True, slots=True)
class Choice:
    """A choice as it was sent; `allowed`: the names among which it is made, None for all."""

    kind: ToolChoice
    names: tuple[str, ...] = ()
    allowed: tuple[str, ...] | None = None
    path: str = field(default=CHOICE, compare=False)


NOTHING = CallableTools()
ReadTool = Callable[[Any, str, BodyReader], tuple[Tool, Json] | None]
Pairs = Sequence[tuple[str, Any]]
"""Items of arrays, each with its path."""


def check_tools(body: Json, reader: BodyReader) -> CallableTools:
    """What the model may call, what is wrong noted in `reader`.

    What it may not call is not shown to it either, unless the deployment says so.
    """
    if FIELDS.isdisjoint(body):
        return NOTHING  # nearly always
    before = len(reader.problems)
    path, found = _read_tools(body, reader)
    choice = _read_choice(body, reader)
    if len(reader.problems) > before:
        return NOTHING
    return settle(path, found, choice, body, reader)


def settle(
    path: str, found: list[tuple[Tool, Json]], choice: Choice | None, body: Json, reader: BodyReader
) -> CallableTools:
    """The tools at `path` as `choice` says, both read already; what does not fit is noted in `reader`."""
    before = len(reader.problems)
    choice = choice or Choice("auto")
    if not found:
        if choice.kind in {"required", "named"} or choice.allowed:
            none = f"and {path} has none that is called here, " if body.get(path) else ""
            reader.add_problem(choice.path, f"needs tools, {none}got {echo(body[choice.path])}")
        return NOTHING
    names = {tool.name for tool, _ in found}
    for name in (*choice.names, *(choice.allowed or ())):
        if name not in names:
            reader.add_problem(choice.path, f"names no tool of {path}, got {echo(name)}")
    if choice.kind != "none":
        _check_service(path, choice, reader)
    if len(reader.problems) > before:
        return NOTHING
    return _chosen(found, choice, reader.deployment)


def _chosen(found: list[tuple[Tool, Json]], choice: Choice, deployment: Deployment) -> CallableTools:
    """Choose among tools of which nothing is wrong."""
    if choice.kind == "none":
        is_shown = deployment.shows_uncalled and deployment.template.knows_tools
        return CallableTools(shown=[shown for _, shown in found]) if is_shown else NOTHING
    if choice.allowed is not None:
        found = [(tool, shown) for tool, shown in found if tool.name in choice.allowed]
    if deployment.tool_strict_level == "parameter":
        found = [(replace(tool, is_strict=True), shown) for tool, shown in found]
    return CallableTools(
        tools=tuple(tool for tool, _ in found),
        shown=[shown for _, shown in found],
        choice=choice.kind,
        named="".join(choice.names),
    )


def _check_service(path: str, choice: Choice, reader: BodyReader) -> None:
    """Refuse calls that the model could not make or nothing here could read."""
    deployment = reader.deployment
    if not deployment.template.knows_tools:
        text = "cannot be served: the model's chat template knows no tools; option.chat_template sets another"
        reader.add_problem(path, text)
    elif not deployment.tool_parser:
        text = "cannot be served: option.tool_call_parser names no parser, and none was recognised for this model"
        reader.add_problem(path, text)
    elif choice.kind == "auto" and not deployment.calls_tools:
        text = 'must be none, required or a function: option.enable_auto_tool_choice is false, got "auto"'
        reader.add_problem(choice.path, text)


def _read_tools(body: Json, reader: BodyReader) -> tuple[str, list[tuple[Tool, Json]]]:
    """The field that has the tools, and these, each with what a template is shown of it."""
    given = [name for name in (TOOLS, FUNCTIONS) if body.get(name) not in (None, [])]
    if len(given) > 1:
        reader.add_problem(FUNCTIONS, "and tools say the same thing in two ways; send one of them")
    if len(given) != 1:
        return TOOLS, []
    [path] = given
    return path, read_list(body[path], path, read_function if path == FUNCTIONS else _read_tool, reader)


def numbered(items: Sequence[Any], path: str) -> Pairs:
    """The items of an array with their paths."""
    return [(f"{path}[{place}]", item) for place, item in enumerate(items)]


def read_list(
    items: object,
    path: str,
    read_one: ReadTool,
    reader: BodyReader,
    unfold: Callable[[Pairs, BodyReader], Pairs] | None = None,
) -> list[tuple[Tool, Json]]:
    """The tools of an array, each read by `read_one`; what is wrong is noted in `reader`.

    `unfold` takes apart items that have several, and leaves out others.
    """
    limits = reader.deployment.limits
    if not isinstance(items, list):
        reader.add_problem(path, f"must be an array of {path}, got {echo(items)}")
        return []
    pairs = numbered(items[: limits.max_tools], path)
    if unfold is not None:
        pairs = unfold(pairs, reader)
    if (count := max(len(items), len(pairs))) > limits.max_tools:
        reader.add_problem(path, f"must have at most {limits.max_tools} {path}, got {count}")
    elif (size := len(dump(items))) > limits.max_tools_bytes:
        reader.add_problem(path, f"must be at most {limits.max_tools_bytes} bytes of JSON in all, got {size}")
    else:
        return _read_items(pairs, read_one, reader)
    return []


def _read_items(pairs: Pairs, read_one: ReadTool, reader: BodyReader) -> list[tuple[Tool, Json]]:
    found: dict[str, tuple[Tool, Json]] = {}
    for where, item in pairs:
        if len(reader.problems) >= PROBLEMS_MOST:
            break
        read = read_one(item, where, reader)
        if read is None:
            continue
        name = read[0].name
        if name in found:
            reader.add_problem(where, f"must not have the name of another one, got {echo(name)}")
        found[name] = read
    return list(found.values())


def _read_tool(tool: object, path: str, reader: BodyReader) -> tuple[Tool, Json] | None:
    if not isinstance(tool, dict):
        reader.add_problem(path, f"must be an object such as {EXAMPLE}, got {echo(tool)}")
        return None
    if (kind := tool.get("type")) not in (None, "function"):
        reader.add_problem(f"{path}.type", f"must be function, no other tools are called here; got {echo(kind)}")
        return None
    reader.check_keys(tool, TOOL_KEYS, path)
    is_strict = _read_switch(tool, path, reader)
    return read_function(tool.get("function"), f"{path}.function", reader, is_strict=is_strict)


def read_function(
    function: object, path: str, reader: BodyReader, *, is_strict: bool = False
) -> tuple[Tool, Json] | None:
    """A function, and the tool as a template is shown it: the keys that were sent, in their order, without nulls.

    `is_strict`: as some clients say it, beside the function and not in it.
    """
    if not isinstance(function, dict):
        reader.add_problem(path, f'must be an object such as {{"name":"…","parameters":{{…}}}}, got {echo(function)}')
        return None
    reader.check_keys(function, FUNCTION_KEYS, path)
    name, description, parameters = (function.get(key) for key in FUNCTION_KEYS[:3])
    if not isinstance(name, str) or not NAME.match(name):
        text = f"must be 1 to {NAME_CHARS} letters, digits or _ . : / -, got {echo(name)}"
        reader.add_problem(f"{path}.name", text)
        return None
    if not isinstance(description, str | None):
        reader.add_problem(f"{path}.description", f"must be a string, got {echo(description)}")
        return None
    if not isinstance(parameters, dict | None):
        reader.add_problem(f"{path}.parameters", f"must be a JSON Schema (an object), got {echo(parameters)}")
        return None
    if parameters is not None:
        structured_output.check_limits(parameters, f"{path}.parameters", reader)
    is_strict |= _read_switch(function, path, reader)
    shown = {key: value for key, value in function.items() if key in FUNCTION_KEYS and value is not None}
    tool = Tool(name=name, description=description or "", parameters=parameters, is_strict=is_strict)
    return tool, {"type": "function", "function": shown}


def _read_switch(value: Json, path: str, reader: BodyReader) -> bool:
    is_strict = value.get("strict")
    if not isinstance(is_strict, bool | None):
        reader.add_problem(f"{path}.strict", f"must be true or false, got {echo(is_strict)}")
    return is_strict is True


def _read_choice(body: Json, reader: BodyReader) -> Choice | None:
    """The choice, None where none was sent; the same one in both fields is one."""
    told = [
        choice
        for name, read in ((CHOICE, _of_tools), (CALL, _of_functions))
        if body.get(name) is not None and (choice := read(body[name], reader)) is not None
    ]
    if len(told) > 1 and told[0] != told[1]:
        reader.add_problem(CALL, f"and {CHOICE} say the same thing with different values; send one of them")
    return told[0] if told else None


def _of_tools(value: Any, reader: BodyReader) -> Choice | None:
    if isinstance(value, str) and value in WORDS:
        return Choice(value)
    if isinstance(value, dict) and value.get("type") == ALLOWED:
        return _of_allowed(value.get(ALLOWED), reader)
    name = _name_in(value)
    if name is not None:
        reader.check_keys(value, ("type", "function"), CHOICE)
        return Choice("named", (name,))
    reader.add_problem(CHOICE, f"must be one of {', '.join(WORDS)}, or an object such as {EXAMPLE}, got {echo(value)}")
    return None


def _of_allowed(value: Any, reader: BodyReader) -> Choice | None:
    """A choice among some of the tools, as OpenAI has it: {"mode":"auto","tools":[…]}."""
    mode = value.get("mode") if isinstance(value, dict) else None
    tools = value.get("tools") if isinstance(value, dict) else None
    names = [_name_in(tool) for tool in tools] if isinstance(tools, list) else []
    known = tuple(name for name in names if name is not None)
    if mode not in ("auto", "required") or not names or len(known) < len(names):
        text = f'must be an object such as {{"mode":"auto","tools":[{EXAMPLE}]}}, got {echo(value)}'
        reader.add_problem(f"{CHOICE}.{ALLOWED}", text)
        return None
    return Choice(mode, allowed=known)


def _name_in(value: Any) -> str | None:
    """The name in {"type":"function","function":{"name":"…"}}; None for anything else."""
    if not isinstance(value, dict) or value.get("type", "function") != "function":
        return None
    function = value.get("function")
    name = function.get("name") if isinstance(function, dict) else None
    return name if isinstance(name, str) else None


def _of_functions(value: Any, reader: BodyReader) -> Choice | None:
    if value in ("none", "auto"):
        return Choice(value, path=CALL)
    if isinstance(value, dict) and isinstance(name := value.get("name"), str):
        reader.check_keys(value, ("name",), CALL)
        return Choice("named", (name,), path=CALL)
    reader.add_problem(CALL, f'must be none, auto or an object such as {{"name":"…"}}, got {echo(value)}')
    return None
