"""Tools of a response that are no plain functions: namespaces, custom ones, those that are built in elsewhere."""

import json
from collections.abc import Sequence
from typing import Any

import pytest

from lmi_chat.codec.json_text import Json
from lmi_chat.dialects.responses.custom_input import PARAMETERS
from lmi_chat.dialects.task import ParsedRequest
from lmi_chat.job import Tool
from lmi_chat.limits import Limits
from tests.dialects.responses.test_request import CALLS, SCHEMA, TIME, WEATHER, answer, ask, refusal

RUN: Json = {"type": "custom", "name": "run", "description": "Runs it.", "format": {"type": "text"}}
FIND: Json = {"type": "function", "name": "find", "description": "Finds.", "parameters": SCHEMA, "strict": True}
CRM: Json = {"type": "namespace", "name": "crm", "description": "Customers.", "tools": [FIND, RUN]}
SHOP: Json = {
    "type": "namespace",
    "name": "shop",
    "description": "",
    "tools": [FIND, {"type": "function", "name": "buy"}],
}
FOREIGN = (
    *("web_search", "web_search_2025_08_26", "web_search_preview", "web_search_preview_2025_03_11", "file_search"),
    *("code_interpreter", "computer", "computer_use", "computer_use_preview", "image_generation", "mcp", "local_shell"),
    *("shell", "apply_patch", "tool_search", "programmatic_tool_calling"),
)


def called(tools: Sequence[Json], choice: Any = None, **fields: Any) -> ParsedRequest:
    return ask(at=CALLS, tools=list(tools), tool_choice=choice, **fields)


def parsed(tools: Sequence[Json], choice: Any = None) -> Any:
    parsing = called(tools, choice).job.parsing
    assert parsing is not None
    return parsing


def names(tools: Sequence[Json], choice: Any = None) -> list[str]:
    return [tool.name for tool in parsed(tools, choice).tools]


def problem(fields: Json, **changes: Any) -> tuple[str, str]:
    error = refusal(fields, **CALLS, **changes)
    assert error.status == 400
    return error.param, error.message


def test_a_namespace_is_its_tools_by_flat_names() -> None:
    """In the job, in the prompt as functions that were sent by these names, and in the response as it was sent."""
    task = called([TIME, CRM])
    assert task.unknown == []
    assert task.job.parsing is not None
    assert task.job.parsing.tools == (
        Tool(name="time"),
        Tool(name="crm__find", description="Finds.", parameters=SCHEMA, is_strict=True),
        Tool(name="crm__run", description="Runs it.", parameters=PARAMETERS),
    )
    run: Json = {"type": "function", "name": "crm__run", "description": "Runs it.", "parameters": PARAMETERS}
    assert task.job.prompt_text == called([TIME, FIND | {"name": "crm__find"}, run]).job.prompt_text
    assert answer(task)["tools"] == [TIME | {"description": None, "parameters": None, "strict": False}, CRM]


def test_a_custom_tool_is_a_function_with_one_string() -> None:
    for form in ({"type": "text"}, None):
        task = called([RUN | {"format": form}])
        assert task.unknown == []
        shown = json.loads(task.job.prompt_text.partition("\n")[0])
        function = {"name": "run", "description": "Runs it.", "parameters": PARAMETERS}
        assert shown == [{"type": "function", "function": function}]
    assert PARAMETERS["required"] == ["input"]
    assert PARAMETERS["properties"]["input"]["type"] == "string"
    assert answer(called([RUN]))["tools"] == [RUN]


@pytest.mark.parametrize("kind", FOREIGN)
def test_a_tool_that_is_built_in_elsewhere_is_left_out_and_told(kind: str) -> None:
    task = called([TIME, {"type": kind, "search_context_size": "low"}, RUN])
    assert task.unknown == [f"tools[1] is ignored: {kind} is built in elsewhere, and nothing runs it here"]
    assert [tool["type"] for tool in answer(task)["tools"]] == ["function", "custom"]
    assert task.job.prompt_text == called([TIME, RUN]).job.prompt_text
    alone = called([{"type": kind}])
    assert alone.job.parsing is None
    assert (answer(alone)["tools"], len(alone.unknown)) == ([], 1)


def test_of_many_such_tools_some_are_named() -> None:
    told = called([{"type": "web_search"}] * 12).unknown
    assert (len(told), told[8]) == (9, "so are 4 more tools")


CHOICES = [
    ({"type": "function", "name": "crm__find"}, "crm__find"),
    ({"type": "function", "name": "buy"}, "shop__buy"),
    ({"type": "custom", "name": "run"}, "run"),
    ({"type": "function", "name": "time"}, "time"),
]


@pytest.mark.parametrize(("choice", "name"), CHOICES)
def test_a_choice_by_flat_name_or_by_the_only_local_one(choice: Json, name: str) -> None:
    """A name that a tool outside has is that tool's."""
    parsing = parsed([TIME, RUN, CRM, SHOP], choice)
    assert (parsing.choice, parsing.named) == ("named", name)
    allowed = {"type": "allowed_tools", "mode": "required", "tools": [choice, {"type": "custom", "name": "crm__run"}]}
    assert {*names([TIME, RUN, CRM, SHOP], allowed)} == {name, "crm__run"}
    assert answer(called([TIME, RUN, CRM, SHOP], choice))["tool_choice"] == choice


def test_a_local_name_that_several_have_is_ambiguous() -> None:
    find = {"type": "function", "name": "find"}
    text = 'tool_choice must be one of crm__find, shop__find: "find" stands in more than one namespace'
    assert problem({"tools": [CRM, SHOP], "tool_choice": find}) == ("tool_choice", text)
    among = {"type": "allowed_tools", "mode": "auto", "tools": [find]}
    assert problem({"tools": [CRM, SHOP], "tool_choice": among}) == ("tool_choice", text)


LONG = "a" * 126


@pytest.mark.parametrize(
    ("tools", "param", "words"),
    [
        ([TIME, {**CRM, "name": 3}], "tools[1].name", "must be 1 to 128"),
        ([{**CRM, "name": ""}], "tools[0].name", "must be 1 to 128"),
        ([{**CRM, "description": 3}], "tools[0].description", "must be a string"),
        ([{"type": "namespace", "name": "a"}], "tools[0].tools", "must be an array of tools, got null"),
        ([{**CRM, "tools": [FIND, 3]}], "tools[0].tools[1]", "must be an object"),
        ([{**CRM, "tools": [FIND, {"type": "function"}]}], "tools[0].tools[1].name", "must be 1 to 128"),
        ([{**CRM, "tools": [{"type": "function", "name": ""}]}], "tools[0].tools[0].name", "must be 1 to 128"),
        ([{**CRM, "tools": [{"type": "function", "name": "a b"}]}], "tools[0].tools[0].name", 'got "crm__a b"'),
        ([{**CRM, "tools": [{"type": "function", "name": LONG}]}], "tools[0].tools[0].name", "must be 1 to 128"),
        ([{**CRM, "tools": [{**FIND, "parameters": 3}]}], "tools[0].tools[0].parameters", "JSON Schema"),
        ([{**CRM, "tools": [{"type": "web_search"}]}], "tools[0].tools[0].type", "must be function or custom"),
        ([{**CRM, "tools": [CRM]}], "tools[0].tools[0].type", 'got "namespace"'),
        ([{**CRM, "tools": [FIND, FIND]}], "tools[0].tools[1]", "must not have the name of another one"),
        ([{**TIME, "name": "crm__find"}, CRM], "tools[1].tools[0]", "must not have the name of another one"),
        ([{"type": "custom"}], "tools[0].name", "must be 1 to 128"),
        ([{**RUN, "format": 3}], "tools[0].format", "must be absent or"),
        ([TIME, {"type": "web_search_x y"}], "tools[1].type", 'got "web_search_x y"'),
        ([{"type": ["web_search"]}], "tools[0].type", "must be function or custom"),
    ],
)
def test_what_is_wrong_is_named_where_it_stands(tools: list[Json], param: str, words: str) -> None:
    found, message = problem({"tools": tools})
    assert found == param
    assert words in message


def test_a_grammar_of_a_custom_tool_is_refused() -> None:
    """Where it stands: also in a namespace."""
    patch = RUN | {"format": {"type": "grammar", "syntax": "lark", "definition": 'start: "x"'}}
    text = 'must be absent or {"type":"text"}: no grammar of a custom tool is served here, got "grammar"'
    assert problem({"tools": [TIME, patch]}) == ("tools[1].format", f"tools[1].format {text}")
    inside = CRM | {"tools": [patch]}
    assert problem({"tools": [inside]}) == ("tools[0].tools[0].format", f"tools[0].tools[0].format {text}")


@pytest.mark.parametrize("choice", ["required", {"type": "function", "name": "x"}])
@pytest.mark.parametrize("tools", [[{"type": "web_search"}], [{**CRM, "tools": []}]])
def test_no_call_is_forced_where_nothing_can_be_called(tools: list[Json], choice: Any) -> None:
    param, message = problem({"tools": tools, "tool_choice": choice})
    assert (param, "needs tools, and tools has none that is called here" in message) == ("tool_choice", True)


@pytest.mark.parametrize(
    "choice",
    [
        {"type": "web_search"},
        {"type": "mcp", "server_label": "a"},
        {"type": "allowed_tools", "mode": "auto", "tools": [{"type": "function", "name": "time"}, {"type": "mcp"}]},
    ],
)
def test_a_tool_that_is_built_in_elsewhere_is_no_choice(choice: Json) -> None:
    assert problem({"tools": [TIME, {"type": "web_search"}], "tool_choice": choice})[0] == "tool_choice"


def test_bounds_hold_for_the_tools_of_namespaces() -> None:
    assert len(names([TIME, CRM])) == 3
    param, message = problem({"tools": [TIME, CRM]}, limits=Limits(max_tools=2))
    assert (param, message) == ("tools", "tools must have at most 2 tools, got 3")
    size = len(json.dumps([CRM], separators=(",", ":")))
    assert ask(at={**CALLS, "limits": Limits(max_tools_bytes=size)}, tools=[CRM]).job.parsing
    assert "bytes of JSON in all" in problem({"tools": [CRM]}, limits=Limits(max_tools_bytes=size - 1))[1]


def test_many_wrong_namespaces_are_not_all_read() -> None:
    assert "at least" in problem({"tools": [{"type": "namespace"}] * 1000})[1]


def test_unknown_keys_are_told_with_their_place() -> None:
    tools = [{**CRM, "colour": 1, "tools": [{**FIND, "defer_loading": True}, {**RUN, "colour": 1}]}, WEATHER]
    assert called(tools).unknown == [
        "tools[0].colour is ignored",
        "tools[0].tools[0].defer_loading is ignored",
        "tools[0].tools[1].colour is ignored",
    ]


def test_tools_that_may_not_be_called_are_shown_where_the_deployment_says_so() -> None:
    task = ask(at={**CALLS, "shows_uncalled": True}, tools=[CRM], tool_choice="none")
    assert "crm__find" in task.job.prompt_text
    assert task.job.parsing is None
