"""Raw deltas as deltas by kind, with stages that play a script in place of vLLM's parsers."""

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from lmi_chat.engine.vllm.parsing.calls import NUMBERS, Calls, Part, finite
from lmi_chat.engine.vllm.parsing.parsers import Parsing
from lmi_chat.engine.vllm.parsing.pieces import Markers
from lmi_chat.engine.vllm.parsing.sequences import ParsingSink
from lmi_chat.engine.vllm.parsing.stages import Guarded, Marked, Plain, Stage, Whole
from lmi_chat.errors import Bug
from lmi_chat.job import (
    CallPart,
    Delta,
    DeltaKind,
    Event,
    Finish,
    Finished,
    Job,
    ParsingParams,
    SamplingParams,
    Token,
    TokenLogprob,
)

SPECIAL = 9
VOCABULARY: Any = SimpleNamespace(spell=lambda _: b"x", is_special=lambda token_id: token_id == SPECIAL)
SCRIPT = {
    "R": [Part("reasoning", "r")],
    "C": [Part("content", "c")],
    "N": [Part("call", "", CallPart(0, "id0", "f"))],
    "A": [Part("call", "{", CallPart(0))],
    "M": [Part("call", "1", CallPart(1, "id1", "g"))],
    "B": [Part("reasoning", "r"), Part("content", "c"), Part("call", "2", CallPart(0, "id0", "f"))],
    "S": [Part("content", "<s>c")],
}


class Played:
    """A stage that tells by each piece's text what SCRIPT has."""

    passing: DeltaKind | None = None

    def feed(self, text: str, ids: list[int], *, is_last: bool = False) -> Iterator[Part]:  # noqa: ARG002
        for character in text:
            yield from (Part(part.kind, part.text, part.call) for part in SCRIPT.get(character, []))

    def finish(self, *, is_cut: bool) -> Iterator[Part]:
        if is_cut:
            yield Part("content", "|")


class Script(Parsing):
    """Parsers that need no vLLM; `opened`: what the prompt leaves open."""

    def __init__(self, opened: tuple[str, ...] | None = (), *, shows_special: bool = False) -> None:
        self._opened, self._shows = opened, shows_special
        self.stages: list[bool] = []

    markers = Markers({})

    def marks(self, params: ParsingParams) -> Any:  # noqa: ARG002
        return ("<t>",), ("</t>",)

    def opened(self, job: Job, marks: Any) -> tuple[str, ...] | None:  # noqa: ARG002
        return self._opened

    def request(self, job: Job, params: ParsingParams) -> Any:  # noqa: ARG002
        return None

    def shows_special(self, params: ParsingParams, request: Any) -> bool:  # noqa: ARG002
        return self._shows

    def stage(self, *_: Any, is_thinking: bool, opened: Any = ()) -> Stage:  # noqa: ARG002
        self.stages.append(is_thinking)
        return Played()


def token(token_id: int) -> Token:
    return Token(TokenLogprob(token_id, -1.0, b"x"))


def play(
    texts: list[str], parsing: Script | None = None, reason: Any = "stop", *, logprobs: bool = False, **params: Any
) -> list[Any]:
    events: list[Event] = []
    job = Job(id="j", prompt_ids=[1], prompt_text="p", parsing=ParsingParams(**params))
    sink = ParsingSink(parsing or Script(("<t>",)), VOCABULARY, job, events.append)
    for place, text in enumerate(texts):
        sink(Delta(0, text, [place], [token(place)] if logprobs else []))
    sink(Delta(0, "", [], finish=Finish(reason)))
    sink(Finished(prompt_tokens=1, completion_tokens=len(texts)))
    return events


def told(events: list[Any]) -> list[tuple[str, str, list[int]]]:
    return [(event.kind, event.text, event.ids) for event in events if isinstance(event, Delta)]


def test_ids_come_with_what_their_tokens_tell_or_the_next() -> None:
    events = play(["R", "-", "-", "C", "N", "A", "-"])
    assert told(events) == [
        ("reasoning", "r", [0]),
        ("content", "c", [1, 2, 3]),
        ("call", "", [4]),
        ("call", "{", [5]),
        ("call", "", [6]),
    ]
    assert events[-2].finish == Finish("stop")
    assert events[-1].called == ("f",)


NAMES = '{"a": Infinity, "b": [-Infinity, NaN, null], "Infinity NaN": "I \\"N", "c": 1}'
WRITTEN = '{"a": 1e999, "b": [-1e999, null, null], "Infinity NaN": "I \\"N", "c": 1}'


@pytest.mark.parametrize("size", [1, 2, 3, 5, 8, len(NAMES)])
def test_names_that_parsers_make_of_numbers_are_numbers_again(size: int) -> None:
    assert finite(NAMES) == WRITTEN
    assert set(NUMBERS) == {"I", "N"}
    calls, told = Calls(), []
    for start in range(0, len(NAMES), size):
        function = SimpleNamespace(name="" if start else "f", arguments=NAMES[start : start + size])
        told += [part.text for part in calls.read(SimpleNamespace(index=0, id="i", function=function))]
    assert "".join(told) == WRITTEN


class Passing:
    """A stage that notes what it has to read; after R reasoning passes, after anything else content."""

    def __init__(self, read: list[str]) -> None:
        self.passing: DeltaKind | None = None
        self._read = read

    def feed(self, text: str, ids: list[int], *, is_last: bool = False) -> Iterator[Part]:  # noqa: ARG002
        self._read.append(text)
        self.passing = "reasoning" if text == "R" else None if text == "{" else "content"
        yield Part(self.passing or "content", text)

    def finish(self, *, is_cut: bool) -> Iterator[Part]:  # noqa: ARG002
        yield from ()


@pytest.mark.parametrize(
    ("texts", "read", "more"),
    [
        (["R", "a", " b", "<", " c"], ["R", "<"], {}),
        (["C", "a", "{", "b", "c"], ["C", "{", "b"], {}),
        (["C", ",", " (", "é", "🌟", " ", "b"], ["C", " "], {}),
        (["R", "R", "R"], ["R", "R", "R"], {"shows_reasoning": False}),
        (["R", "a", "b"], ["R", "a", "b"], {"logprobs": True}),
        (["C", *"abcdefgh", "i", "j"], ["C", "i"], {}),  # the tenth is a special token
    ],
)
def test_what_passes_as_it_is_is_not_read(texts: list[str], read: list[str], more: Any) -> None:
    seen: list[str] = []
    script = Script(("<t>",))
    script.stage = lambda *_, **__: Passing(seen)  # type: ignore[method-assign]
    events = play(texts, script, **more)
    assert seen[: len(read)] == read
    assert [text for text in seen[len(read) :] if text] == []
    is_hidden = "shows_reasoning" in more
    assert "".join(text for _, text, _ in told(events)) == ("" if is_hidden else "".join(texts))
    assert sum(len(ids) for _, _, ids in told(events)) == (0 if is_hidden else len(texts))
    reasons = [text for kind, text, _ in told(events) if kind == "reasoning" and text]
    assert events[-1].reasoning_tokens == (len(texts) if is_hidden else len(reasons))


def test_one_token_may_tell_of_several_kinds() -> None:
    assert told(play(["B"])) == [("reasoning", "r", [0]), ("content", "c", []), ("call", "2", []), ("call", "", [])]


def test_with_log_probabilities_each_step_has_its_tokens() -> None:
    events = play(["-", "R", "-", "C"], logprobs=True)
    assert [[one.choice.id for one in event.tokens] for event in events[:4]] == [[0], [1], [2], [3]]
    assert [event.kind for event in events[:4]] == ["reasoning", "reasoning", "reasoning", "content"]


def test_reasoning_that_is_not_shown_is_dropped_with_its_tokens() -> None:
    events = play(["R", "-", "R", "C"], logprobs=True, shows_reasoning=False)
    assert told(events) == [("content", "c", [3]), ("content", "", [])]
    assert events[-1].reasoning_tokens == 3
    events = play(["R", "R"], reason="length", shows_reasoning=False)
    assert told(events) == [("content", "|", [])]
    assert events[-2].finish == Finish("length")


@pytest.mark.parametrize(
    ("texts", "count"), [(["R", "-", "R", "</t>", "C"], 3), (["-", "C", "-"], 0), (["R", "-"], 1), (["<t>", "R"], 1)]
)
def test_reasoning_tokens_are_those_whose_text_reasons(texts: list[str], count: int) -> None:
    assert play(texts)[-1].reasoning_tokens == count


@pytest.mark.parametrize(
    ("texts", "is_thinking"),
    [([" ", "<", "t>", "R"], True), (["<", "b>"], False), (["", "\n"], False), (["C"], False), (["<t>"], True)],
)
def test_the_first_text_says_whether_the_answer_reasons(texts: list[str], is_thinking: bool) -> None:  # noqa: FBT001
    parsing = Script(None)
    play(texts, parsing)
    assert parsing.stages == [is_thinking]


def test_nothing_is_lost_while_the_first_text_is_awaited() -> None:
    assert told(play([" ", "<", "C"], Script(None))) == [("content", "c", [0, 1, 2]), ("content", "", [])]


def test_the_second_call_is_dropped_where_calls_are_not_parallel() -> None:
    events = play(["N", "A", "M"], is_parallel=False)
    assert [event.call.place for event in events if isinstance(event, Delta) and event.call] == [0, 0, 0]
    assert events[-1].called == ("f",)


def test_special_tokens_that_only_parsers_see_are_not_told() -> None:
    events: list[Any] = []
    job = Job(id="j", prompt_ids=[1], prompt_text="p", parsing=ParsingParams())
    sink = ParsingSink(Script(shows_special=True), VOCABULARY, job, events.append)
    assert not sink.job.sampling.skip_special_tokens
    sink(Delta(0, "<s>", [SPECIAL]))
    sink(Delta(0, "S", [1], finish=Finish("stop")))
    assert told(events) == [("content", "c", [SPECIAL, 1])]


def test_special_tokens_that_were_asked_for_are_told() -> None:
    events: list[Any] = []
    sampling = SamplingParams(skip_special_tokens=False)
    job = Job(id="j", prompt_ids=[1], prompt_text="p", sampling=sampling, parsing=ParsingParams())
    sink = ParsingSink(Script(shows_special=True), VOCABULARY, job, events.append)
    sink(Delta(0, "<s>", [SPECIAL]))
    sink(Delta(0, "S", [1], finish=Finish("stop")))
    assert told(events)[-1][1] == "<s>c"


def test_an_error_passes() -> None:
    events: list[Any] = []
    job = Job(id="j", prompt_ids=[1], prompt_text="p", parsing=ParsingParams())
    error = Bug("no")
    ParsingSink(Script(), VOCABULARY, job, events.append)(error)
    assert events == [error]


class Failing(Plain):
    def feed(self, text: str, ids: list[int], *, is_last: bool = False) -> Iterator[Part]:
        if text == "!":
            raise ValueError(text)
        return super().feed("" if text == "h" else text, ids, is_last=is_last)


def test_where_foreign_code_fails_the_rest_is_content() -> None:
    failed: list[Exception] = []
    stage = Guarded(Failing(), failed.append)
    texts = [part.text for text in ["a", "h", "!", "b"] for part in stage.feed(text, [])]
    assert texts == ["a", "h!", "b"]
    assert len(failed) == 1
    assert not list(stage.finish(is_cut=False))


class WholeParser:
    def parse(self, text: str, request: Any, **_: Any) -> Any:  # noqa: ARG002
        return None, None, [SimpleNamespace(id="", name="f", arguments=text)]


@pytest.mark.parametrize("pieces", [["a <ca", "ll>{}"], ["a <call>{}"], [*"a <call>{}"]])
def test_content_streams_up_to_the_first_mark_of_a_call(pieces: list[str]) -> None:
    stage = Whole(WholeParser(), None, ("<call>", "<other>"))
    assert "".join(part.text for piece in pieces for part in stage.feed(piece, [])) == "a "
    [part] = stage.finish(is_cut=False)
    assert part.text == "<call>{}"
    assert part.call
    assert part.call.id


def test_arguments_that_come_before_the_name_wait_for_it() -> None:
    calls = Calls()

    def tell(index: int, name: str | None, arguments: str | None) -> list[Part]:
        function = SimpleNamespace(name=name, arguments=arguments)
        return list(calls.read(SimpleNamespace(index=index, id="x", function=function)))

    assert tell(3, None, "{") == []
    assert tell(3, "f", "}") == [Part("call", "{}", CallPart(0, "x", "f"))]


def test_what_follows_a_calls_json_is_content() -> None:
    """Some parsers take all that comes for arguments."""
    calls = Calls()

    def tell(name: str | None, arguments: str) -> list[Part]:
        return list(
            calls.read(SimpleNamespace(index=0, id="x", function=SimpleNamespace(name=name, arguments=arguments)))
        )

    assert tell("f", '{"a": {"}') == [Part("call", '{"a": {"}', CallPart(0, "x", "f"))]
    assert tell(None, '": 1}}\nDone') == [Part("call", '": 1}}', CallPart(0)), Part("content", "\nDone")]
    assert tell(None, ".") == [Part("content", ".")]
    assert tell(None, "\n") == []


@pytest.mark.parametrize("size", [1, 2, 5, 100])
def test_marks_split_reasoning_from_content(size: int) -> None:
    stage = Marked(("Thought:",), ("Answer:", "Reply:"), "</end>")
    text = " Thought:a Answ b Reply:c </en d</end>"
    parts = [part for start in range(0, len(text), size) for part in stage.feed(text[start : start + size], [])] + list(
        stage.finish(is_cut=False)
    )
    assert "".join(part.text for part in parts if part.kind == "reasoning") == "a Answ b "
    assert "".join(part.text for part in parts if part.kind == "content") == "c </en d"


def test_a_token_that_only_begins_as_a_marker_does_keeps_its_id() -> None:
    """Its text is held until it is known that it is none."""

    class Known(Script):
        markers = Markers({"</think>": 3, "<tool_call>": 4})

        def stage(self, *_: Any, is_thinking: bool, opened: Any = ()) -> Stage:  # noqa: ARG002
            return Plain()

    texts = ["a", " </", "b", ">", " <t", "ool", "s", "<"]
    events: list[Event] = []
    job = Job(id="j", prompt_ids=[1], prompt_text="p", parsing=ParsingParams())
    sink = ParsingSink(Known(), VOCABULARY, job, events.append)
    for place, text in enumerate(texts):
        sink(Delta(0, text, [10 + place], finish=Finish("stop") if place == len(texts) - 1 else None))
    deltas = [event for event in events if isinstance(event, Delta)]
    assert "".join(delta.text for delta in deltas) == "".join(texts)
    assert [token_id for delta in deltas for token_id in delta.ids] == [10 + place for place in range(len(texts))]
