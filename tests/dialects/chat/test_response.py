"""Answers of chats whose text is taken apart: reasoning, content and calls, the stream of them and the whole."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmi_chat.codec.framing import DOCUMENT
from lmi_chat.codec.json_text import Json
from lmi_chat.dialects.chat.response import Chunks, Shown, Whole
from lmi_chat.dialects.sequence import LMI_FINISH, TGI_FINISH
from lmi_chat.errors import Bug
from lmi_chat.job import (
    CallPart,
    Delta,
    DeltaKind,
    Finish,
    Finished,
    Job,
    ParsingParams,
    Reason,
    SamplingParams,
    Token,
    Tool,
    ToolChoice,
)
from lmi_chat.pipeline.response import ResponseStream
from lmi_chat.testing import called, reasoned, said
from tests.support.fakes import brief, deployment, rendered, token

TOOL = Tool("weather")
ARGUMENTS = '{"city":"Zürich","days":[1,2]}'
PLAIN = Shown(returned=1, has_logprobs=False)
FULL = replace(PLAIN, has_logprobs=True, has_ids=True)
USAGE = {"include_usage": True}


def a_job(choice: ToolChoice = "auto", **sampling: Any) -> Job:
    parsing = ParsingParams(tools=(TOOL,), choice=choice, named=TOOL.name if choice == "named" else "")
    return Job(id="1", prompt_ids=[1, 2], prompt_text="hi", parsing=parsing, sampling=SamplingParams(n=1, **sampling))


def streamed(job: Job, events: Sequence[Any], shown: Shown = PLAIN, **changes: Any) -> list[Json]:
    return rendered(Chunks(job, deployment(**changes), USAGE, shown), *events)


def whole(job: Job, events: Sequence[Any], shown: Shown = PLAIN, **changes: Any) -> Json:
    (document,) = rendered(Whole(job, deployment(**changes), shown), *events)
    assert isinstance(document, dict)
    return document


def played(*parts: Any, job: Job | None = None, reason: Reason = "stop") -> list[Any]:
    """The events of a scripted answer."""
    return [step for step in said(*parts, reason=reason)(job or a_job()) if not isinstance(step, float)]


def deltas_of(chunks: Sequence[Json]) -> list[Json]:
    return [choice["delta"] for chunk in chunks for choice in chunk["choices"]]


def folded(chunks: Sequence[Json], width: int) -> list[Json]:
    """The choices of a whole answer, from its stream, as clients put them together."""
    choices: list[Json] = [
        {"index": index, "message": {"role": None, "content": "", "refusal": None}, "logprobs": None}
        for index in range(width)
    ]
    for part in (choice for chunk in chunks for choice in chunk["choices"]):
        choice = choices[part["index"]]
        message, more = choice["message"], part["delta"]
        message["role"] = more.get("role", message["role"])
        for name in ("content", "reasoning", "reasoning_content"):
            if name in more:
                message[name] = message.get(name, "") + more[name]
        for piece in more.get("tool_calls", []):
            _add(message.setdefault("tool_calls", []), piece)
        if part["logprobs"]:
            choice["logprobs"] = {"content": (choice["logprobs"] or {"content": []})["content"]}
            choice["logprobs"]["content"] += part["logprobs"]["content"]
        if "token_ids" in part:
            choice["token_ids"] = choice.get("token_ids", []) + part["token_ids"]
            choice["prompt_token_ids"] = choice.get("prompt_token_ids", part.get("prompt_token_ids"))
        choice |= {name: part[name] for name in ("finish_reason", "stop_reason") if name in part}
    for choice in choices:
        if "tool_calls" in choice["message"] and not choice["message"]["content"]:
            choice["message"]["content"] = None
    return choices


def _add(calls: list[Json], piece: Json) -> None:
    if piece["index"] == len(calls):
        assert piece.keys() == {"index", "id", "type", "function"}, "a call begins with its name"
        calls.append({"id": piece["id"], "type": piece["type"], "function": {**piece["function"]}})
        return
    assert piece.keys() == {"index", "function"}
    assert piece["function"].keys() == {"arguments"}
    calls[piece["index"]]["function"]["arguments"] += piece["function"]["arguments"]


def test_a_whole_answer_has_each_kind_in_its_place() -> None:
    events = played(reasoned("Hm."), "Let me look.", called("weather", ARGUMENTS), called("time", {}))
    document = whole(a_job(), events)
    assert document["choices"] == [
        {
            "index": 0,
            "message": {
                "role": "assistant",
                "content": "Let me look.",
                "refusal": None,
                "reasoning": "Hm.",
                "reasoning_content": "Hm.",
                "tool_calls": [
                    {"id": "call_0", "type": "function", "function": {"name": "weather", "arguments": ARGUMENTS}},
                    {"id": "call_1", "type": "function", "function": {"name": "time", "arguments": "{}"}},
                ],
            },
            "logprobs": None,
            "finish_reason": "tool_calls",
            "stop_reason": None,
        }
    ]
    assert document["usage"]["completion_tokens_details"] == {"reasoning_tokens": 3}


def test_a_stream_has_a_chunk_for_each_piece() -> None:
    events = played(reasoned("Hm"), "ok", called("weather", "{}"))
    *chunks, last = streamed(a_job(), events)
    first = {"name": "weather", "arguments": ""}
    assert deltas_of(chunks) == [
        {"role": "assistant", "reasoning": "H", "reasoning_content": "H"},
        {"reasoning": "m", "reasoning_content": "m"},
        {"content": "o"},
        {"content": "k"},
        {"tool_calls": [{"index": 0, "id": "call_0", "type": "function", "function": first}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": "{"}}]},
        {"tool_calls": [{"index": 0, "function": {"arguments": "}"}}]},
        {},
    ]
    assert [chunk["choices"][0]["finish_reason"] for chunk in chunks] == [None] * 7 + ["tool_calls"]
    assert (last["choices"], last["usage"]["completion_tokens_details"]) == ([], {"reasoning_tokens": 2})


def test_a_call_alone_leaves_content_null() -> None:
    events = played(called("weather", ARGUMENTS))
    assert whole(a_job(), events)["choices"][0]["message"]["content"] is None
    deltas = deltas_of(streamed(a_job(), events))
    assert deltas[0].keys() == {"role", "tool_calls"}
    assert not any("content" in delta for delta in deltas)


def test_an_answer_that_only_reasons_has_an_empty_content() -> None:
    events = played(reasoned("Hm"), reason="length")
    message = whole(a_job(), events)["choices"][0]["message"]
    assert message == {
        "role": "assistant", "content": "", "refusal": None, "reasoning": "Hm", "reasoning_content": "Hm"
    }  # fmt: skip


@pytest.mark.parametrize("parsing", [None, ParsingParams()])
def test_a_plain_answer_is_the_same_whether_it_is_taken_apart_or_not(parsing: ParsingParams | None) -> None:
    job = replace(a_job(), parsing=parsing)
    events = played("Hi", job=job)
    assert whole(job, events)["choices"][0]["message"] == {"role": "assistant", "content": "Hi", "refusal": None}
    assert deltas_of(streamed(job, events)) == [{"role": "assistant", "content": "H"}, {"content": "i"}, {}]


@pytest.mark.parametrize("names", [("reasoning",), ("reasoning_content",), ("reasoning", "reasoning_content")])
def test_reasoning_goes_by_the_names_of_the_deployment(names: tuple[Any, ...]) -> None:
    events = played(reasoned("H"), "x")
    message = whole(a_job(), events, reasoning_fields=names)["choices"][0]["message"]
    assert {name: text for name, text in message.items() if "reasoning" in name} == dict.fromkeys(names, "H")
    first, *others = deltas_of(streamed(a_job(), events, reasoning_fields=names))
    assert first == {"role": "assistant"} | dict.fromkeys(names, "H")
    assert others == [{"content": "x"}, {}]


@pytest.mark.parametrize(
    ("choice", "reason", "words", "told"),
    [
        ("auto", "stop", None, "tool_calls"),
        ("required", "stop", None, "tool_calls"),
        ("named", "stop", None, "stop"),
        ("auto", "length", None, "length"),
        ("auto", "time_limit", None, "time_limit"),
        ("auto", "abort", None, "abort"),
        ("auto", "stop", LMI_FINISH, "eos_token"),
        ("required", "length", LMI_FINISH, "length"),
        ("auto", "time_limit", TGI_FINISH, "length"),
    ],
)
def test_words_for_the_end_of_a_call(choice: ToolChoice, reason: Reason, words: Any, told: str) -> None:
    job = a_job(choice)
    events = played(called("weather", ARGUMENTS), job=job, reason=reason)
    assert whole(job, events, finish_words=words)["choices"][0]["finish_reason"] == told
    assert streamed(job, events, finish_words=words)[-2]["choices"][0]["finish_reason"] == told


def test_each_sequence_has_its_own_end() -> None:
    job = a_job()
    job = replace(job, sampling=replace(job.sampling, n=2))
    events = [
        Delta(0, "", [1], kind="call", call=CallPart(0, "a", "weather")),
        Delta(1, "no", [2], finish=Finish("stop")),
        Delta(0, "{}", [3], finish=Finish("stop"), kind="call", call=CallPart(0)),
        Finished(prompt_tokens=2, completion_tokens=3, called=("weather",)),
    ]
    shown = replace(PLAIN, returned=2)
    assert [one["finish_reason"] for one in whole(job, events, shown)["choices"]] == ["tool_calls", "stop"]
    ends = {
        choice["index"]: choice["finish_reason"]
        for chunk in streamed(job, events, shown)
        for choice in chunk["choices"]
        if choice["finish_reason"]
    }
    assert ends == {0: "tool_calls", 1: "stop"}


@pytest.mark.parametrize("length", range(len(ARGUMENTS)))
def test_a_call_that_is_cut_stays_as_it_came(length: int) -> None:
    """Nothing closes its JSON: what does not parse was not complete."""
    events = played(called("weather", ARGUMENTS[:length]), reason="length")
    choice = whole(a_job(), events)["choices"][0]
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == ARGUMENTS[:length]
    assert choice["finish_reason"] == "length"
    assert folded(streamed(a_job(), events), 1) == [choice]


def test_the_likeliest_of_several_brings_its_own_calls() -> None:
    job = a_job(logprobs=0)
    job = replace(job, sampling=replace(job.sampling, n=2))
    events = [
        Delta(0, "no", [1], [token(b"n", -3.0)], Finish("stop")),
        Delta(1, "{}", [2], [token(b"{", -0.1)], Finish("stop"), kind="call", call=CallPart(0, "a", "weather")),
        Finished(prompt_tokens=2, completion_tokens=2, called=("weather",)),
    ]
    (choice,) = whole(job, events)["choices"]
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "weather", "arguments": "{}"}
    assert (choice["index"], choice["finish_reason"], choice["message"]["content"]) == (0, "tool_calls", None)


def test_a_call_that_is_cut_behind_its_name_is_told() -> None:
    events = [
        Delta(0, "So", [1]),
        Delta(0, "", [2], finish=Finish("length"), kind="call", call=CallPart(0, "a", "weather")),
        Finished(prompt_tokens=2, completion_tokens=2, called=("weather",)),
    ]
    choice = whole(a_job(), events)["choices"][0]
    assert choice["message"]["tool_calls"][0]["function"] == {"name": "weather", "arguments": ""}
    assert folded(streamed(a_job(), events), 1) == [choice]


def test_a_limit_of_time_within_a_call() -> None:
    *events, _, _ = played(called("weather", ARGUMENTS))
    events += [
        Delta(0, "", [], finish=Finish("time_limit")),
        Finished(prompt_tokens=2, completion_tokens=9, reasons=("time_limit",), called=("weather",)),
    ]
    choice = whole(a_job(), events)["choices"][0]
    assert choice["finish_reason"] == "time_limit"
    assert choice["message"]["tool_calls"][0]["function"]["arguments"] == ARGUMENTS[:-1]
    assert folded(streamed(a_job(), events), 1) == [choice]


def test_a_failure_within_a_call_is_told_as_any_other() -> None:
    render = Chunks(a_job(), deployment(), {}, PLAIN)
    *_, error = rendered(render, *played(called("weather", ARGUMENTS))[:5], Bug("boom"))
    assert error["error"]["code"] == "internal_error"


def test_a_turn_that_is_continued_begins_the_content() -> None:
    shown = replace(PLAIN, begun="Once")
    job, events = a_job(), played(reasoned("H"), " upon")
    assert deltas_of(streamed(job, events, shown))[0] == {
        "role": "assistant", "content": "Once", "reasoning": "H", "reasoning_content": "H"
    }  # fmt: skip
    assert whole(job, events, shown)["choices"][0]["message"]["content"] == "Once upon"
    events = played(called("weather", "{}"))
    assert deltas_of(streamed(job, events, shown))[0]["content"] == "Once"
    assert whole(job, events, shown)["choices"][0]["message"]["content"] == "Once"


def test_usage_in_every_chunk_counts_what_reasons_so_far() -> None:
    usage = {"include_usage": True, "continuous_usage_stats": True}
    chunks = rendered(Chunks(a_job(), deployment(), usage, PLAIN), *played(reasoned("Hm"), "ok"))
    counts = [chunk["usage"]["completion_tokens_details"]["reasoning_tokens"] for chunk in chunks]
    assert counts == [1, 2, 2, 2, 2, 2]
    assert [chunk["usage"]["completion_tokens"] for chunk in chunks] == [1, 2, 3, 4, 4, 4]


def test_log_probabilities_come_with_their_delta_whatever_it_is() -> None:
    job = a_job(logprobs=0)
    events = played(reasoned("H"), "x", called("weather", "{}"), job=job)
    told = [
        (
            choice["delta"].keys() - {"role"},
            [one["token"] for one in (choice["logprobs"] or {"content": []})["content"]],
        )
        for chunk in streamed(job, events, FULL)
        for choice in chunk["choices"]
    ]
    calls = {"tool_calls"}
    assert told == [
        ({"reasoning", "reasoning_content"}, ["H"]),
        ({"content"}, ["x"]),
        (calls, ["w"]),
        (calls, ["{"]),
        (calls, ["}"]),
        (set(), []),
    ]


def test_tokens_without_a_text_are_told_without_one() -> None:
    """A marker's tokens have log-probabilities and ids, and stand in no text: no content begins by them."""
    job = a_job(logprobs=0)
    marker = token(b"<")
    events = [
        Delta(0, "", [60], [marker], kind="reasoning"),
        Delta(0, "", [60], [marker], kind="call"),
        Delta(0, "", [119], [token(b"w")], kind="call", call=CallPart(0, "a", "weather")),
        Delta(0, "", [60], [marker], kind="call", call=CallPart(0)),
        Delta(0, "", [], finish=Finish("stop"), kind="call", call=CallPart(0)),
        Finished(prompt_tokens=2, completion_tokens=4, called=("weather",)),
    ]
    chunks = streamed(job, events, FULL)
    assert [list(delta) for delta in deltas_of(chunks)] == [["role"], [], ["tool_calls"], [], []]
    choice = whole(job, events, FULL)["choices"][0]
    assert len(choice["logprobs"]["content"]) == 4
    assert folded(chunks, 1) == [choice]


def test_what_a_whole_answer_holds_is_counted_whatever_it_is() -> None:
    render = Whole(a_job(), deployment(), PLAIN)
    for event in played(reasoned("abc"), "de", called("weather", "{}"))[:-1]:
        render.delta(event)
    assert render.held_bytes == len("abc" + "de" + "weather" + "{}")


def test_copies_of_a_greedy_answer_are_counted_and_shown_each() -> None:
    job = replace(a_job(), copies=2)
    response = ResponseStream(render := Whole(job, deployment(), replace(PLAIN, returned=2)), DOCUMENT, (job,))
    (sink,) = response.sinks()
    for event in played(reasoned("H"), called("weather", "{}"), job=job):
        sink(event)
    assert render.held_bytes == 2 * len("H" + "weather" + "{}")
    document = json.loads(response.document())
    first, second = document["choices"]
    assert first["message"] == second["message"]
    assert document["usage"]["completion_tokens_details"] == {"reasoning_tokens": 2}


@dataclass(frozen=True)
class Answer:
    """One sequence, token by token: kind, text, and which call it belongs to, with its name where it begins."""

    units: tuple[tuple[DeltaKind, str, CallPart | None], ...]
    sizes: tuple[int, ...]
    finish: Finish

    def deltas(self, index: int) -> Iterator[Delta]:
        """As an engine gives them: of the deltas of a step the first has all tokens, the last has the end."""
        units, sizes = list(self.units), [*self.sizes]
        while units:
            size = sizes.pop() if sizes else len(units)
            step, units = units[:size], units[size:]
            tokens = [token(text.encode() or b"<") for _, text, _ in step]
            if not units and self.finish == Finish("stop"):
                tokens.append(token(b""))
            parts = [list(each) for _, each in groupby(step, key=lambda unit: (unit[0], unit[2] and unit[2].place))]
            for place, part in enumerate(parts):
                yield self._delta(index, part, tokens if place == 0 else [], is_last=not units and part is parts[-1])

    def _delta(self, index: int, part: list[Any], tokens: list[Token], *, is_last: bool) -> Delta:
        kind, call = part[0][0], part[0][2]
        text = "".join(text for _, text, _ in part)
        ids = [each.choice.id for each in tokens]
        return Delta(index, text, ids, tokens, self.finish if is_last else None, kind=kind, call=call)

    def message(self) -> tuple[str, str, list[tuple[str, str]]]:
        """Content, reasoning and calls."""
        calls: list[list[str]] = []
        for _, text, call in self.units:
            if call is not None:
                calls += [[call.name, ""]] if call.name else []
                calls[call.place][1] += text
        content, reasoning = ("".join(text for kind, text, _ in self.units if kind == one) for one in KINDS)
        return content, reasoning, [(name, arguments) for name, arguments in calls]


KINDS: tuple[DeltaKind, DeltaKind] = ("content", "reasoning")
ENDS = (Finish("stop"), Finish("length"), Finish("stop", "x"), Finish("stop", 7), Finish("abort"), Finish("time_limit"))


@st.composite
def answers(draw: st.DrawFn) -> Answer:
    units: list[tuple[DeltaKind, str, CallPart | None]] = []
    place = -1
    texts = st.text('aé€ "{\\', max_size=4)
    kinds: st.SearchStrategy[DeltaKind] = st.sampled_from(("content", "reasoning", "call"))
    for kind in draw(st.lists(kinds, max_size=5)):
        text, call = draw(texts), None
        if kind != "call" and draw(st.booleans()):
            units.append((kind, "", None))  # a marker's token, which has no text
        if kind == "call":
            place += 1
            units.append(("call", "", CallPart(place, f"call_{place}", draw(st.sampled_from(["a", "weather"])))))
            call = CallPart(place)
        units += [(kind, character, call) for character in text]
    units = units or [("content", "", None)]
    sizes = draw(st.lists(st.integers(1, 6), max_size=len(units)))
    return Answer(tuple(units), tuple(sizes), draw(st.sampled_from(ENDS)))


@brief
@given(
    st.lists(answers(), min_size=1, max_size=3),
    st.sampled_from(["auto", "required", "named"]),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["", "Once"]),
    st.sampled_from([None, LMI_FINISH]),
)
def test_a_stream_joined_is_the_whole_answer(
    said: list[Answer],
    choice: ToolChoice,
    has_logprobs: bool,  # noqa: FBT001
    has_ids: bool,  # noqa: FBT001
    begun: str,
    words: Any,
) -> None:
    job = a_job(choice, logprobs=0 if has_logprobs else None)
    job = replace(job, sampling=replace(job.sampling, n=len(said)))
    events: list[Any] = [delta for index, answer in enumerate(said) for delta in answer.deltas(index)]
    if not has_logprobs:
        events = [replace(delta, tokens=[]) for delta in events]
    events.append(Finished(prompt_tokens=2, completion_tokens=9, reasoning_tokens=4))
    shown = Shown(returned=len(said), has_logprobs=has_logprobs, has_ids=has_ids, begun=begun)
    document = whole(job, events, shown, finish_words=words)
    chunks = streamed(job, events, shown, finish_words=words)
    joined = folded(chunks, len(said))
    for made, kept, answer in zip(joined, document["choices"], said, strict=True):
        if has_logprobs and made["logprobs"] is None:
            made["logprobs"] = {"content": []}
        assert made == kept
        content, reasoning, calls = answer.message()
        message = kept["message"]
        assert (message["content"] or "") == begun + content
        assert message.get("reasoning", "") == reasoning
        assert [tuple(call["function"].values()) for call in message.get("tool_calls", [])] == calls
        if has_logprobs:
            assert len(kept["logprobs"]["content"]) == len(answer.units)
    assert chunks[-1]["usage"] == document["usage"]
