"""The completion dialect: prompts of text or ids become Jobs or one refusal; events become OpenAI's text_completion."""

import contextlib
import json
from collections.abc import Sequence
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmi_chat import dialects
from lmi_chat.codec.json_text import Json
from lmi_chat.dialects.completion.body import CompletionBody
from lmi_chat.dialects.sequence import LMI_FINISH
from lmi_chat.dialects.task import ParsedRequest
from lmi_chat.errors import BadField, EngineDown, Error, NotFound, PromptTooLong
from lmi_chat.job import Delta, Finish, Finished, Job, SamplingParams, Token, TokenLogprob
from lmi_chat.limits import Limits
from tests.pipeline.test_pipeline import answered, opened
from tests.support.fakes import END, END_ID, brief, delta, deployment, parse, refusal, rendered, token
from tests.support.scripted import Step

DONE = Finished(prompt_tokens=4, completion_tokens=3, cached_tokens=2)
USAGE = {
    "prompt_tokens": 4,
    "completion_tokens": 3,
    "total_tokens": 7,
    "prompt_tokens_details": {"cached_tokens": 2},
    "completion_tokens_details": {"reasoning_tokens": 0},
}
REACHING: dict[str, tuple[Any, str, Any]] = {
    "max_new_tokens": (9, "max_tokens", 9),
    "min_new_tokens": (3, "min_tokens", 3),
    "stop_sequences": (["a"], "stop", ("a",)),
    "stop_strings": ("a", "stop", ("a",)),
    "num_return_sequences": (2, "n", 2),
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
    "prompt_logprobs": (0, "prompt_logprobs", 0),
    "logprobs": (5, "logprobs", 5),
}
PLACES = deployment().checkers[CompletionBody].places
ANY_JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=3), inner, max_size=3),
    max_leaves=4,
)
ANY_PROMPT = st.just("Once") | st.lists(st.integers(0, 256), max_size=4) | ANY_JSON
ANY_BODY = st.tuples(
    st.fixed_dictionaries({"prompt": ANY_PROMPT}),
    st.dictionaries(st.sampled_from(sorted(PLACES)), st.integers(0, 3) | ANY_JSON, max_size=5),
).map(lambda parts: parts[1] | parts[0])


def body(**fields: Any) -> Json:
    return {"prompt": "Once"} | fields


def ask(**fields: Any) -> ParsedRequest:
    return parse(body(**fields), deployment(), "1")


def answer(*events: Any, fields: Json | None = None, **changes: Any) -> list[Any]:
    return rendered(parse(body(**fields or {}), deployment(**changes), "1").render, *events)


def texts(replies: list[Any]) -> dict[int, str]:
    """Text by choice."""
    joined: dict[int, str] = {}
    for choice in (choice for reply in replies for choice in reply["choices"]):
        joined[choice["index"]] = joined.get(choice["index"], "") + choice["text"]
    return joined


def scores(replies: list[Any]) -> Json:
    """The logprobs of choice 0, chunks joined."""
    shown = [choice["logprobs"] for reply in replies for choice in reply["choices"] if choice["index"] == 0]
    return {name: [item for each in shown for item in each[name]] for name in shown[0]}


# What is asked for


def test_the_smallest_request() -> None:
    task = ask()
    assert (task.dialect, task.is_stream, task.has_end, task.unknown, task.user) == ("completion", False, True, [], "")
    assert task.jobs == (
        Job(
            id="1",
            prompt_ids=list(b"Once"),
            prompt_text="Once",
            sampling=SamplingParams(max_tokens=16, temperature=1.0),
        ),
    )


@pytest.mark.parametrize("name", REACHING)
def test_each_field_reaches_sampling(name: str) -> None:
    value, field, expected = REACHING[name]
    assert getattr(ask(**{name: value}).job.sampling, field) == expected
    assert getattr(ask().job.sampling, field) != expected


def test_no_field_was_forgotten() -> None:
    assert {name for name, (_, is_sampling) in PLACES.items() if is_sampling} | {"logprobs"} == REACHING.keys()


@pytest.mark.parametrize("name", sorted(PLACES.keys() - {"prompt"}))
def test_null_is_absent(name: str) -> None:
    task = ask(**{name: None})
    assert (task.jobs, task.is_stream, task.unknown) == (ask().jobs, False, [])


def test_what_reaches_the_job() -> None:
    task = ask(priority=-1, cache_salt="s", user="u", length_penalty=2, suffix="", model="lmi")
    assert (task.job.priority, task.job.cache_salt, task.job.length_penalty, task.user) == (-1, "s", 2.0, "u")
    assert (ask(n=3, temperature=0).job.copies, ask(n=3, use_beam_search=True).job.beams) == (3, 3)
    assert [text.split()[0] for text in task.unknown] == ["priority"]
    assert parse(body(priority=1), deployment(has_priority=True), "1").unknown == []
    assert ask(stream=True).is_stream
    assert ask(echo=True).job.sampling.prompt_logprobs is None
    assert ask(echo=True, logprobs=2).job.sampling.prompt_logprobs == 2
    assert ask(logprobs=2).job.sampling.prompt_logprobs is None
    assert (ask(n=2).job.sampling.logprobs, ask(n=2, best_of=4).job.sampling.logprobs) == (None, 0)


@pytest.mark.parametrize(
    ("prompt", "expected"),
    [
        ("hé", ["hé"]),
        (["a", "bc"], ["a", "bc"]),
        ([104, 105], ["hi"]),
        ([[104], [105, END_ID]], ["h", "i" + END]),
        (["a", [104]], ["a", "h"]),
        (["a"], ["a"]),
        ([[0, 256]], ["\0" + END]),
    ],
)
def test_prompts(prompt: Any, expected: list[str]) -> None:
    jobs = parse({"prompt": prompt}, deployment(), "1").jobs
    assert [job.prompt_text for job in jobs] == expected
    sent = [prompt] if isinstance(prompt, str) or type(prompt[0]) is int else prompt
    assert [job.prompt_ids for job in jobs] == [list(one.encode()) if isinstance(one, str) else one for one in sent]
    assert [job.id for job in jobs] == (["1"] if sent == [prompt] else [f"1-{place}" for place in range(len(sent))])


def test_special_tokens_are_added_to_text_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    here = deployment()
    monkeypatch.setattr(here.template, "encode", lambda text, add_special_tokens: [add_special_tokens, *text.encode()])
    assert parse(body(), here, "1").job.prompt_ids[0] is True
    assert parse(body(add_special_tokens=False), here, "1").job.prompt_ids[0] is False
    assert parse(body(prompt=[5]), here, "1").job.prompt_ids == [5]


def test_the_prompt_is_kept_to_its_last_tokens() -> None:
    for prompt in ("Once", list(b"Once")):
        job = ask(prompt=prompt, truncate_prompt_tokens=2).job
        assert (job.prompt_ids, job.prompt_text) == (list(b"ce"), "ce")
        assert ask(prompt=prompt, truncate_prompt_tokens=4).job.prompt_text == "Once"
    assert len(ask(prompt=[65] * 5000, truncate_prompt_tokens=9).job.prompt_ids) == 9


# What is refused


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"prompt": None}, "prompt", "must be a string or an array of token ids, or an array of these; got null"),
        ({"prompt": 7}, "prompt", "got 7"),
        ({"prompt": {}}, "prompt", "got an object"),
        ({"prompt": ""}, "prompt", "must not be empty"),
        ({"prompt": []}, "prompt", "must not be empty"),
        ({"prompt": ["a", ""]}, "prompt[1]", "must not be empty"),
        ({"prompt": [[1], []]}, "prompt[1]", "must not be empty"),
        ({"prompt": ["a", 7]}, "prompt[1]", "must be a string or an array of token ids; got 7"),
        ({"prompt": [None]}, "prompt[0]", "got null"),
        ({"prompt": [True, 1]}, "prompt[0]", "got true"),
        ({"prompt": ["a"] * 65}, "prompt", "must have at most 64 prompts, got 65"),
        ({"prompt": [1, "a"]}, "prompt[1]", 'must be a token id of at least 0 and at most 256, got "a"'),
        ({"prompt": [1, True]}, "prompt[1]", "got true"),
        ({"prompt": [1, 257]}, "prompt[1]", "at most 256, got 257"),
        ({"prompt": [-1]}, "prompt[0]", "at least 0"),
        ({"prompt": [[1], [2, 3.0]]}, "prompt[1][1]", "got 3.0"),
        ({"max_tokens": -1}, "max_tokens", "at least 0"),
        ({"max_tokens": 0}, "max_tokens", "must be at least 1 unless echo is true, got 0"),
        ({"max_tokens": 0, "echo": True, "min_tokens": 2}, "min_tokens", "must be 0 with max_tokens 0, got 2"),
        ({"logprobs": 21}, "logprobs", "at least 0 and at most 20, got 21"),
        ({"logprobs": "1"}, "logprobs", 'must be an integer, got "1"'),
        ({"echo": 1}, "echo", "must be true or false, got 1"),
        ({"suffix": "end"}, "suffix", 'is not supported by the served model, got "end"'),
        ({"suffix": 1}, "suffix", "is not supported by the served model"),
        ({"n": 3, "best_of": 2}, "best_of", "must be at least n = 3, got 2"),
        ({"best_of": 2, "stream": True}, "best_of", "must be 1 with stream"),
        ({"use_beam_search": True, "stream": True}, "use_beam_search", "must be false with stream true"),
        ({"use_beam_search": True, "echo": True, "logprobs": 0}, "use_beam_search", "both echo and logprobs"),
        ({"stream_options": {"include_usage": True}}, "stream_options", "must be absent without stream true"),
        ({"temperature": 3}, "temperature", "at least 0 and at most 2, got 3"),
        ({"stop_token_ids": [257]}, "stop_token_ids", "the vocabulary ends at 256"),
        ({"add_special_tokens": "no"}, "add_special_tokens", "must be true or false"),
        ({"user": 7}, "user", "must be a string"),
        ({"user": "u" * 513}, "user", "must have at most 512 characters, got 513"),
        ({"guided_regex": 7}, "guided_regex", "must be a string"),
        ({"guided_choice": ["a"], "use_beam_search": True, "n": 2}, "use_beam_search", ""),
        ({"prompt_logprobs": 1, "stream": True}, "prompt_logprobs", "must be absent with stream true, got 1"),
        ({"prompt_logprobs": 21}, "prompt_logprobs", "at most 20, got 21"),
        ({"prompt_embeds": "AAAA"}, "prompt_embeds", "a prompt is text or token ids"),
        ({"cache_salt": ""}, "cache_salt", "must not be empty"),
        ({"use_beam_search": True, "bad_words": ["a"]}, "use_beam_search", "beside bad_words"),
        ({"stream_options": {"include_usage": 1}, "stream": True}, "stream_options.include_usage", "got 1"),
    ],
)
def test_a_bad_field_is_named(fields: Json, param: str, words: str) -> None:
    error = refusal(body(**fields), "completion")
    assert (type(error), error.status, error.param) == (BadField, 400, param)
    assert error.message.startswith(param)
    assert words in error.message
    assert dialects.error_body(error, "completion")["error"]["param"] == param


def test_as_many_logprobs_as_the_deployment_gives() -> None:
    assert "at most 2, got 3" in refusal(body(logprobs=3), "completion", limits=Limits(max_logprobs=2)).message
    assert ask(logprobs=10).job.sampling.logprobs == 10
    assert parse(body(logprobs=30), deployment(limits=Limits(max_logprobs=30))).job.sampling.logprobs == 30


def test_logprobs_may_be_true_or_false() -> None:
    assert [ask(logprobs=value).job.sampling.logprobs for value in (False, True, None)] == [0, 1, None]


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"prompt": "x" * 1024}, "prompt", "prompt has 1024 tokens, and at least one is generated"),
        ({"prompt": [65] * 2000}, "prompt", "prompt has 2000 tokens"),
        ({"prompt": ["a", "x" * 1024]}, "prompt[1]", "prompt[1] has 1024 tokens"),
        ({"prompt": "x" * 1_000_000}, "prompt", "1024 tokens hold at most 10240"),
        ({"prompt": [65] * 1000, "min_tokens": 25}, "min_tokens", "min_tokens must be at most 24, got 25"),
    ],
)
def test_a_prompt_that_does_not_fit(fields: Json, param: str, words: str) -> None:
    error = refusal(body(**fields), "completion")
    assert (type(error), error.param) == (PromptTooLong, param)
    assert words in error.message
    assert error.message.endswith(
        ". This model's maximum context length is 1024 tokens (`inputs` tokens + `max_new_tokens` must be <= 1024)"
    )
    assert ask(prompt="x" * 1023).job.sampling.max_tokens == 1
    assert ask(prompt="x" * 1023, max_tokens=0, echo=True).job.sampling.max_tokens == 1


def test_a_limit_is_a_cap_and_no_reservation() -> None:
    task = ask(prompt=[[65], [65] * 1000], max_tokens=25)
    assert [job.sampling.max_tokens for job in task.jobs] == [25, 24]
    assert task.unknown == ["max_tokens is cut to 24: prompt[1] has 1000 of the context's 1024 tokens"]
    error = refusal(body(prompt=[65] * 1000, max_tokens=25), "completion", is_strict=True)
    assert (error.code, error.param) == ("context_length_exceeded", "max_tokens")
    capped = parse(body(max_tokens=50), deployment(limits=Limits(max_output_tokens=9)))
    assert (capped.job.sampling.max_tokens, len(capped.unknown)) == (9, 1)
    usual = parse(body(), deployment(limits=Limits(max_output_tokens=9)))
    assert (usual.job.sampling.max_tokens, usual.unknown) == (9, [])


def test_unknown_keys_and_other_names() -> None:
    assert ask(max_token=5).unknown == ["max_token is ignored; did you mean max_tokens?"]
    assert refusal(body(max_token=5), "completion", is_strict=True).param == "max_token"
    assert isinstance(refusal(body(model="gpt2"), "completion"), NotFound)
    assert refusal(body(messages=[]), "").message.startswith("messages and prompt in one body")
    with pytest.raises(BadField, match="prompt must be a string"):
        parse({}, deployment(), "1", forced="completion")


def test_a_prompt_without_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    here = deployment()
    monkeypatch.setattr(here.template, "encode", lambda _, add_special_tokens: [] if add_special_tokens else [1])
    with pytest.raises(BadField, match="prompt must have at least 1 token"):
        parse(body(), here, "1")


@brief
@given(ANY_BODY, st.booleans())
def test_any_body_gives_a_task_or_one_refusal(sent: Json, is_strict: bool) -> None:  # noqa: FBT001
    with contextlib.suppress(Error):
        task = parse(sent, deployment(is_strict=is_strict), "1", forced="completion")
        assert all(job.sampling.max_tokens >= 1 and job.prompt_ids for job in task.jobs)
        return
    refusal(sent, "completion", is_strict=is_strict)


# What is answered


def test_a_whole_answer() -> None:
    [reply] = answer(delta("Hel"), Delta(0, "", []), delta("lo\n", finish="stop"), DONE, fingerprint="f")
    assert isinstance(reply.pop("created"), int)
    choice = {"index": 0, "text": "Hello\n", "logprobs": None, "finish_reason": "stop", "stop_reason": None}
    assert reply == {
        "id": "cmpl-1",
        "object": "text_completion",
        "model": "tiny",
        "system_fingerprint": "f",
        "choices": [choice],
        "usage": USAGE,
    }


def test_a_stream() -> None:
    events = [delta("Hel"), delta(""), delta('l"o'), delta("", finish="length"), DONE]
    chunks = answer(*events, fields={"stream": True})
    plain = {"index": 0, "logprobs": None, "finish_reason": None, "stop_reason": None}
    assert [chunk["choices"] for chunk in chunks] == [
        [plain | {"text": "Hel"}],
        [plain | {"text": 'l"o'}],
        [plain | {"text": "", "finish_reason": "length"}],
    ]
    assert {(chunk["id"], chunk["object"], chunk["model"]) for chunk in chunks} == {
        ("cmpl-1", "text_completion", "tiny")
    }
    assert all("usage" not in chunk for chunk in chunks)


@pytest.mark.parametrize("continuous", [True, False])
def test_usage_in_a_stream(continuous: bool) -> None:  # noqa: FBT001
    options = {"include_usage": True, "continuous_usage_stats": continuous}
    *chunks, last = answer(
        delta("ab"), delta("c"), delta("", finish="stop"), DONE, fields={"stream": True, "stream_options": options}
    )
    assert (last["choices"], last["usage"]) == ([], USAGE)
    counts = [chunk["usage"] and chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == ([2, 3, 3] if continuous else [None] * 3)


@pytest.mark.parametrize("options", [{"include_usage": False}, {}])
def test_usage_that_was_not_asked_for_is_in_no_chunk(options: Json) -> None:
    fields = {"stream": True, "stream_options": options | {"continuous_usage_stats": True}}
    chunks = answer(delta("ab"), delta("c"), delta("", finish="stop"), DONE, fields=fields)
    assert [chunk for chunk in chunks if "usage" in chunk or not chunk["choices"]] == []


@pytest.mark.parametrize(
    ("finish", "openai", "lmi", "stop"),
    [
        (Finish("stop"), "stop", "eos_token", None),
        (Finish("stop", "END"), "stop", "stop_sequence", "END"),
        (Finish("stop", 7), "stop", "eos_token", 7),
        (Finish("length"), "length", "length", None),
        (Finish("abort"), "abort", "abort", None),
    ],
)
@pytest.mark.parametrize("is_stream", [True, False])
def test_words_for_an_end(finish: Finish, openai: str, lmi: str, stop: object, is_stream: bool) -> None:  # noqa: FBT001
    events, fields = [Delta(0, "x", [120], finish=finish), DONE], {"stream": is_stream}
    choice = answer(*events, fields=fields)[0]["choices"][0]
    assert (choice["finish_reason"], choice["stop_reason"]) == (openai, stop)
    replies = answer(*events, fields=fields, finish_words=LMI_FINISH)
    assert replies[0]["choices"][0]["finish_reason"] == lmi


def test_logprobs() -> None:
    one = Delta(0, "", [226], [token(b"\xe2", -0.25, [(b"\xe2", -0.25), (b"a", -9999.0)])])
    two = Delta(0, "€!", [130, 172, 33, 256], [token(b"\x82"), token(b"\xac", -3.0, [(b"\xad", -1.0)]), token(b"!")])
    end = Delta(0, "?", [256, 63], [token(b""), token(b"?")], Finish("stop"))
    for fields in ({"logprobs": 2}, {"logprobs": 2, "stream": True}):
        assert scores(answer(one, two, end, DONE, fields=fields)) == {
            "tokens": ["\ufffd", "\ufffd", "\ufffd", "!", "", "?"],
            "token_logprobs": [-0.25, -0.5, -3.0, -0.5, -0.5, -0.5],
            "top_logprobs": [
                {"\ufffd": -0.25, "a": -9999.0},
                {"\ufffd": -0.5},
                {"\ufffd": -1.0},
                {"!": -0.5},
                {"": -0.5},
                {"?": -0.5},
            ],
            "text_offset": [0, 0, 0, 1, 2, 2],
        }
    assert answer(one, two, end, DONE)[0]["choices"][0]["logprobs"] is None


PROMPT = (None, token(b"n", -1.5, [(b"x", -0.5)]), token(b"c", -2.0), token(b"e", -2.5))


@pytest.mark.parametrize("stream", [True, False])
def test_echo(stream: bool) -> None:  # noqa: FBT001
    events = [Delta(0, "", [32]), delta(" up"), delta("on", finish="stop"), DONE]
    replies = answer(*events, fields={"echo": True, "stream": stream})
    assert texts(replies) == {0: "Once upon"}
    assert replies[0]["choices"][0]["text"] == ("Once" if stream else "Once upon")


@pytest.mark.parametrize("stream", [True, False])
def test_echo_with_logprobs(stream: bool) -> None:  # noqa: FBT001
    first = Delta(0, " ", [32], [token(b" ", -0.75)], prompt=PROMPT)
    replies = answer(first, delta("up", finish="stop"), DONE, fields={"echo": True, "logprobs": 1, "stream": stream})
    shown = scores(replies)
    assert texts(replies) == {0: "Once up"}
    assert shown["tokens"] == [*"Once up"]
    assert shown["token_logprobs"] == [None, -1.5, -2.0, -2.5, -0.75, -0.5, -0.5]
    assert [tops and [*tops.items()] for tops in shown["top_logprobs"][:3]] == [
        None,
        [("n", -1.5), ("x", -0.5)],  # the prompt's own first
        [("c", -2.0)],
    ]
    assert shown["text_offset"] == [0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("logprobs", [None, 0])
def test_the_prompt_alone_is_scored(stream: bool, logprobs: int | None) -> None:  # noqa: FBT001
    fields: Json = {"echo": True, "logprobs": logprobs, "max_tokens": 0, "stream": stream}
    last = Delta(0, "z", [122], [], Finish("stop"), PROMPT if logprobs is not None else ())
    if stream:
        fields["stream_options"] = {"include_usage": True}
    replies = answer(last, DONE, fields=fields)
    assert (texts(replies), replies[0]["choices"][0]["finish_reason"]) == ({0: "Once"}, "length")
    assert replies[-1]["usage"]["completion_tokens"] == 0
    if logprobs is not None:
        assert scores(replies[:1])["token_logprobs"] == [None, -1.5, -2.0, -2.5]
    sampling = ask(**fields).job.sampling
    assert (sampling.max_tokens, sampling.logprobs, sampling.prompt_logprobs) == (1, None, logprobs)


@pytest.mark.parametrize(
    ("prompt", "ids", "tokens", "offsets"),
    [
        # a beginning token that the tokenizer added has no length; one that was spelled has
        ("ab", [END_ID, 97, 98], [None, b"a", b"b"], [0, 0, 1, 2]),
        (END + "b", [END_ID, 98], [None, b"b"], [0, len(END), len(END) + 1]),
        # SentencePiece's first word begins with a space that the text has not
        ("ab", [END_ID, 97, 98], [None, b" a", b"b"], [0, 0, 1, 2]),
        (" ab", [END_ID, 97, 98], [None, b" a", b"b"], [0, 0, 2, 3]),
        ("é", [195, 169], [None, b"\xa9"], [0, 0, 1]),
    ],
)
def test_offsets_are_characters_of_the_text(
    prompt: str, ids: list[int], tokens: list[Any], offsets: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    here = deployment()
    monkeypatch.setattr(here.template, "encode", lambda _, add_special_tokens: ids if add_special_tokens else [])
    known = tuple(None if part is None else token(part) for part in tokens)
    render = parse({"prompt": prompt, "echo": True, "logprobs": 0}, here, "1").render
    first = Delta(0, "x", [120], [token(b"x")], Finish("stop"), known)
    assert scores(rendered(render, first, DONE))["text_offset"] == offsets


def test_a_special_token_that_is_shown_has_a_length() -> None:
    special = Token(TokenLogprob(END_ID, -0.5, END.encode(), is_special=True))
    first = Delta(0, "a" + END + "b", [97, END_ID, 98], [token(b"a"), special, token(b"b")], Finish("stop"))
    shown = answer(first, DONE, fields={"logprobs": 0, "skip_special_tokens": False})
    assert scores(shown)["text_offset"] == [0, 1, 1 + len(END)]


def test_the_prompts_logprobs_as_vllm_tells_them() -> None:
    """Each choice has them, beside an echo's own, which may ask for fewer alternatives."""
    known = (
        None,
        Token(TokenLogprob(110, -1.5, b"n"), (TokenLogprob(120, -0.5, b"x"), TokenLogprob(121, -1.0, b"y")), 3),
    )
    first = Delta(0, " up", [32], [token(b" up", -0.75)], Finish("stop"), known)
    fields = {"prompt_logprobs": 2, "echo": True, "logprobs": 1}
    assert ask(**fields).job.sampling.prompt_logprobs == 2
    [choice] = answer(first, DONE, fields=fields)[0]["choices"]
    assert choice["prompt_logprobs"] == [
        None,
        {
            "110": {"logprob": -1.5, "rank": 3, "decoded_token": "n"},
            "120": {"logprob": -0.5, "rank": 1, "decoded_token": "x"},
            "121": {"logprob": -1.0, "rank": 2, "decoded_token": "y"},
        },
    ]
    assert choice["logprobs"]["top_logprobs"][:2] == [None, {"x": -0.5, "n": -1.5}]
    plain = answer(first, DONE, fields={"echo": True, "logprobs": 1})[0]["choices"][0]
    assert "prompt_logprobs" not in plain


def test_a_reply_holds_so_many_of_the_prompts_logprobs() -> None:
    limits = Limits(max_prompt_logprobs=16)
    fields: Json = {"prompt": ["abcd", "efgh"], "logprobs": 1, "echo": True}
    assert len(parse(fields, deployment(limits=limits), "1").jobs) == 2
    error = refusal(fields | {"n": 2}, "completion", limits=limits)
    assert (error.param, "asks for 32 log-probabilities" in error.message) == ("logprobs", True)
    assert refusal(fields | {"prompt_logprobs": 2}, "completion", limits=limits).param == "prompt_logprobs"


@pytest.mark.parametrize("stream", [True, False])
def test_token_ids(stream: bool) -> None:  # noqa: FBT001
    events = [Delta(0, "l", [108]), Delta(0, "", [1]), Delta(0, "o", [111], finish=Finish("stop")), DONE]
    choices = [reply["choices"][0] for reply in answer(*events, fields={"return_token_ids": True, "stream": stream})]
    assert [one for choice in choices for one in choice["token_ids"]] == [108, 1, 111]
    assert choices[0]["prompt_token_ids"] == list(b"Once")
    assert all("prompt_token_ids" not in choice for choice in choices[1:])
    assert "token_ids" not in answer(*events, fields={"stream": stream})[0]["choices"][0]


@pytest.mark.parametrize("stream", [True, False])
def test_the_token_itself_is_the_first_of_its_alternatives_then_the_likeliest(stream: bool) -> None:  # noqa: FBT001
    tops = [(b"x", -0.25), (b"y", -0.375), (b"c", -2.0)]
    first = Delta(0, "c", [99], [token(b"c", -2.0, tops)], Finish("stop"), (None, token(b"z", -7.0, tops)))
    fields = {"prompt": "az", "echo": True, "logprobs": 3, "stream": stream}
    shown = scores(answer(first, DONE, fields=fields))
    assert [list(tops or ()) for tops in shown["top_logprobs"]] == [[], ["z", "x", "y", "c"], ["c", "x", "y"]]
    assert list(shown["top_logprobs"][2].values()) == [-2.0, -0.25, -0.375]


@pytest.mark.parametrize("stream", [True, False])
def test_tokens_may_be_written_as_their_ids(stream: bool) -> None:  # noqa: FBT001
    last = Delta(0, "ab", [97, 98], [token(b"a", top=[(b"b", -0.25)]), token(b"b")], Finish("stop"))
    fields = {"logprobs": 1, "return_tokens_as_token_ids": True, "stream": stream}
    shown = scores(answer(last, DONE, fields=fields)[:1])
    assert shown["tokens"] == ["token_id:97", "token_id:98"]
    assert shown["top_logprobs"][0] == {"token_id:98": -0.25, "token_id:97": -0.5}
    assert shown["text_offset"] == [0, 1]


@pytest.mark.parametrize("fields", [{}, {"stream": True}, {"max_tokens": 0, "echo": True}])
def test_an_error_in_place_of_the_rest(fields: Json) -> None:
    [*_, last] = answer(delta("a"), EngineDown("the engine\nis gone"), fields=fields)
    message = "the engine is gone"
    assert last == {"error": {"message": message, "type": "unavailable_error", "param": None, "code": "engine_down"}}


@brief
@given(st.lists(st.text(max_size=6), min_size=1, max_size=8), st.booleans(), st.booleans())
def test_the_stream_joined_is_the_whole_answer(parts: list[str], has_logprobs: bool, echo: bool) -> None:  # noqa: FBT001
    deltas = [delta(part) for part in parts[:-1]] + [delta(parts[-1], finish="stop")]
    deltas[0].prompt = PROMPT
    fields: Json = {"logprobs": 1 if has_logprobs else None, "echo": echo}
    if not (has_logprobs and echo):
        deltas[0].prompt = ()
    [whole], chunks = (answer(*deltas, DONE, fields=fields | {"stream": stream}) for stream in (False, True))
    assert texts(chunks) == texts([whole]) == {0: ("Once" if echo else "") + "".join(parts)}
    if has_logprobs:
        shown = scores([whole])
        assert scores(chunks) == shown
        assert len(shown["tokens"]) == len(shown["text_offset"]) == len(shown["top_logprobs"])


# Several prompts and sequences, along the line


def script(job: Job) -> Sequence[Step]:
    """Each sequence says the prompt's last letter and its own number; higher numbers are likelier; they interleave."""
    count = job.sampling.n
    letter = job.prompt_text[-1]
    known = (None, *(token(bytes([byte]), -1.0) for byte in job.prompt_ids[1:])) if job.sampling.prompt_logprobs else ()
    first = [Delta(index, letter, [1], [token(letter.encode(), -1.0)], prompt=known) for index in range(count)]
    second = [
        Delta(index, str(index), [2], [token(b"%d" % index, -9.0 + index)], Finish("stop"))
        for index in reversed(range(count))
    ]
    done = Finished(prompt_tokens=len(job.prompt_ids), completion_tokens=2 * count, cached_tokens=1)
    return [*first, 0.001, *second, done]


async def replies_to(sent: Json) -> tuple[list[Any], list[Job]]:
    line, engine = await opened(script)
    out = await answered(line, sent)
    return [json.loads(text) for text in out.data.splitlines()], engine.jobs[1:]


@pytest.mark.parametrize("stream", [True, False])
@pytest.mark.parametrize("prompt", [["ax", "by"], [[97, 120], [98, 121]]])
async def test_choices_count_prompts_and_sequences(prompt: Any, stream: bool) -> None:  # noqa: FBT001
    replies, jobs = await replies_to({"prompt": prompt, "n": 2, "stream": stream, "echo": True})
    assert texts(replies) == {0: "axx0", 1: "axx1", 2: "byy0", 3: "byy1"}
    assert {reply["id"] for reply in replies} == {"cmpl-t"}
    assert sorted(job.id for job in jobs) == ["t-0", "t-1"]
    if not stream:
        assert [choice["index"] for choice in replies[0]["choices"]] == [0, 1, 2, 3]
        assert (replies[0]["usage"]["prompt_tokens"], replies[0]["usage"]["completion_tokens"]) == (4, 8)


@pytest.mark.parametrize("stream", [True, False])
async def test_greedy_sequences_run_once(stream: bool) -> None:  # noqa: FBT001
    sent = {"prompt": ["a", "b"], "n": 2, "temperature": 0, "stream": stream, "echo": True, "logprobs": 1}
    replies, jobs = await replies_to(sent)
    assert texts(replies) == {0: "aa0", 1: "aa0", 2: "bb0", 3: "bb0"}
    assert [job.sampling.n for job in jobs] == [1, 1]
    assert scores(replies)["token_logprobs"] == [None, -1.0, -9.0]


async def test_the_likeliest_come_back() -> None:
    [reply], jobs = await replies_to({"prompt": ["a", "b"], "n": 2, "best_of": 4})
    assert texts([reply]) == {0: "a3", 1: "a2", 2: "b3", 3: "b2"}
    assert [choice["logprobs"] for choice in reply["choices"]] == [None] * 4
    assert [job.sampling.n for job in jobs] == [4, 4]
    assert reply["usage"]["completion_tokens"] == 16


async def test_several_prompts_are_scored() -> None:
    [reply], _ = await replies_to({"prompt": ["abc", "d"], "n": 2, "echo": True, "max_tokens": 0, "logprobs": 1})
    assert texts([reply]) == {0: "abc", 1: "abc", 2: "d", 3: "d"}
    assert [sum(filter(None, choice["logprobs"]["token_logprobs"])) for choice in reply["choices"]] == [-2, -2, 0, 0]
    assert (reply["usage"]["prompt_tokens"], reply["usage"]["completion_tokens"]) == (4, 0)


async def test_events_end_with_done() -> None:
    line, _ = await opened(script)
    out = await answered(line, {"prompt": "a", "stream": True}, "text/event-stream")
    *events, end, rest = out.data.split(b"\n\n")
    assert (end, rest) == (b"data: [DONE]", b"")
    assert all(orjson.loads(event.removeprefix(b"data: "))["object"] == "text_completion" for event in events)


async def test_a_flood_of_prompts_is_refused_by_name() -> None:
    line, _ = await opened(script)
    with pytest.raises(BadField, match="prompt must have at most 64 items, got more than 100000"):
        await answered(line, {"prompt": [[]] * 2_000_000})
