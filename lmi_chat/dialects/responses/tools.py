"""Read the tools of a request for a response and the choice among them, whose names stand in the tools themselves.

The model knows each as a function: the tools of a namespace by flat names, custom tools as ones that take a free text.
Shapes: OpenAI API reference, "Responses": tools, tool_choice.
"""

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lmi_chat.codec.json_text import Json
from lmi_chat.dialects.chat import tools
from lmi_chat.dialects.chat.tools import CallableTools, Choice, Pairs
from lmi_chat.dialects.reader import UNKNOWN_SHOWN, BodyReader
from lmi_chat.dialects.responses.custom_input import PARAMETERS
from lmi_chat.errors import PROBLEMS_MOST
from lmi_chat.job import Tool
from lmi_chat.text import echo

FUNCTION, CUSTOM, NAMESPACE = "function", "custom", "namespace"
CALLED = (FUNCTION, CUSTOM)
SERVED = (*CALLED, NAMESPACE)
BUILT_IN_PATTERN = (
    r"^((web_search|computer)(_[a-z0-9_]+)?|file_search|code_interpreter|image_generation|mcp|(local_)?shell"
    r"|apply_patch|tool_search|programmatic_tool_calling)$"
)
"""The types of tools that OpenAI runs, or whose form its models alone know: web_search_2025_08_26, too."""
BUILT_IN = re.compile(BUILT_IN_PATTERN.removesuffix("$") + r"\Z")
NAMESPACE_KEYS = ("type", "name", "description", "tools")
CUSTOM_KEYS = ("type", "name", "description", "format")
EXAMPLE = '{"type":"function","name":"…"}'


@dataclass(frozen=True, slots=True)
class Origin:
    """What a client knows a tool as that is no plain function: a namespace's, or a custom one."""

    name: str
    namespace: str | None = None
    is_custom: bool = False


def flat_name(namespace: str, name: str) -> str:
    """The name by which the model knows a tool of a namespace."""
    return f"{namespace}__{name}"


def check_tools(body: Json, reader: BodyReader) -> tuple[CallableTools, Mapping[str, Origin]]:
    """What the model may call, and by their flat names the origins of those that are no plain functions.

    What is wrong is noted in `reader`.
    """
    if body.get(tools.TOOLS) is None and body.get(tools.CHOICE) is None:
        return tools.NOTHING, {}
    before = len(reader.problems)
    given = body.get(tools.TOOLS)
    found = tools.read_list(given, tools.TOOLS, _read_tool, reader, _unfold) if given is not None else []
    choice = _read_choice(body[tools.CHOICE], reader) if body.get(tools.CHOICE) is not None else None
    if len(reader.problems) > before:
        return tools.NOTHING, {}
    origins = dict(_origins(given or ()))
    if choice is not None and origins:
        choice = _by_flat_names(choice, {tool.name for tool, _ in found}, origins, reader)
    return tools.settle(tools.TOOLS, found, choice, body, reader), origins


def _unfold(given: Pairs, reader: BodyReader) -> Pairs:
    """The tools of namespaces in their places, by flat names, and none that is built in elsewhere."""
    pairs: list[tuple[str, Any]] = []
    left_out: list[str] = []
    for where, item in given:
        kind = item.get("type") if isinstance(item, dict) else None
        if kind == NAMESPACE:
            pairs += _in_namespace(item, where, reader)
        elif _is_built_in(kind):
            left_out.append(f"{where} is ignored: {kind} is built in elsewhere, and nothing runs it here")
        else:
            pairs.append((where, item))
        if len(reader.problems) >= PROBLEMS_MOST:
            break
    reader.warn_of_tools(left_out)
    return pairs


def _is_built_in(kind: object) -> bool:
    return kind not in CALLED and isinstance(kind, str) and BUILT_IN.match(kind) is not None


def _in_namespace(space: Json, path: str, reader: BodyReader) -> Iterator[tuple[str, Any]]:
    """The tools of a namespace, by flat names."""
    reader.check_keys(space, NAMESPACE_KEYS, path)
    name, description, inner = (space.get(key) for key in NAMESPACE_KEYS[1:])
    if not isinstance(name, str) or not tools.NAME.match(name):
        text = f"must be 1 to {tools.NAME_CHARS} letters, digits or _ . : / -, got {echo(name)}"
        reader.add_problem(f"{path}.name", text)
    elif not isinstance(description, str | None):
        reader.add_problem(f"{path}.description", f"must be a string, got {echo(description)}")
    elif not isinstance(inner, list):
        reader.add_problem(f"{path}.tools", f"must be an array of tools, got {echo(inner)}")
    else:
        for where, tool in tools.numbered(inner, f"{path}.tools"):
            own = tool.get("name") if isinstance(tool, dict) else None
            yield where, tool | {"name": flat_name(name, own)} if own and isinstance(own, str) else tool


def _read_tool(tool: Any, path: str, reader: BodyReader) -> tuple[Tool, Json] | None:
    if not isinstance(tool, dict):
        reader.add_problem(path, f"must be an object such as {EXAMPLE}, got {echo(tool)}")
        return None
    if (kind := tool.get("type")) == FUNCTION:
        return tools.read_function({name: value for name, value in tool.items() if name != "type"}, path, reader)
    if kind == CUSTOM:
        return _read_custom(tool, path, reader)
    text = f"must be {' or '.join(CALLED)}, outside a namespace also {NAMESPACE} or one that is built in elsewhere"
    reader.add_problem(f"{path}.type", f"{text}, got {echo(kind)}")
    return None


def _read_custom(tool: Json, path: str, reader: BodyReader) -> tuple[Tool, Json] | None:
    """A custom tool as a function with one string."""
    reader.check_keys(tool, CUSTOM_KEYS, path)
    form = tool.get("format")
    if form is not None and (not isinstance(form, dict) or form.get("type") != "text"):
        kind = form.get("type") if isinstance(form, dict) else form
        text = f'must be absent or {{"type":"text"}}: no grammar of a custom tool is served here, got {echo(kind)}'
        reader.add_problem(f"{path}.format", text)
        return None
    told = {key: tool[key] for key in ("name", "description") if key in tool}
    return tools.read_function(told | {"parameters": PARAMETERS}, path, reader)


def _origins(given: Sequence[Json]) -> Iterator[tuple[str, Origin]]:
    """The origins of checked tools that are no plain functions, each with the flat name."""
    for tool in given:
        if tool["type"] == CUSTOM:
            yield tool["name"], Origin(tool["name"], is_custom=True)
        elif tool["type"] == NAMESPACE:
            space = tool["name"]
            for each in tool["tools"]:
                yield flat_name(space, each["name"]), Origin(each["name"], space, each["type"] == CUSTOM)


def _by_flat_names(choice: Choice, flat: Collection[str], origins: Mapping[str, Origin], reader: BodyReader) -> Choice:
    """A choice by flat names; a tool's own name counts where one namespace alone has it."""
    own: dict[str, list[str]] = {}
    for name, origin in origins.items():
        own.setdefault(origin.name, []).append(name)

    def found(name: str) -> str:
        several = [name] if name in flat else own.get(name, [name])
        if len(several) > 1:
            names = ", ".join(several[:UNKNOWN_SHOWN])
            reader.add_problem(tools.CHOICE, f"must be one of {names}: {echo(name)} stands in more than one namespace")
        return several[0]

    allowed = None if choice.allowed is None else tuple(map(found, choice.allowed))
    return replace(choice, names=tuple(map(found, choice.names)), allowed=allowed)


def _read_choice(value: Any, reader: BodyReader) -> Choice | None:
    if isinstance(value, str) and value in tools.WORDS:
        return Choice(value)
    kind = value.get("type") if isinstance(value, dict) else None
    if kind in CALLED and isinstance(value.get("name"), str):
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
        if isinstance(each, dict) and each.get("type") in CALLED and isinstance(each.get("name"), str)
    ]
    if mode not in ("auto", "required") or not names or len(names) < len(listed):
        text = f"must have mode auto or required and tools such as [{EXAMPLE}], got {echo(value)}"
        reader.add_problem(tools.CHOICE, text)
        return None
    return Choice(mode, allowed=tuple(names))


def shown(body: Json) -> list[Json]:
    """The tools as a response repeats them, without those that are built in elsewhere."""
    return [_shown(tool) for tool in body.get(tools.TOOLS) or [] if tool["type"] in SERVED]


def _shown(tool: Json) -> Json:
    told = {name: value for name, value in tool.items() if value is not None}
    match tool["type"]:
        case "function":
            return {"type": FUNCTION, "description": None, "parameters": None, "strict": False} | told
        case "namespace":
            return told | {"tools": [_shown(each) for each in tool["tools"]]}
        case _:
            return told
