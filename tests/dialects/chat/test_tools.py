"""Tools of a chat: what reaches the prompt and the job, what is refused and why, and what a session keeps of calls."""

import json
from typing import Any

import pytest

from lmi_chat.codec.json_text import Json
from lmi_chat.dialects.chat import session
from lmi_chat.dialects.task import ParsedRequest
from lmi_chat.errors import BadField
from lmi_chat.job import CallPart, Delta, Finish, Finished, ParsingParams, Tool
from lmi_chat.limits import Limits
from lmi_chat.storage.sessions import Sessions
from tests.support.fakes import END, deployment, parse, refusal

SHOWING = "{tools}\n{turns}"
USER: Json = {"role": "user", "content": "hi"}
CALLS: dict[str, Any] = {"chat_template": SHOWING, "tool_parser": "hermes"}
SCHEMA: Json = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
WEATHER: Json = {"name": "get_weather", "description": "The weather.", "parameters": SCHEMA}
TIME: Json = {"name": "mcp.clock/time:now-1_2"}
TOOLS: list[Json] = [{"type": "function", "function": WEATHER}, {"type": "function", "function": TIME}]
NAMED: Json = {"type": "function", "function": {"name": "get_weather"}}


def ask(messages: list[Json] | None = None, at: Json | None = None, **fields: Any) -> ParsedRequest:
    return parse({"messages": messages or [USER], **fields}, deployment(**CALLS | (at or {})))


def parsing(**fields: Any) -> ParsingParams:
    found = ask(**fields).job.parsing
    assert found is not None
    return found


def shown(task: ParsedRequest) -> Any:
    """The tools in the prompt."""
    first, _, _ = task.job.prompt_text.partition("\n")
    return json.loads(first) if first else []


def problem(fields: Json, **changes: Any) -> tuple[str | None, str]:
    error = refusal({"messages": [USER], **fields}, "chat", **CALLS | changes)
    assert (type(error), error.status) == (BadField, 400)
    return error.param, error.message


def function(**fields: Any) -> Json:
    return {"type": "function", "function": {"name": "f", **fields}}


def test_tools_reach_the_prompt_and_the_job() -> None:
    task = ask(tools=TOOLS, parallel_tool_calls=False)
    assert (task.unknown, shown(task)) == ([], TOOLS)
    assert task.job.parsing == ParsingParams(
        tools=(
            Tool(name="get_weather", description="The weather.", parameters=SCHEMA),
            Tool(name="mcp.clock/time:now-1_2"),
        ),
        choice="auto",
        is_parallel=False,
        messages=[USER],
    )
    assert parsing(tools=TOOLS).is_parallel
    assert ask().job.parsing is None
    assert ask(tools=[], tool_choice="auto").job.parsing is None


def test_the_template_sees_what_was_sent_in_its_order_and_nothing_else() -> None:
    sent = {
        "strict": True,
        "parameters": {"b": 1, "a": None, "$defs": {"z": {}, "y": {}}},
        "name": "f",
        "description": None,
        "x": 1,
    }
    task = ask(tools=[{"function": sent, "strict": None, "extra": 1}])
    own = {name: sent[name] for name in ("strict", "parameters", "name")}
    assert json.dumps(shown(task)) == json.dumps([{"type": "function", "function": own}])
    assert task.unknown == ["tools[0].extra is ignored", "tools[0].function.x is ignored"]


@pytest.mark.parametrize(
    ("tool", "is_strict"),
    [
        (function(), False),
        (function(strict=None), False),
        (function(strict=False), False),
        (function(strict=True), True),
        ({**function(), "strict": True}, True),
        ({**function(strict=False), "strict": True}, True),
    ],
)
def test_strict_stands_in_the_function_or_beside_it(tool: Json, is_strict: bool) -> None:  # noqa: FBT001
    assert [one.is_strict for one in parsing(tools=[tool]).tools] == [is_strict]


@pytest.mark.parametrize(
    ("choice", "kind", "named"),
    [
        (None, "auto", ""),
        ("auto", "auto", ""),
        ("required", "required", ""),
        (NAMED, "named", "get_weather"),
        ({"function": {"name": "get_weather"}}, "named", "get_weather"),
    ],
)
def test_each_choice_reaches_the_job(choice: Any, kind: str, named: str) -> None:
    found = parsing(tools=TOOLS, tool_choice=choice)
    assert (found.choice, found.named, len(found.tools)) == (kind, named, 2)


def test_tools_that_may_not_be_called_are_not_shown() -> None:
    """And nothing is asked of a model that cannot call; yet they are checked."""
    for at in (CALLS, {"tool_parser": ""}, {"chat_template": "{turns}"}):
        task = ask(at=at, tools=TOOLS, tool_choice="none")
        assert task.job.parsing is None
        assert "get_weather" not in task.job.prompt_text
    assert problem({"tools": [1], "tool_choice": "none"})[0] == "tools[0]"


def test_a_deployment_may_show_tools_that_may_not_be_called() -> None:
    task = ask(at={"shows_uncalled": True}, tools=TOOLS, tool_choice="none")
    assert (shown(task), task.job.parsing) == (TOOLS, None)
    plain = {"shows_uncalled": True, "chat_template": "{turns}"}
    assert "get_weather" not in ask(at=plain, tools=TOOLS, tool_choice="none").job.prompt_text


@pytest.mark.parametrize(
    ("level", "is_formed", "strict"),
    [("auto", False, [True, False]), ("function", True, [True, False]), ("parameter", True, [True, True])],
)
def test_a_deployment_may_enforce_what_no_request_asks_for(level: str, is_formed: bool, strict: list[bool]) -> None:  # noqa: FBT001
    found = parsing(tools=[function(strict=True), TOOLS[1]], at={"tool_strict_level": level})
    assert found.is_formed is is_formed
    assert [tool.is_strict for tool in found.tools] == strict


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_a_choice_among_some_shows_these_alone(mode: str) -> None:
    choice = {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [NAMED]}}
    task = ask(tools=TOOLS, tool_choice=choice)
    assert shown(task) == TOOLS[:1]
    assert task.job.parsing is not None
    assert ([tool.name for tool in task.job.parsing.tools], task.job.parsing.choice) == (["get_weather"], mode)


def test_functions_are_tools() -> None:
    for choice, kind in ((None, "auto"), ("auto", "auto"), ({"name": "get_weather"}, "named")):
        task = ask(functions=[WEATHER, TIME], function_call=choice)
        same = ask(tools=TOOLS, tool_choice=NAMED if kind == "named" else "auto")
        assert (task.unknown, task.job) == ([], same.job)
    assert ask(functions=[WEATHER], function_call="none").job.parsing is None
    assert parsing(tools=TOOLS, tool_choice=NAMED, function_call={"name": "get_weather"}).named == "get_weather"


def test_tools_stand_in_parameters_too() -> None:
    task = ask(parameters={"tools": TOOLS, "tool_choice": "required"})
    assert (shown(task), task.job.parsing) == (TOOLS, parsing(tools=TOOLS, tool_choice="required"))
    assert problem({"parameters": {"tools": [1]}})[0] == "parameters.tools[0]"


LONG = {"type": "object", "description": "x" * 65_536}


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"tools": {}}, "tools", "must be an array of tools, got an object"),
        ({"functions": "f"}, "functions", 'must be an array of functions, got "f"'),
        ({"tools": [function()] * 129}, "tools", "must have at most 128 tools, got 129"),
        ({"tools": [7]}, "tools[0]", 'such as {"type":"function","function":{"name":"…"}}, got 7'),
        ({"tools": [{"type": "custom", "custom": {}}]}, "tools[0].type", "must be function, no other tools are called"),
        ({"tools": [{"type": "function", "name": "f"}]}, "tools[0].function", "must be an object such as"),
        ({"tools": [function(name="")]}, "tools[0].function.name", "must be 1 to 128 letters, digits or"),
        ({"tools": [function(name="f" * 129)]}, "tools[0].function.name", "must be 1 to 128 letters"),
        ({"tools": [function(name="a b")]}, "tools[0].function.name", 'got "a b"'),
        ({"tools": [function(name="f\n")]}, "tools[0].function.name", "must be 1 to 128"),
        ({"tools": [function(name=None)]}, "tools[0].function.name", "got null"),
        ({"tools": [function(description=7)]}, "tools[0].function.description", "must be a string, got 7"),
        ({"tools": [function(parameters="{}")]}, "tools[0].function.parameters", "must be a JSON Schema (an object)"),
        ({"tools": [function(parameters=LONG)]}, "tools[0].function.parameters", "at most 65536 bytes of JSON, got 65"),
        ({"tools": [function(parameters={"enum": [1] * 1001})]}, "tools[0].function.parameters", "at most 1000 enum"),
        ({"tools": [function(parameters={"$ref": "#/a"})]}, "tools[0].function.parameters", 'has $ref "#/a"'),
        ({"tools": [function(), {**function(), "strict": 1}]}, "tools[1].strict", "must be true or false, got 1"),
        ({"tools": [function(strict="yes")]}, "tools[0].function.strict", 'got "yes"'),
        ({"tools": [function(), function()]}, "tools[1]", 'must not have the name of another one, got "f"'),
        ({"functions": [{"name": "f"}, {"name": ""}]}, "functions[1].name", "must be 1 to 128"),
        ({"tools": TOOLS, "functions": [TIME]}, "functions", "and tools say the same thing in two ways"),
        ({"tools": TOOLS, "tool_choice": "any"}, "tool_choice", "must be one of none, auto, required, or an object"),
        ({"tools": TOOLS, "tool_choice": ["auto"]}, "tool_choice", "got an array"),
        ({"tools": TOOLS, "tool_choice": {"type": "tool", "name": "f"}}, "tool_choice", "got an object"),
        ({"tools": TOOLS, "tool_choice": function()}, "tool_choice", 'names no tool of tools, got "f"'),
        ({"functions": [TIME], "function_call": {"name": "f"}}, "function_call", 'names no tool of functions, got "f"'),
        (
            {"functions": [TIME], "function_call": "required"},
            "function_call",
            "must be none, auto or an object such as",
        ),
        (
            {"tools": TOOLS, "tool_choice": "auto", "function_call": "none"},
            "function_call",
            "and tool_choice say the same",
        ),
        ({"tool_choice": NAMED}, "tool_choice", "needs tools, got an object"),
        ({"tools": [], "tool_choice": "required"}, "tool_choice", 'needs tools, got "required"'),
        (
            {
                "tools": TOOLS,
                "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "all", "tools": [NAMED]}},
            },
            "tool_choice.allowed_tools",
            'must be an object such as {"mode":"auto","tools":[',
        ),
        (
            {"tools": TOOLS, "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}},
            "tool_choice.allowed_tools",
            "got an object",
        ),
        (
            {
                "tools": TOOLS,
                "tool_choice": {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [function()]}},
            },
            "tool_choice",
            'names no tool of tools, got "f"',
        ),
        ({"tools": TOOLS, "use_beam_search": True}, "use_beam_search", "must ask for no beam search beside tools"),
        (
            {"tools": TOOLS, "tool_choice": "required", "guided_regex": "a"},
            "guided_regex",
            "and tool_choice ask for different forms of the text",
        ),
    ],
)
def test_what_is_wrong_with_tools_is_named(fields: Json, param: str, words: str) -> None:
    told, message = problem(fields)
    assert (told, message.startswith(param)) == (param, True)
    assert words in message


def test_tools_have_the_limits_of_the_deployment() -> None:
    two = [function(name="f"), function(name="g")]
    assert len(parsing(tools=two, at={"limits": Limits(max_tools=2)}).tools) == 2
    path, message = problem({"tools": two}, limits=Limits(max_tools=1))
    assert (path, message) == ("tools", "tools must have at most 1 tools, got 2")
    size = len(json.dumps(two, separators=(",", ":")))
    assert len(parsing(tools=two, at={"limits": Limits(max_tools_bytes=size)}).tools) == 2
    path, message = problem({"tools": two}, limits=Limits(max_tools_bytes=size - 1))
    assert (path, message) == ("tools", f"tools must be at most {size - 1} bytes of JSON in all, got {size}")
    deep: Json = {}
    for _ in range(40):
        deep = {"properties": deep}
    assert problem({"tools": [function(parameters=deep)]})[1].endswith("must nest at most 32 deep")


def test_a_model_that_cannot_call_says_why() -> None:
    assert problem({"tools": TOOLS}, chat_template="{turns}") == (
        "tools",
        "tools cannot be served: the model's chat template knows no tools; option.chat_template sets another",
    )
    text = "cannot be served: option.tool_call_parser names no parser, and none was recognised for this model"
    assert problem({"functions": [TIME]}, tool_parser="") == ("functions", f"functions {text}")


def test_a_model_may_be_kept_from_calling_by_itself() -> None:
    for fields in ({}, {"tool_choice": "auto"}):
        path, message = problem({"tools": TOOLS, **fields}, calls_tools=False)
        assert path == "tool_choice"
        assert message == (
            'tool_choice must be none, required or a function: option.enable_auto_tool_choice is false, got "auto"'
        )
    for choice in ("required", NAMED):
        assert parsing(tools=TOOLS, tool_choice=choice, at={"calls_tools": False}).tools


def test_a_form_of_the_text_beside_tools() -> None:
    """A call that has to be made leaves no text for it."""
    form = {"type": "json_object"}
    assert ask(tools=TOOLS, response_format=form).job.sampling.constraint is not None
    assert ask(tools=TOOLS, tool_choice="none", response_format=form).job.sampling.constraint is not None
    for choice in ("required", NAMED):
        assert ask(tools=TOOLS, tool_choice=choice, response_format=form).job.sampling.constraint is None


def test_several_sequences_and_a_turn_that_is_continued_may_call() -> None:
    assert ask(tools=TOOLS, n=2).job.width == 2
    begun = [USER, {"role": "assistant", "content": "It"}]
    task = ask(begun, tools=TOOLS, continue_final_message=True, echo=True)
    assert task.job.prompt_text.endswith("assistant\nIt")
    assert task.job.parsing is not None


CALL: Json = {"id": "call_1", "type": "function", "function": {"name": "get_weather", "arguments": '{"city": "Ōsaka"}'}}
RESULT: Json = {"role": "tool", "tool_call_id": "call_1", "content": [{"type": "text", "text": "7"}]}


def test_a_second_turn_shows_the_call_and_its_result() -> None:
    turns = [USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}, RESULT]
    task = ask(turns, tools=TOOLS)
    called = '{"name": "get_weather", "arguments": {"city": "Ōsaka"}}'
    assert task.job.prompt_text.endswith(f"assistant\n{called}{END}\ntool\n7{END}\nassistant\n")
    assert task.job.parsing is not None
    assert [message["role"] for message in task.job.parsing.messages] == ["user", "assistant", "tool"]


def held(*deltas: Delta, **fields: Any) -> list[Any]:
    """The conversation that a session keeps of one turn with this answer."""
    sessions = Sessions(seconds=60, most=2)
    one = sessions.open()
    body = {"messages": [USER], "tools": TOOLS, **fields}
    task = session.parse_chat(body, deployment(**CALLS), "1", one, sessions)
    for delta in deltas:
        task.render.delta(delta)
    task.render.done(Finished(prompt_tokens=1, completion_tokens=1))
    return one.messages


def call_part(text: str, place: int = 0, identity: str = "", name: str = "", **more: Any) -> Delta:
    return Delta(0, text, [1], kind="call", call=CallPart(place, identity, name), **more)


def test_a_session_keeps_reasoning_and_calls() -> None:
    kept = held(
        Delta(0, "Hm", [1], kind="reasoning"),
        Delta(0, "m.", [1], kind="reasoning"),
        call_part("", 0, "call_1", "get_weather"),
        call_part('{"city": ', 0),
        call_part("{}", 1, "call_2", "get_time"),
        call_part('"Ōsaka"}', 0),
        Delta(0, "", [1], finish=Finish("stop")),
    )
    second = {"id": "call_2", "type": "function", "function": {"name": "get_time", "arguments": "{}"}}
    assert kept == [
        USER,
        {"role": "assistant", "content": None, "reasoning": "Hmm.", "tool_calls": [CALL, second]},
    ]
    spoken = held(Delta(0, "Let me see.", [1]), call_part("{}", 0, "call_2", "get_time"))
    assert spoken[-1] == {"role": "assistant", "content": "Let me see.", "tool_calls": [second]}
    assert held(Delta(0, "Hi", [1]))[-1] == {"role": "assistant", "content": "Hi"}


@pytest.mark.parametrize("content", [None, ""])
def test_the_next_turn_of_a_session_brings_the_result(content: str | None) -> None:
    """By itself, or behind the whole conversation as its client has kept it."""
    for has_all in (False, True):
        sessions = Sessions(seconds=60, most=2)
        one = sessions.open()
        sessions.store(one, [USER, {"role": "assistant", "content": None, "tool_calls": [CALL]}])
        before = [USER, {"role": "assistant", "content": content, "tool_calls": [CALL]}] if has_all else []
        body = {"messages": [*before, RESULT], "tools": TOOLS}
        task = session.parse_chat(body, deployment(**CALLS), "1", one, sessions)
        assert task.job.prompt_text.count("user\nhi") == 1
        assert task.job.prompt_text.count('"Ōsaka"') == 1
        assert task.job.prompt_text.endswith(f"tool\n7{END}\nassistant\n")


def test_a_session_keeps_an_older_call_of_a_function() -> None:
    said = [USER, {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}}]
    turns = [*said, {"role": "function", "name": "f", "content": "5"}]
    kept = held(Delta(0, "Five.", [1]), messages=turns)
    assert kept == [*turns, {"role": "assistant", "content": "Five."}]
