"""The chat dialect: a body becomes a Job or one refusal in the caller's words; events become OpenAI's shapes."""

import contextlib
import json
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmi_chat import dialects
from lmi_chat.chat_template import BadTemplate, Template
from lmi_chat.codec.json_text import Json
from lmi_chat.dialects.chat import request as chat
from lmi_chat.dialects.chat.body import ChatBody
from lmi_chat.dialects.sequence import LMI_FINISH
from lmi_chat.dialects.task import ParsedRequest
from lmi_chat.errors import BadField, Bug, EngineDown, Error, NotFound, PromptTooLong
from lmi_chat.job import Delta, Finish, Finished, SamplingParams, Token, TokenLogprob
from lmi_chat.limits import Limits
from tests.support.fakes import END, ByteTokenizer, brief, delta, deployment, parse, refusal, rendered, token

USER = {"role": "user", "content": "hi"}
PROMPT = f"user\nhi{END}\nassistant\n"
PROMPT_TOKENS = len(PROMPT) - len(END) + 1
DONE = Finished(prompt_tokens=20, completion_tokens=3, cached_tokens=16)
USAGE = {
    "prompt_tokens": 20,
    "completion_tokens": 3,
    "total_tokens": 23,
    "prompt_tokens_details": {"cached_tokens": 16},
    "completion_tokens_details": {"reasoning_tokens": 0},
}
REACHING: dict[str, tuple[Any, str, Any]] = {
    "n": (2, "n", 2),
    "temperature": (0.5, "temperature", 0.5),
    "top_p": (0.9, "top_p", 0.9),
    "top_k": (5, "top_k", 5),
    "min_p": (0.1, "min_p", 0.1),
    "presence_penalty": (-2, "presence_penalty", -2.0),
    "frequency_penalty": (2, "frequency_penalty", 2.0),
    "repetition_penalty": (1.1, "repetition_penalty", 1.1),
    "seed": (7, "seed", 7),
    "max_tokens": (9, "max_tokens", 9),
    "max_completion_tokens": (9, "max_tokens", 9),
    "min_tokens": (3, "min_tokens", 3),
    "stop": ("。", "stop", ("。",)),
    "stop_token_ids": ([1, 2], "stop_token_ids", (1, 2)),
    "ignore_eos": (True, "ignore_eos", True),
    "include_stop_str_in_output": (True, "include_stop_str_in_output", True),
    "skip_special_tokens": (False, "skip_special_tokens", False),
    "spaces_between_special_tokens": (False, "spaces_between_special_tokens", False),
    "logit_bias": ({"7": -100}, "logit_bias", {7: -100.0}),
    "allowed_token_ids": ([1, 256], "allowed_token_ids", (1, 256)),
    "bad_words": (["no"], "bad_words", ("no",)),
    "thinking_token_budget": (7, "thinking_token_budget", 7),
    "prompt_logprobs": (0, "prompt_logprobs", 0),
    "logprobs": (True, "logprobs", 0),
    "max_new_tokens": (9, "max_tokens", 9),
    "min_new_tokens": (3, "min_tokens", 3),
    "stop_sequences": (["a"], "stop", ("a",)),
    "stop_strings": ("a", "stop", ("a",)),
    "num_return_sequences": (2, "n", 2),
}
PLACES = deployment().checkers[ChatBody].places
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)
ANY_BODY = st.dictionaries(st.sampled_from(sorted(PLACES)), ANY_JSON, max_size=5)


def body(**fields: Any) -> Json:
    return {"messages": [USER]} | fields


def ask(**fields: Any) -> ParsedRequest:
    return parse(body(**fields), deployment(), "1")


def refused(**fields: Any) -> Error:
    return refusal(body(**fields), "chat")


def answer(*events: Any, fields: Json | None = None, **changes: Any) -> list[Any]:
    return rendered(parse(body(**fields or {}), deployment(**changes), "1").render, *events)


def contents(chunks: list[Any], index: int = 0) -> str:
    choices = [choice for chunk in chunks for choice in chunk["choices"] if choice["index"] == index]
    return "".join(choice["delta"].get("content", "") for choice in choices)


# What is asked for


def test_the_smallest_request() -> None:
    task = ask()
    assert (task.dialect, task.is_stream, task.has_end, task.unknown, task.user) == ("chat", False, True, [], "")
    assert task.job.prompt_text == PROMPT
    assert len(task.job.prompt_ids) == PROMPT_TOKENS
    assert task.job.sampling == SamplingParams(max_tokens=1024 - PROMPT_TOKENS)
    assert (task.job.id, task.job.priority, task.job.cache_salt) == ("1", 0, None)


@pytest.mark.parametrize("name", REACHING)
def test_each_field_reaches_sampling(name: str) -> None:
    value, field, expected = REACHING[name]
    here = deployment(reasoning_parser="think")
    assert getattr(parse(body(**{name: value}), here).job.sampling, field) == expected
    assert getattr(SamplingParams(), field) != expected


def test_no_field_was_forgotten() -> None:
    assert {name for name, (_, is_sampling) in PLACES.items() if is_sampling} | {"logprobs"} == REACHING.keys()


@pytest.mark.parametrize("name", sorted(PLACES.keys() - {"messages"}))
def test_null_is_absent(name: str) -> None:
    task, plain = ask(**{name: None}), ask()
    assert task.job == plain.job
    assert (task.is_stream, task.unknown, task.user) == (plain.is_stream, [], "")
    assert parse(body(stream=None), deployment(streams_by_default=True), "1").is_stream


def test_fields_beside_sampling() -> None:
    asked = body(priority=-3, cache_salt="salt", user="ada", stream=True, model="tiny", metadata={"a": "b"})
    task = parse(asked, deployment(has_priority=True), "1")
    assert (task.job.priority, task.job.cache_salt, task.user, task.is_stream) == (-3, "salt", "ada", True)
    assert (task.unknown, task.metadata) == ([], {"a": "b"})


def test_a_seed_of_minus_one_is_none() -> None:
    assert ask(seed=-1).job.sampling.seed is None
    assert ask(seed=-2).job.sampling.seed == -2


def test_beam_search_reaches_the_job() -> None:
    job = ask(use_beam_search=True, n=3, length_penalty=0.5, temperature=1).job
    assert (job.beams, job.width, job.length_penalty, job.sampling.n) == (3, 3, 0.5, 1)
    assert (ask(n=3).job.beams, ask(n=3).job.sampling.n) == (0, 3)


@pytest.mark.parametrize(("top", "expected"), [(None, 0), (0, 0), (5, 5), (20, 20)])
def test_top_logprobs(top: int | None, expected: int) -> None:
    assert ask(logprobs=True, top_logprobs=top).job.sampling.logprobs == expected


def test_the_models_own_defaults_stand_below_the_request() -> None:
    defaults = {"temperature": 0.6, "top_p": 0.9, "max_tokens": 50}
    sampling = parse(body(top_p=0.5), deployment(defaults=defaults), "1").job.sampling
    assert (sampling.temperature, sampling.top_p, sampling.max_tokens) == (0.6, 0.5, 50)


@pytest.mark.parametrize(("asked", "used"), [(0, 0.0), (1e-320, 0.0), (0.009, 0.0), (0.01, 0.01), (2, 2.0)])
def test_a_tiny_temperature_is_greedy(asked: float, used: float) -> None:
    assert ask(temperature=asked).job.sampling.temperature == used


def test_two_names_of_one_limit_may_agree_but_not_differ() -> None:
    assert ask(max_tokens=9, max_completion_tokens=9).job.sampling.max_tokens == 9
    for fields in ({"max_tokens": 9, "max_completion_tokens": 8}, {"max_completion_tokens": 8, "max_tokens": 9}):
        error = refused(**fields)
        assert "max_tokens" in error.message
        assert "max_completion_tokens" in error.message


def test_the_prompt_is_kept_to_its_last_tokens() -> None:
    assert ask(truncate_prompt_tokens=11).job.prompt_ids == list(b"\nassistant\n")
    assert len(ask(truncate_prompt_tokens=1000).job.prompt_ids) == PROMPT_TOKENS


def test_a_conversation_is_rendered_by_the_template() -> None:
    messages = [
        {"role": "system", "content": "S"},
        {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
        {"role": "assistant", "content": ""},
        {"role": "developer", "content": "D"},
        {"role": "tool", "content": "T", "tool_call_id": "1"},
    ]
    turns = ["system\nS", "user\na\nb", "assistant\n", "developer\nD", "tool\nT"]
    assert ask(messages=messages).job.prompt_text == "".join(turn + END + "\n" for turn in turns) + "assistant\n"
    assert parse(body(), deployment(chat_template="<{turns}>"), "1").job.prompt_text == f"<{PROMPT}>"


class Templated(ByteTokenizer):
    """A tokenizer whose template is a function of the messages."""

    def __init__(self, source: Callable[[list[dict[str, Any]]], str]) -> None:
        super().__init__()
        self._render = source

    def apply_chat_template(self, conversation: list[dict[str, Any]], **_: Any) -> str:
        return self._render(conversation)


def first_texts(messages: list[dict[str, Any]]) -> str:
    content = messages[0]["content"]
    return content if isinstance(content, str) else "+".join(part["text"] for part in content)


def only_users(messages: list[dict[str, Any]]) -> str:
    if messages[0]["role"] != "user":
        raise ValueError("only users\nspeak here")
    return str(messages[0]["content"])


@pytest.mark.parametrize(
    ("source", "prompt"),
    [
        (first_texts, "a+b"),
        (lambda messages: messages[0]["content"] + "", "a\nb"),
        (lambda messages: str(messages[0]["content"]), "a\nb"),
        (lambda messages: json.dumps(messages[0]["content"]), '"a\\nb"'),
    ],
)
def test_parts_go_to_templates_that_know_them(source: Callable[[Any], str], prompt: str) -> None:
    parts = [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]
    here = deployment(template=Template(Templated(source)))
    assert parse({"messages": [{"role": "user", "content": parts}]}, here, "1").job.prompt_text == prompt


CALLS = {'{"a": [1, "b"]}': '{"a": [1, "b"]}', "": "{}", "[1]": "{}", '{"a": ': "{}", None: "{}"}
WRONG_CALLS: list[tuple[Any, str]] = [
    (7, ""),
    ([7], "[0]"),
    ([{"type": "function"}], "[0]"),
    ([{"type": "custom", "function": {"name": "f"}}], "[0]"),
    ([{"function": {"name": 7}}], "[0].function.name"),
    ([{"id": 7, "function": {"name": "f"}}], "[0].id"),
    ([{"function": {"name": "f", "arguments": 7}}], "[0].function.arguments"),
]


def test_a_turn_of_calls_needs_no_content() -> None:
    """Its content is empty and its arguments are an object; whoever concatenates texts or walks through keys can."""

    def written(messages: list[dict[str, Any]]) -> str:
        calls = [dict(call["function"]["arguments"]) for call in messages[0].get("tool_calls", ())]
        return str(messages[0]["content"] + json.dumps(calls))

    here = deployment(template=Template(Templated(written)))
    call: Json = {"role": "assistant", "content": None}
    for arguments, shown in CALLS.items():
        asked = {"id": "1", "type": "function", "function": {"name": "f", "arguments": arguments}}
        sent = {"messages": [call | {"tool_calls": [asked]}]}
        assert parse(sent, here, "1").job.prompt_text == f"[{shown}]"
        assert asked["function"]["arguments"] == arguments, "the body stays as it came"  # type: ignore[index]
    call["tool_calls"] = [{"function": {"name": "f"}}]
    assert parse({"messages": [call]}, here, "1").job.prompt_text == "[{}]"
    for wrong, path in WRONG_CALLS:
        with pytest.raises(BadField) as raised:
            parse({"messages": [call | {"tool_calls": wrong}]}, here, "1")
        assert raised.value.param == f"messages[0].tool_calls{path}"
    for other in (call | {"role": "user"}, call | {"content": 7}, call | {"tool_calls": []}):
        with pytest.raises(BadField, match=r"messages\[0\].content"):
            parse({"messages": [other]}, here, "1")


def test_a_tokenizer_without_a_backend() -> None:
    tokenizer = ByteTokenizer()
    del tokenizer.backend_tokenizer
    assert Template(tokenizer).encode(f"a{END}", add_special_tokens=False) == [97, 256]


def test_a_template_may_refuse_a_conversation() -> None:
    here = Template(Templated(only_users))
    error = refusal({"messages": [{"role": "assistant", "content": "x"}]}, "chat", template=here)
    assert (error.param, error.status) == ("messages", 400)
    assert error.message == "messages are refused by the model's chat template: only users speak here"


def test_a_template_that_cannot_render_stops_the_start() -> None:
    with pytest.raises(BadTemplate, match="fails for one user message"):
        Template(Templated(lambda messages: str(messages[7])))


def test_a_turn_can_be_continued() -> None:
    messages = [USER, {"role": "assistant", "content": "Hel"}]
    task = ask(messages=messages, continue_final_message=True, add_generation_prompt=False)
    assert task.job.prompt_text.endswith("assistant\nHel")
    assert ask(messages=messages, continue_final_message=True).job.prompt_text.endswith("assistant\nHel")
    assert refused(continue_final_message=True, add_generation_prompt=True).param == "continue_final_message"


@pytest.mark.parametrize("value", [None, "", "tiny", "lmi"])
def test_names_of_the_model(value: str | None) -> None:
    assert ask(model=value).render is not None


def test_other_models_are_not_found() -> None:
    error = refused(model="gpt-4")
    assert isinstance(error, NotFound)
    assert (error.status, error.param) == (404, "model")
    assert '"gpt-4"' in error.message
    assert "tiny" in error.message
    assert isinstance(refused(model=7), BadField)


# What is refused


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"messages": None}, "messages", "must be an array of messages, got null"),
        ({"messages": "hi"}, "messages", 'got "hi"'),
        ({"messages": {}}, "messages", "got an object"),
        ({"messages": []}, "messages", "at least 1 and at most 2048 messages, got 0"),
        ({"messages": [USER] * 2049}, "messages", "at most 2048 messages, got 2049"),
        ({"messages": ["hi"]}, "messages[0]", "must be an object with role and content"),
        ({"messages": [USER, {"content": "x"}]}, "messages[1].role", "got null"),
        ({"messages": [{"role": "wizard", "content": "x"}]}, "messages[0].role", 'tool, function, got "wizard"'),
        ({"messages": [{"role": ["user"], "content": "x"}]}, "messages[0].role", "got an array"),
        ({"messages": [{"role": "user"}]}, "messages[0].content", "got null"),
        ({"messages": [{"role": "user", "content": 7}]}, "messages[0].content", "got 7"),
        (
            {"messages": [{"role": "user", "content": []}]},
            "messages[0].content",
            "must be a string or an array of at least 1 part, got an empty array",
        ),
        ({"messages": [{"role": "user", "content": ["x"]}]}, "messages[0].content[0]", 'got "x"'),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages[0].content[0].text", "got null"),
        (
            {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "file:///etc"}}]}]},
            "messages[0].content[0].type",
            "must be text",
        ),
        ({"messages": [{"role": "assistant", "content": None}]}, "messages[0].content", "got null"),
        ({"messages": [{"role": "user", "content": None, "refusal": "x"}]}, "messages[0].content", "got null"),
        ({"messages": [USER | {"name": 7}]}, "messages[0].name", "must be a string, got 7"),
        ({"messages": [USER | {"name": 0}]}, "messages[0].name", "must be a string, got 0"),
        ({"stream": "yes"}, "stream", 'must be true or false, got "yes"'),
        ({"logprobs": 3}, "logprobs", "must be true or false, got 3"),
        ({"top_logprobs": 3}, "top_logprobs", "needs logprobs to be true, got 3"),
        ({"top_logprobs": 21, "logprobs": True}, "top_logprobs", "at most 20, got 21"),
        ({"max_tokens": True}, "max_tokens", "must be an integer, got true"),
        ({"n": 17}, "n", "at most 16, got 17"),
        ({"n": "x"}, "n", 'got "x"'),
        ({"n": 2, "temperature": "x"}, "temperature", 'got "x"'),
        ({"seed": float(2**64)}, "seed", "got 1.8446744073709552e+19"),
        ({"stop": ["a", 1]}, "stop", "takes strings of at least 1 and at most 1024 characters, item 1 is 1"),
        ({"stop_token_ids": [257]}, "stop_token_ids", "token 257; the vocabulary ends at 256"),
        ({"allowed_token_ids": [1, 10**9]}, "allowed_token_ids", "token 1000000000"),
        ({"logit_bias": {"257": 1}}, "logit_bias", "token 257"),
        ({"min_tokens": 10, "max_tokens": 9}, "min_tokens", "at most 9, got 10"),
        ({"user": 7}, "user", "must be a string, got 7"),
        (
            {"stream_options": {"include_usage": True}},
            "stream_options",
            "must be absent without stream true, got an object",
        ),
        ({"stream_options": [], "stream": True}, "stream_options", "must be an object"),
        ({"stream_options": {"include_usage": 1}, "stream": True}, "stream_options.include_usage", "got 1"),
        ({"add_generation_prompt": "no"}, "add_generation_prompt", "must be true or false"),
        ({"chat_template": "{{ 1 }}"}, "chat_template", "never taken from a request"),
        ({"chat_template_kwargs": {"tokenize": True}}, "chat_template_kwargs.tokenize", "is not allowed"),
        ({"chat_template_kwargs": [1]}, "chat_template_kwargs", "must be an object"),
        ({"modalities": ["audio"]}, "modalities", "text only"),
        ({"tool_choice": "required"}, "tool_choice", 'needs tools, got "required"'),
        ({"tools": {}, "tool_choice": "none"}, "tools", "must be an array of tools, got an object"),
        ({"function_call": {"name": "f"}}, "function_call", "needs tools, got an object"),
        ({"reasoning_effort": "hard"}, "reasoning_effort", "must be one of none, minimal, low, medium, high, xhigh"),
        ({"include_reasoning": 1}, "include_reasoning", "must be true or false, got 1"),
        ({"thinking_token_budget": -2}, "thinking_token_budget", "must be at least -1 and at most 2147483647, got -2"),
        ({"thinking_token_budget": 0}, "thinking_token_budget", "option.reasoning_parser names no parser"),
        ({"use_beam_search": True, "stream": True}, "use_beam_search", "must be false with stream true"),
        ({"best_of": 2, "stream": True}, "best_of", "must be 1 with stream"),
        ({"n": 3, "best_of": 2}, "best_of", "must be at least n = 3, got 2"),
        ({"best_of": True}, "best_of", "got true"),
        ({"prompt_logprobs": 21}, "prompt_logprobs", "at least 0 and at most 20, got 21"),
        ({"prompt_logprobs": 0, "stream": True}, "prompt_logprobs", "must be absent with stream true, got 0"),
        ({"prompt_logprobs": True}, "prompt_logprobs", "must be an integer, got true"),
        ({"parallel_tool_calls": "no"}, "parallel_tool_calls", "must be true or false"),
        ({"audio": {"voice": "alloy"}}, "audio", "gives text only"),
        ({"cache_salt": ""}, "cache_salt", "must not be empty"),
        ({"cache_salt": "s" * 129}, "cache_salt", "must have at most 128 characters, got 129"),
        ({"cache_salt": "a/../b"}, "cache_salt", "must not hold"),
        ({"cache_salt": 1}, "cache_salt", "must be a string, got 1"),
        ({"service_tier": "gold"}, "service_tier", 'must be one of auto, default, flex, priority, got "gold"'),
        ({"user": "u" * 513}, "user", "must have at most 512 characters, got 513"),
        ({"store": "yes"}, "store", "must be true or false"),
        ({"echo": 1}, "echo", "must be true or false, got 1"),
        ({"return_token_ids": 1}, "return_token_ids", "must be true or false, got 1"),
        ({"use_beam_search": True, "logit_bias": {"1": 1}}, "use_beam_search", "no beam search beside logit_bias"),
        ({"use_beam_search": True, "frequency_penalty": 1}, "use_beam_search", "beside frequency_penalty"),
        ({"use_beam_search": True, "prompt_logprobs": 0}, "use_beam_search", "beside prompt_logprobs"),
    ],
)
def test_a_bad_field_is_named(fields: Json, param: str, words: str) -> None:
    error = refused(**fields)
    assert (type(error), error.status, error.param) == (BadField, 400, param)
    assert error.message.startswith(param)
    assert words in error.message


@pytest.mark.parametrize(
    "fields",
    [
        {"tools": []},
        {"tools": [], "tool_choice": "auto", "parallel_tool_calls": True},
        {"tools": [], "tool_choice": "none"},
        {"tools": [{"type": "function", "function": {"name": "f"}}], "tool_choice": "none"},
        {"functions": []},
        {"functions": [{"name": "f"}], "function_call": "none"},
        {"functions": [], "function_call": "auto"},
        {"reasoning_effort": "none"},
        {"include_reasoning": False},
        {"thinking_token_budget": -1},
        {"tool_choice": "auto"},
        {"response_format": {"type": "text"}},
        {"best_of": 1},
        {"modalities": ["text"]},
        {"parallel_tool_calls": False},
        {"adapters": []},
    ],
)
def test_what_asks_for_nothing_is_not_refused(fields: Json) -> None:
    assert ask(**fields).unknown == []


def seen(messages: list[Json], **changes: Any) -> list[Any]:
    """What the template is shown of these messages."""
    found: list[Any] = []

    class Noting(ByteTokenizer):
        def apply_chat_template(self, conversation: list[Json], **flags: Any) -> str | list[int]:
            found[:] = conversation
            return super().apply_chat_template(conversation, **flags)

    here = deployment(template=Template(Noting(**changes)))
    assert parse({"messages": messages}, here, "1").unknown == []
    return found


FUNCTIONS: list[Json] = [
    USER,
    {"role": "assistant", "content": None, "function_call": {"name": "f", "arguments": "{}"}},
    {"role": "function", "name": "f", "content": "5"},
]


def test_calls_of_functions_are_shown_as_calls_of_tools() -> None:
    call = {"id": "call00001", "type": "function", "function": {"name": "f", "arguments": {}}}
    _, asked, given = seen(FUNCTIONS)
    assert (asked["role"], asked["tool_calls"], "function_call" in asked) == ("assistant", [call], False)
    assert given == {"role": "tool", "tool_call_id": "call00001", "name": "f", "content": "5"}
    assert seen([USER, FUNCTIONS[2]])[1] == {"role": "tool", "name": "f", "content": "5"}
    parts = {**FUNCTIONS[2], "content": [{"type": "text", "text": "5"}]}
    assert seen([USER, parts])[1]["role"] == "tool"


@pytest.mark.parametrize(
    "template",
    [
        "{% if message['role'] == 'function' %}",
        '{% if message.role == "tool" or message.role == "function" %}',
        "{% if m.role in ['tool', 'function'] %}",
    ],
)
def test_a_template_that_knows_functions_is_shown_functions(template: str) -> None:
    given = seen(FUNCTIONS, chat_template=template + "{turns}")[2]
    assert given == {"role": "function", "name": "f", "content": "5"}


@pytest.mark.parametrize("template", ["{% if tool.type == 'function' %}", "{{ message.role }} 'function'"])
def test_a_template_that_speaks_of_functions_knows_no_such_role(template: str) -> None:
    assert seen(FUNCTIONS, chat_template=template + "{turns}")[2]["role"] == "tool"


def test_a_function_without_content_is_named() -> None:
    error = refused(messages=[USER, {"role": "function", "name": "f"}])
    assert (error.param, error.status) == ("messages[1].content", 400)


def test_a_model_without_a_template_says_so() -> None:
    error = refusal(body(), "chat", chat_template=None)
    assert error.param == "messages"
    assert "no chat template" in error.message


def test_several_problems_are_named_together() -> None:
    error = refused(temperature=3, top_p=-1, max_tokens=0)
    assert error.param == "temperature"
    assert [part.split()[0] for part in error.message.split("; ")] == ["temperature", "top_p", "max_tokens"]
    many = refused(messages=[{"role": "x", "content": "y"}] * 9)
    assert many.message.count("must be one of") == 5
    assert many.message.endswith("; and 4 more")


@pytest.mark.parametrize(
    "messages",
    [
        [{"role": "user", "content": [1] * 400_000}],
        [{"role": "user", "content": ["€" * 1000] * 12_000}],
        [{"role": '"\\' * 500_000, "content": "\x07" * 1_000_000}] * 6,
        [{"role": "\U0001f600" * 4000}] * 2000,
    ],
)
def test_a_flood_of_problems_is_answered_briefly(messages: list[Any]) -> None:
    error = refused(messages=messages)
    assert error.message.count("; ") == 5
    assert len(error.problems if isinstance(error, BadField) else []) <= 4000


def test_little_of_the_callers_text_is_repeated() -> None:
    error = refused(messages=[{"role": "é" * 500, "content": 1}] * 6)
    assert error.message.count("é") <= 200
    assert refused(temperature="é" * 1_000_000).message.count("é") <= 200


@pytest.mark.parametrize("name", ["max_tokens", "max_completion_tokens"])
@pytest.mark.parametrize("is_stream", [False, True])
def test_a_limit_is_a_cap_and_no_reservation(name: str, *, is_stream: bool) -> None:
    task = ask(**{name: 8192, "stream": is_stream})
    assert task.job.sampling.max_tokens == 1005
    assert task.unknown == [f"{name} is cut to 1005: messages has 19 of the context's 1024 tokens"]
    fits = ask(**{name: 1005})
    assert (fits.job.sampling.max_tokens, fits.unknown) == (1005, [])
    error = refusal(body(**{name: 1006}), "chat", is_strict=True)
    assert isinstance(error, PromptTooLong)
    assert (error.code, error.param) == ("context_length_exceeded", name)
    text = f"{name} must be at most 1005, got 1006: messages has 19 of the context's 1024 tokens. "
    assert (
        error.message
        == text
        + "This model's maximum context length is 1024 tokens (`inputs` tokens + `max_new_tokens` must be <= 1024)"
    )


def test_the_least_that_is_asked_for_is_no_cap() -> None:
    assert ask(min_tokens=9, max_tokens=9).job.sampling.min_tokens == 9
    error = refused(min_tokens=1006, max_tokens=1500)
    assert (error.code, error.param) == ("context_length_exceeded", "min_tokens")
    assert "min_tokens must be at most 1005, got 1006: messages has 19" in error.message
    error = refused(min_tokens=10, max_tokens=9)
    assert (error.code, error.message) == ("bad_field", "min_tokens must be at most 9, got 10")


def test_a_deployment_caps_every_answer() -> None:
    limits = Limits(max_output_tokens=100)

    def asked(**fields: Any) -> tuple[int, list[str]]:
        task = parse(body(**fields), deployment(limits=limits), "1")
        return task.job.sampling.max_tokens, task.unknown

    assert asked() == (100, []), "nothing was asked for that is not given"
    assert asked(max_tokens=100) == (100, [])
    told = "max_tokens is cut to 100: this deployment generates no more (option.max_output_tokens)"
    assert asked(max_tokens=101) == (100, [told])
    long = [{"role": "user", "content": "x" * 1000}]
    assert asked(max_tokens=101, messages=long) == (
        7,
        ["max_tokens is cut to 7: messages has 1017 of the context's 1024 tokens"],
    )
    with pytest.raises(BadField, match=r"min_tokens must be at most 100, got 101: .*max_output_tokens"):
        asked(min_tokens=101)
    error = refusal(body(max_tokens=101), "chat", is_strict=True, limits=limits)
    assert (error.code, error.param) == ("bad_field", "max_tokens")
    assert "must be at most 100, got 101: this deployment generates no more" in error.message


def test_a_nucleus_of_nothing_is_the_likeliest_token() -> None:
    chosen = ask(top_p=0, temperature=1.5, seed=3).job.sampling
    assert chosen == ask(temperature=0).job.sampling
    assert parse(body(), deployment(defaults={"top_p": 0.0}), "1").job.sampling == chosen


def test_a_prompt_that_does_not_fit() -> None:
    room = 1024 - PROMPT_TOKENS + len("hi")
    assert ask(messages=[{"role": "user", "content": "x" * (room - 1)}]).job.sampling.max_tokens == 1
    error = refused(messages=[{"role": "user", "content": "x" * room}])
    assert (error.status, error.param) == (400, "messages")
    words = (
        "messages has 1024 tokens, and at least one is generated: the prompt is too long. "
        "This model's maximum context length is 1024 tokens (`inputs` tokens + `max_new_tokens` must be <= 1024)"
    )
    assert error.message == words


def test_a_hopeless_prompt_is_refused_by_its_characters(monkeypatch: pytest.MonkeyPatch) -> None:
    here = deployment()
    monkeypatch.setattr(here.template, "encode", None)
    with pytest.raises(
        PromptTooLong,
        match=r"messages has 1000026 .* at most 10240: the prompt is too long\. This model's maximum context length",
    ):
        parse(body(messages=[{"role": "user", "content": " " * 1_000_000}]), here, "1")


def test_unknown_keys_are_ignored_with_a_word() -> None:
    task = ask(temprature=0.5, zzz=1, stream=True, stream_options={"include_usge": True})
    assert task.unknown == [
        "temprature is ignored; did you mean temperature?",
        "zzz is ignored",
        "stream_options.include_usge is ignored; did you mean stream_options.include_usage?",
    ]
    assert task.job.sampling.temperature == 1.0
    flood = ask(**{f"key{number}": 1 for number in range(12_000)}).unknown
    assert (len(flood), flood[-1]) == (9, "so are at least 92 more")
    assert ask(**{f"key{number}": 1 for number in range(10)}).unknown[-1] == "so are 2 more"
    assert all(len(text) < 200 for text in ask(**{"x" * 1_000_000: 1, "a\r\nb: c\0": 1}).unknown)


INNER = [
    ({"messages": [USER | {"contnet": "x"}]}, "messages[0].contnet", "messages[0].content"),
    ({"messages": [USER, USER | {"tool_call": []}]}, "messages[1].tool_call", "messages[1].tool_calls"),
    ({"messages": [USER | {"zzz": 1}]}, "messages[0].zzz", ""),
    (
        {"messages": [{"role": "user", "content": [{"type": "text", "text": "a", "txet": "b"}]}]},
        "messages[0].content[0].txet",
        "messages[0].content[0].text",
    ),
    ({"messages": [USER | {"audio": {"id": "a"}}]}, "messages[0].audio", ""),
    (
        {"messages": [{"role": "assistant", "content": "", "function_call": "f"}]},
        "messages[0].function_call",
        "messages[0].tool_calls",
    ),
    (
        {"stream": True, "stream_options": {"include_usge": True}},
        "stream_options.include_usge",
        "stream_options.include_usage",
    ),
    (
        {"response_format": {"type": "json_object", "schemas": {}}},
        "response_format.schemas",
        "response_format.schema",
    ),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "a", "schema": {}, "strickt": True}}},
        "response_format.json_schema.strickt",
        "response_format.json_schema.strict",
    ),
    (
        {"structured_outputs": {"regex": "a", "choise": ["a"]}},
        "structured_outputs.choise",
        "structured_outputs.choice",
    ),
]


@pytest.mark.parametrize(("fields", "path", "near"), INNER, ids=[row[1] for row in INNER])
def test_unknown_keys_are_told_wherever_they_stand(fields: Json, path: str, near: str) -> None:
    hint = f"; did you mean {near}?" if near else ""
    assert ask(**fields).unknown == [f"{path} is ignored{hint}"]
    error = refusal(body(**fields), "chat", is_strict=True)
    assert (error.param, error.message) == (path, f"{path} is not a known key{hint}")


def test_a_key_in_trouble_is_told_with_the_one_that_it_was_misspelled_by() -> None:
    error = refused(messages=[{"role": "user", "contnet": "hi", "zzz": 1}])
    assert error.message == (
        "messages[0].content must be a string or an array of at least 1 part, got null; "
        "messages[0].contnet is not a known key; did you mean messages[0].content?"
    )
    with pytest.raises(Error, match=r"none of the keys .*requestType; did you mean messages by mesages\?"):
        parse({"model": "tiny", "mesages": [USER]}, deployment(), "1")


LMI_REPLY: Json = {
    "role": "assistant",
    "content": "Paris.",
    "refusal": None,
    "annotations": None,
    "audio": None,
    "function_call": None,
    "tool_calls": [],
    "reasoning": None,
    "reasoning_content": None,
    "name": None,
}
OPENAI_REPLY: Json = {"role": "assistant", "content": "Paris.", "refusal": None, "annotations": [], "audio": None}
LITELLM_REPLY: Json = {
    "role": "assistant",
    "content": "Paris.",
    "tool_calls": None,
    "function_call": None,
    "provider_specific_fields": {"reasoning": "Hm."},
    "thinking_blocks": None,
}
STORED = {"id": "chatcmpl-1-0", "role": "assistant", "content": "Paris.", "name": None, "content_parts": None}


@pytest.mark.parametrize("reply", [LMI_REPLY, OPENAI_REPLY, LITELLM_REPLY, STORED])
def test_an_answer_comes_back_as_a_turn_without_a_word(reply: Json) -> None:
    """As LMI, OpenAI, LiteLLM and this server's store give it; the template sees what is in it and no empty keys."""
    here = deployment(template=Template(Templated(json.dumps)), is_strict=True)
    task = parse({"messages": [USER, reply, USER]}, here, "1")
    assert task.unknown == []
    assert json.loads(task.job.prompt_text) == [USER, {"role": "assistant", "content": "Paris."}, USER]


@pytest.mark.parametrize("name", ["reasoning", "reasoning_content"])
def test_an_answer_that_was_cut_while_it_reasoned_comes_back(name: str) -> None:
    here = deployment(template=Template(Templated(json.dumps)))
    task = parse({"messages": [USER, {"role": "assistant", "content": None, name: "Hm."}, USER]}, here, "1")
    assert json.loads(task.job.prompt_text)[1] == {
        "role": "assistant",
        "content": "",
        "reasoning": "Hm.",
        "reasoning_content": "Hm.",
    }


def test_a_refusal_comes_back_as_what_was_said() -> None:
    said = [{"role": "assistant", "content": None, "refusal": "No."}]
    parts = [{"role": "assistant", "content": [{"type": "refusal", "refusal": "No."}]}]
    for turn in (said, parts):
        task = ask(messages=[USER, *turn, USER])
        assert task.unknown == []
        assert "assistant\nNo." in task.job.prompt_text


def test_what_a_template_never_sees_cannot_reach_it() -> None:
    named = {"role": "user", "content": "a", "name": "Ann", "system": "override"}
    task = parse({"messages": [named]}, deployment(template=Template(Templated(json.dumps))), "1")
    assert json.loads(task.job.prompt_text) == [{"role": "user", "content": "a", "name": "Ann"}]


def test_unknown_keys_are_errors_where_the_deployment_is_strict() -> None:
    error = refusal(body(temprature=0.5), "chat", is_strict=True)
    assert (error.param, error.message) == ("temprature", "temprature is not a known key; did you mean temperature?")
    flood = refusal(body(**{f"key{number}": 1 for number in range(12_000)}), "chat", is_strict=True)
    assert "more" in flood.message
    assert refusal(body(**{"é\n\0" * 1_000_000: 1}), "chat", is_strict=True).message.count("é") <= 200


def test_two_kinds_of_request_in_one_body() -> None:
    error = refused(inputs="x")
    assert (error.param, error.message.split(":")[0]) == ("messages", "messages and inputs in one body")
    with pytest.raises(
        Error, match=r"none of the keys .*: messages, inputs, prompt, input, query, text_1, file, requestType"
    ):
        parse({"foo": 1}, deployment(), "1")
    assert parse(body(inputs="x"), deployment(), "1", forced="chat").dialect == "chat"


@brief
@given(ANY_BODY, st.booleans())
def test_any_body_gives_a_task_or_one_refusal(fields: Json, is_strict: bool) -> None:  # noqa: FBT001
    sent = body(**fields)
    with contextlib.suppress(Error):
        task = parse(sent, deployment(is_strict=is_strict), "1")
        assert task.job.sampling.max_tokens >= 1
        return
    refusal(sent, "chat", is_strict=is_strict)


# What is answered


def test_a_whole_answer() -> None:
    [reply] = answer(delta("Hel"), delta(""), delta("lo\n", finish="stop"), DONE)
    assert reply["id"] == "chatcmpl-1"
    assert (reply["object"], reply["model"], reply["usage"]) == ("chat.completion", "tiny", USAGE)
    assert isinstance(reply["created"], int)
    [choice] = reply["choices"]
    assert choice["message"]["role"] == "assistant"
    assert choice["message"]["content"] == "Hello\n"
    assert (choice["index"], choice["logprobs"], choice["finish_reason"]) == (0, None, "stop")


def test_the_fingerprint_is_the_deployments() -> None:
    assert answer(delta("x", finish="stop"), DONE, fingerprint="vllm-1")[0]["system_fingerprint"] == "vllm-1"
    assert answer(delta("x", finish="stop"), DONE)[0]["system_fingerprint"] is None


def test_a_stream() -> None:
    chunks = answer(delta("Hel"), delta("lo"), delta("", finish="length"), DONE, fields={"stream": True})
    assert [chunk["choices"][0]["delta"] for chunk in chunks] == [
        {"role": "assistant", "content": "Hel"},
        {"content": "lo"},
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None, None, "length"]
    assert all(chunk["choices"][0]["logprobs"] is None for chunk in chunks)
    assert {(chunk["id"], chunk["object"], chunk["model"]) for chunk in chunks} == {
        ("chatcmpl-1", "chat.completion.chunk", "tiny")
    }
    assert all("usage" not in chunk for chunk in chunks)


def test_steps_without_text_send_nothing_until_the_end() -> None:
    first, second = Delta(0, "", [226]), Delta(0, "€", [130, 172])
    assert answer(first, fields={"stream": True}) == []
    assert contents(answer(first, second, fields={"stream": True})) == "€"
    first, end = answer(Delta(0, "", [256], finish=Finish("stop")), DONE, fields={"stream": True})
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": ""}
    assert (end["choices"][0]["delta"], end["choices"][0]["finish_reason"]) == ({}, "stop")
    [aborted] = answer(delta("a"), Delta(0, "", [], finish=Finish("abort")), fields={"stream": True})[1:]
    assert aborted["choices"][0]["finish_reason"] == "abort"


@pytest.mark.parametrize("is_stream", [True, False])
def test_sequences_are_kept_apart(is_stream: bool) -> None:  # noqa: FBT001
    events = [delta("a"), delta("x", index=1), delta("b", finish="stop"), delta("y", index=1, finish="length"), DONE]
    replies = answer(*events, fields={"n": 2, "stream": is_stream})
    choices = [choice for reply in replies for choice in reply["choices"]]
    if is_stream:
        assert (contents(replies, 0), contents(replies, 1)) == ("ab", "xy")
        assert [choice["index"] for choice in choices if "role" in choice["delta"]] == [0, 1]
    else:
        assert [choice["message"]["content"] for choice in choices] == ["ab", "xy"]
    ends = {choice["index"]: choice["finish_reason"] for choice in choices if choice["finish_reason"]}
    assert ends == {0: "stop", 1: "length"}


@pytest.mark.parametrize("is_stream", [True, False])
def test_logprobs_of_every_token_with_its_own_bytes(is_stream: bool) -> None:  # noqa: FBT001
    deltas = [
        Delta(0, "", [226], [token(b"\xe2", -0.25, [(b"\xe2", -0.25), (b"a", -9999.0)])]),
        Delta(0, "€!", [130, 172, 33], [token(b"\x82"), token(b"\xac"), token(b"!", -9999.0)], Finish("stop")),
    ]
    replies = answer(*deltas, DONE, fields={"stream": is_stream, "logprobs": True, "top_logprobs": 2})
    shown = [scores["content"] for reply in replies if (scores := reply["choices"][0]["logprobs"])]
    assert [len(content) for content in shown] == ([1, 3] if is_stream else [4])
    tokens = [entry for content in shown for entry in content]
    assert [entry["bytes"] for entry in tokens] == [[0xE2], [0x82], [0xAC], [0x21]]
    assert [entry["logprob"] for entry in tokens] == [-0.25, -0.5, -0.5, -9999.0]
    assert all(isinstance(entry["token"], str) for entry in tokens)
    assert tokens[3]["token"] == "!"
    assert tokens[0]["top_logprobs"][1] == {"token": "a", "logprob": -9999.0, "bytes": [97]}
    assert tokens[3]["top_logprobs"] == []


EOS = token(b"")
LISTED: list[tuple[Json, list[Delta], list[str], list[str]]] = [
    # fields, deltas, the bytes of the tokens that are listed, the chunks' contents
    ({}, [delta("ab"), Delta(0, "", [EOS.choice.id], [EOS], Finish("stop"))], ["a", "b"], ["ab"]),
    ({}, [delta("ab", b"a", b"b", b"", finish="stop")], ["a", "b"], ["ab"]),
    ({}, [delta("ab", b"a", b"b", b".", finish="stop", stop=46)], ["a", "b"], ["ab"]),
    ({}, [delta("ab", b"a", b"", b"b", finish="length")], ["a", "", "b"], ["ab"]),  # ignore_eos
    ({}, [delta("a", b"a", b"\xe2", finish="length")], ["a", "\udce2"], ["a"]),
    ({"skip_special_tokens": False}, [Delta(0, "a", [97], [token(b"a")]), delta("", b"", finish="stop")], ["a"], ["a"]),
    (
        {"include_stop_str_in_output": True},
        [delta("a."), delta("!", b"!", finish="stop", stop=33)],
        ["a", ".", "!"],
        ["a.", "!"],
    ),
    # A stop string, held back:
    (
        {"stop": ["END"]},
        [delta("a", b"a", b"b"), delta("b", b"c"), delta("c", b"EN", b"D", finish="stop", stop="END")],
        ["a", "b", "c"],
        ["a", "b", "c"],
    ),
    ({"stop": ["END"]}, [delta("", b"a"), delta("", b"END", finish="stop", stop="END")], [], [""]),
    (
        {"stop": ["END"]},
        [delta("", b"ab"), delta("abc", b"cEN", b"D!", finish="stop", stop="END")],
        ["ab", "c"],
        ["abc"],
    ),
    ({"stop": ["END"]}, [delta("", b"ab"), delta("abE", b"E", finish="length")], ["ab", "E"], ["abE"]),
    ({"stop": ["END"]}, [delta("", b"ab"), delta("abE", b"E", b"", finish="stop")], ["ab", "E"], ["abE"]),
    ({"stop": ["é"]}, [delta("a", b"a", b"\xc3"), delta("", b"\xa9", finish="stop", stop="é")], ["a"], ["a"]),
    (
        {"stop": ["END"], "include_stop_str_in_output": True},
        [delta("a", b"a"), delta("bEND", b"bEN", b"D!", finish="stop", stop="END")],
        ["a", "bEN", "D"],
        ["a", "bEND"],
    ),
    ({"stop": ["END"]}, [delta("", b"ab"), Delta(0, "ab", [], finish=Finish("time_limit"))], ["ab"], ["ab"]),
]


@pytest.mark.parametrize(("fields", "deltas", "listed", "texts"), LISTED)
def test_the_tokens_that_are_listed_are_the_content(
    fields: Json, deltas: list[Delta], listed: list[str], texts: list[str]
) -> None:
    """Their bytes joined, that is; what ended the text is none of it, and a chunk lists what it says."""
    fields = fields | {"logprobs": True}
    [whole] = answer(*deltas, DONE, fields=fields)
    choice = whole["choices"][0]
    own = [bytes(each["bytes"]) for each in choice["logprobs"]["content"]]
    assert own == [text.encode("utf-8", "surrogateescape") for text in listed]
    assert b"".join(own).decode("utf-8", "ignore") == choice["message"]["content"] == "".join(texts)
    *chunks, _ = [chunk["choices"][0] for chunk in answer(*deltas, DONE, fields=fields | {"stream": True})]
    assert [chunk["delta"]["content"] for chunk in chunks] == texts
    assert [each for chunk in chunks for each in chunk["logprobs"]["content"]] == choice["logprobs"]["content"]
    for chunk in chunks:
        said = b"".join(bytes(each["bytes"]) for each in chunk["logprobs"]["content"])
        assert said.decode("utf-8", "ignore") == chunk["delta"]["content"]


@pytest.mark.parametrize("is_stream", [True, False])
def test_tokens_may_be_named_by_their_ids(is_stream: bool) -> None:  # noqa: FBT001
    said = Delta(0, "ab", [97, 98], [token(b"a", -0.5, [(b"a", -0.5), (b"x", -1.0)]), token(b"b")], Finish("length"))
    fields = {"stream": is_stream, "logprobs": True, "top_logprobs": 2, "return_tokens_as_token_ids": True}
    first, second = answer(said, fields=fields | {"stream": True})[0]["choices"][0]["logprobs"]["content"]
    assert (first["token"], first["bytes"], second["token"]) == ("token_id:97", [97], "token_id:98")
    assert [top["token"] for top in first["top_logprobs"]] == ["token_id:97", "token_id:120"]


def test_logprobs_that_were_not_asked_for_are_not_shown() -> None:
    assert answer(delta("x", finish="stop"), DONE)[0]["choices"][0]["logprobs"] is None
    assert answer(delta("x"), delta("y"), fields={"stream": True})[1]["choices"][0]["logprobs"] is None


def test_usage_comes_last_if_it_was_asked_for() -> None:
    fields = {"stream": True, "stream_options": {"include_usage": True}}
    *chunks, last = answer(delta("a"), delta("b"), delta("", finish="stop"), DONE, fields=fields)
    assert [chunk["usage"] for chunk in chunks] == [None, None, None]
    assert (last["choices"], last["usage"], last["id"]) == ([], USAGE, "chatcmpl-1")


@pytest.mark.parametrize(
    "options", [{"include_usage": False, "continuous_usage_stats": True}, {"continuous_usage_stats": True}]
)
def test_usage_that_was_not_asked_for_is_in_no_chunk(options: Json) -> None:
    events = [delta("a"), delta("b"), delta("", finish="stop"), DONE]
    chunks = answer(*events, fields={"stream": True, "stream_options": options})
    assert [chunk for chunk in chunks if "usage" in chunk or not chunk["choices"]] == []


def test_usage_may_be_in_every_chunk() -> None:
    fields = {"stream": True, "stream_options": {"include_usage": True, "continuous_usage_stats": True}}
    chunks = answer(delta("ab"), delta("c"), delta("", finish="stop"), DONE, fields=fields)
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [2, 3, 3, 3]
    assert chunks[0]["usage"]["total_tokens"] == PROMPT_TOKENS + 2


@pytest.mark.parametrize(
    ("finish", "openai", "lmi"),
    [
        (Finish("stop"), "stop", "eos_token"),
        (Finish("stop", "END"), "stop", "stop_sequence"),
        (Finish("stop", 7), "stop", "eos_token"),
        (Finish("length"), "length", "length"),
        (Finish("abort"), "abort", "abort"),
    ],
)
@pytest.mark.parametrize("is_stream", [True, False])
def test_words_for_an_end(finish: Finish, openai: str, lmi: str, is_stream: bool) -> None:  # noqa: FBT001
    events, fields = [Delta(0, "x", [120], finish=finish), DONE], {"stream": is_stream}
    choice = answer(*events, fields=fields)[-1]["choices"][0]
    assert (choice["finish_reason"], choice["stop_reason"]) == (openai, finish.stop)
    replies = answer(*events, fields=fields, finish_words=LMI_FINISH)
    assert replies[-1]["choices"][0]["finish_reason"] == lmi


@pytest.mark.parametrize("finish", [Finish("stop"), Finish("stop", "END"), Finish("length"), Finish("abort")])
@pytest.mark.parametrize(
    "fields", [{}, {"logprobs": True}, {"return_token_ids": True}, {"stream_options": {"include_usage": True}}]
)
@pytest.mark.parametrize("before", [[], [delta("a")]])
def test_the_end_of_a_stream_stands_alone(before: list[Delta], fields: Json, finish: Finish) -> None:
    events = [*before, Delta(0, "x", [120], [token(b"x")] if "logprobs" in fields else [], finish)]
    *contents, end = [chunk["choices"][0] for chunk in answer(*events, fields=fields | {"stream": True})]
    assert [choice["delta"]["content"] for choice in contents] == ["a", "x"][-len(events) :]
    assert {choice["finish_reason"] for choice in contents} == {None}
    assert contents[0]["delta"]["role"] == "assistant"
    assert (end["delta"], end["logprobs"], end["finish_reason"]) == ({}, None, finish.reason)
    assert end["stop_reason"] == finish.stop
    if "return_token_ids" in fields:
        ids = [[97], [120], []][-len(events) - 1 :]
        assert [choice["token_ids"] for choice in (*contents, end)] == ids


@pytest.mark.parametrize("fields", [{}, {"stream": True}])
def test_an_error_in_place_of_the_rest(fields: Json) -> None:
    [*_, last] = answer(delta("a"), EngineDown("the engine\nis gone"), fields=fields)
    message = "the engine is gone"
    assert last == {"error": {"message": message, "type": "unavailable_error", "param": None, "code": "engine_down"}}


def test_an_error_speaks_its_dialect() -> None:
    error = Error("x")
    assert dialects.error_body(error, "standard")["error"] == "x"
    assert dialects.error_body(error, "chat") == dialects.error_body(error, "") == chat.error_body(error)


def test_our_own_mistakes_are_not_told() -> None:
    assert chat.error_body(KeyError("/secret"))["error"]["message"] == "internal error"
    assert chat.error_body(Bug("x"))["error"]["code"] == "internal_error"
    assert chat.error_body(Error("x", param="a"))["error"]["param"] == "a"


@brief
@given(st.lists(st.text(max_size=6), min_size=1, max_size=8), st.booleans(), st.booleans())
def test_the_stream_joined_is_the_whole_answer(texts: list[str], has_logprobs: bool, has_usage: bool) -> None:  # noqa: FBT001
    deltas = [delta(text) for text in texts[:-1]] + [delta(texts[-1], finish="stop")]
    fields: Json = {"logprobs": has_logprobs}
    [whole] = answer(*deltas, DONE, fields=fields)
    chunks = answer(*deltas, DONE, fields=fields | {"stream": True, "stream_options": {"include_usage": has_usage}})
    choice = whole["choices"][0]
    assert contents(chunks) == choice["message"]["content"] == "".join(texts)
    assert [end for chunk in chunks for each in chunk["choices"] if (end := each["finish_reason"])] == ["stop"]
    if has_usage:
        assert chunks[-1]["usage"] == whole["usage"]
    if has_logprobs:
        scores = [each["logprobs"] for chunk in chunks for each in chunk["choices"] if each["logprobs"]]
        streamed = [entry for each in scores for entry in each["content"]]
        assert streamed == choice["logprobs"]["content"]


def test_an_infinite_logprob_stays_valid_json() -> None:
    sound = Token(TokenLogprob(1, -9999.0, b"a"))
    [reply] = answer(Delta(0, "a", [1], [sound], Finish("stop")), DONE, fields={"logprobs": True})
    assert reply["choices"][0]["logprobs"]["content"][0]["logprob"] == -9999.0


def test_allowed_variables_reach_the_template() -> None:
    class Shouting(ByteTokenizer):
        def apply_chat_template(self, conversation: Any, *args: Any, shout: str = "", **kwargs: Any) -> Any:
            return str(super().apply_chat_template(conversation, *args, **kwargs)) + shout

    here = deployment(template=Template(Shouting()), template_variables=frozenset({"shout"}))
    sent = body(chat_template_kwargs={"shout": "HEY"})
    assert parse(sent, here, "1").job.prompt_text == PROMPT + "HEY"
    for value in ("x" * 1025, ["x"], {"a": 1}):
        error = refusal(body(chat_template_kwargs={"shout": value}), "chat", template_variables=frozenset({"shout"}))
        assert error.param == "chat_template_kwargs.shout"


def test_a_switch_that_every_recipe_sends_is_taken_and_others_are_not() -> None:
    """The template's own variables are those of a Jinja template: tests/test_chat_template.py."""
    assert ask(chat_template_kwargs={"enable_thinking": False}).job.prompt_text == PROMPT
    for name in ("tools", "messages", "add_generation_prompt", "bos_token", "eos_token", "chat_template", "documents"):
        error = refused(chat_template_kwargs={name: "x"})
        assert error.param == f"chat_template_kwargs.{name}"
        assert (
            "is not allowed; the chat template and option.chat_template_kwargs allow enable_thinking" in error.message
        )


@pytest.mark.parametrize("is_stream", [True, False])
def test_echo_and_ids(is_stream: bool) -> None:  # noqa: FBT001
    """A turn that is continued comes back with its beginning; ids of the prompt and of the answer on request."""
    turns = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "Hel"}]
    fields = {
        "messages": turns,
        "continue_final_message": True,
        "echo": True,
        "return_token_ids": True,
        "stream": is_stream,
    }
    events = [Delta(0, "l", [108]), Delta(0, "", [1]), Delta(0, "o", [111], finish=Finish("stop")), DONE]
    choices = [reply["choices"][0] for reply in answer(*events, fields=fields)]
    texts = [choice.get("delta", choice.get("message")).get("content", "") for choice in choices]
    assert "".join(texts) == "Hello"
    assert [token for choice in choices for token in choice["token_ids"]] == [108, 1, 111]
    assert choices[0]["prompt_token_ids"] == ask(**fields).job.prompt_ids
    assert all("prompt_token_ids" not in choice for choice in choices[1:])
    plain = answer(*events, fields={"messages": turns, "echo": True, "stream": is_stream})
    assert plain[0]["choices"][0].get("token_ids") is None
    assert not str(plain[0]["choices"][0].get("delta", plain[0]["choices"][0].get("message"))["content"]).startswith(
        "Hel"
    )


PROMPT_TOKENS_TOLD = (
    None,
    Token(TokenLogprob(104, -1.5, b"h"), (TokenLogprob(120, -0.25, b"x"), TokenLogprob(226, -1.0, b"\xe2")), 3),
    Token(TokenLogprob(105, -9999.0, b"i"), (TokenLogprob(105, -9999.0, b"i"),), 1),
)


def test_the_prompts_logprobs_as_vllm_tells_them() -> None:
    done = Finished(prompt_tokens=3, completion_tokens=1, prompt_logprobs=PROMPT_TOKENS_TOLD)
    [reply] = answer(delta("x", finish="stop"), done, fields={"prompt_logprobs": 2})
    assert reply["prompt_logprobs"] == [
        None,
        {
            "104": {"logprob": -1.5, "rank": 3, "decoded_token": "h"},
            "120": {"logprob": -0.25, "rank": 1, "decoded_token": "x"},
            "226": {"logprob": -1.0, "rank": 2, "decoded_token": "\ufffd"},
        },
        {"105": {"logprob": -9999.0, "rank": 1, "decoded_token": "i"}},
    ]
    assert [list(position) for position in reply["prompt_logprobs"][1:]] == [["104", "120", "226"], ["105"]]
    assert "prompt_logprobs" not in answer(delta("x", finish="stop"), done)[0]


def test_a_reply_holds_so_many_of_the_prompts_logprobs() -> None:
    limits = Limits(max_prompt_logprobs=PROMPT_TOKENS * 3)
    assert parse(body(prompt_logprobs=2), deployment(limits=limits), "1").job.sampling.prompt_logprobs == 2
    error = refusal(body(prompt_logprobs=3), "chat", limits=limits)
    assert error.param == "prompt_logprobs"
    assert f"asks for {PROMPT_TOKENS * 4} log-probabilities" in error.message
    assert f"at most {PROMPT_TOKENS * 3} are given" in error.message


def test_a_deployments_bound_on_the_prompt() -> None:
    def asked(most: int) -> ParsedRequest:
        return parse(body(), deployment(limits=Limits(max_input_tokens=most)), "1")

    assert asked(PROMPT_TOKENS).job.prompt_text == PROMPT
    with pytest.raises(PromptTooLong, match=f"has {PROMPT_TOKENS} tokens; this deployment takes at most 18"):
        asked(PROMPT_TOKENS - 1)
