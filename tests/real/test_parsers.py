"""The law "streamed = whole" over vLLM's parsers: however steps split an answer's tokens, its deltas joined are one.

And they are what the parser makes of the whole text. Parsers that break that are listed in held_back.py, no other.
"""

import inspect
import json
import random
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from types import SimpleNamespace
from typing import Any

import pytest
from openai_harmony import HarmonyEncoding, HarmonyEncodingName, load_harmony_encoding

from lmi_chat.engine.vllm.engine import Vllm
from lmi_chat.engine.vllm.parsing import call_steps, held_back
from lmi_chat.engine.vllm.parsing.parsers import Parsing
from lmi_chat.engine.vllm.parsing.sequences import ParsingSink
from lmi_chat.engine.vllm.vocabulary import Vocabulary
from lmi_chat.errors import BadField
from lmi_chat.job import (
    Delta,
    Event,
    Finish,
    Finished,
    Job,
    OutputConstraint,
    ParsingParams,
    Reason,
    SamplingParams,
    Tool,
    ToolChoice,
)
from tests.real import parser_formats as formats
from tests.real.parser_formats import Call

NOT_HERE = {"cohere_command3", "cohere_command4", "hf"}
"""These need a library that is not installed, or a template in the tokenizer's own configuration."""
RANDOM_SPLITS = 3
LAG = 7  # characters that stop strings hold back
PROPERTIES = {"city": {"type": "string"}, "days": {"type": "integer"}, "where": {"type": "object"}}
PROPERTIES |= {"tags": {"type": "array"}, "note": {"type": "string"}}
TOOLS = (
    Tool("get_weather", "", {"type": "object", "properties": PROPERTIES}),
    Tool("now", "", {"type": "object", "properties": {}}),
)
SHORT: Call = ("get_weather", {"city": "Paris", "days": 3})
NESTED: Call = (
    "get_weather",
    {
        "city": "Zürich 🌟 東京",
        "where": {"lat": 1.5, "names": ["a", {"b": "c"}]},
        "tags": ["x", "y"],
        "note": 'say "hi" \\ there',
    },
)
EMPTY: Call = ("now", {})
ANSWERS: dict[str, tuple[str, list[Call], str]] = {
    "no call": ("Just text, a < b [1] {x}.\nBye", [], ""),
    "one": ("", [SHORT], ""),
    "two in parallel": ("", [SHORT, NESTED], ""),
    "empty arguments": ("", [EMPTY], ""),
    "empty arguments, then others": ("", [EMPTY, SHORT], ""),
    "prose before": ("Let me look.\n", [SHORT], ""),
    "prose after": ("", [SHORT], "\nDone."),
    "signs before": ('Well: "so" (they) said, 3.5 % + €4; «ça» – 👩‍👧! Is it… 你好，世界? & then', [SHORT], ""),
    "prose around two, not ASCII": ("Hm, wait: 東京🌟.", [NESTED, SHORT], "\nThat is all."),
}
THOUGHT = 'Let me think.\n a < b, 東京🌟? ("Yes"), 3.5 % + €4; «ça» – 👩‍👧!'


class Harmony:
    """gpt-oss's own tokenizer, as far as parsers ask."""

    eos_token_id = 200002
    all_special_ids = (199999, 200002, 200003, 200005, 200006, 200007, 200008, 200012)

    def __init__(self, encoding: HarmonyEncoding) -> None:
        self._encoding = encoding

    def encode(self, text: str, **_: object) -> list[int]:
        ids: list[int] = self._encoding.encode(text, allowed_special="all")
        return ids

    def decode(self, ids: list[int], *, skip_special_tokens: bool = False) -> str:
        return str(
            self._encoding.decode([one for one in ids if not (skip_special_tokens and one in self.all_special_ids)])
        )

    def get_vocab(self) -> dict[str, int]:
        return {}

    def convert_ids_to_tokens(self, ids: list[int]) -> list[str | None]:
        return [self._encoding.decode([token_id]) for token_id in ids]

    def convert_tokens_to_ids(self, tokens: str | list[str]) -> int | list[int]:
        return self.encode(tokens)[0] if isinstance(tokens, str) else [self.encode(token)[0] for token in tokens]


@dataclass
class Answer:
    """What the events of an answer say, joined."""

    content: str = ""
    reasoning: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)
    reasoning_tokens: int = 0
    finish: Finish | None = None


def joined(events: list[Event]) -> Answer:
    answer = Answer()
    for event in events:
        if isinstance(event, Finished):
            answer.reasoning_tokens = event.reasoning_tokens
            assert event.called == tuple(name for name, _ in answer.calls)
        assert isinstance(event, Delta | Finished)
        if not isinstance(event, Delta):
            continue
        assert answer.finish is None, "an event after the finish"
        answer.finish = event.finish
        if event.kind == "content":
            answer.content += event.text
        elif event.kind == "reasoning":
            answer.reasoning += event.text
        elif event.call is not None:
            if event.call.name:
                assert event.call.place == len(answer.calls)
                assert event.call.id
                answer.calls.append((event.call.name, ""))
            name, arguments = answer.calls[event.call.place] if answer.calls else ("", "")
            answer.calls[event.call.place : event.call.place + 1] = [(name, arguments + event.text)]
    return answer


class Bench:
    """One model's parsers, and answers of its tokens."""

    def __init__(self, tokenizer: Any, tool_parser: str, reasoning_parser: str = "") -> None:
        self.tokenizer, self.vocabulary = tokenizer, Vocabulary(tokenizer)
        self.parsing = Parsing(None, tokenizer, tool_parser, reasoning_parser)
        self.splits = 0

    def job(self, prompt: str = "p", choice: ToolChoice = "auto", **more: Any) -> Job:
        params = ParsingParams(tools=TOOLS if choice != "none" else (), choice=choice, **more)
        return Job(id="j", prompt_ids=self.tokenizer.encode(prompt), prompt_text=prompt, parsing=params)

    def tokens(self, text: str) -> list[tuple[int, str]]:
        """The tokens of a text, each with what an engine's step of it alone would tell."""
        ids = self.tokenizer.encode(text, add_special_tokens=False)
        told, said = [], ""
        for end, token_id in enumerate(ids, 1):
            whole = self.tokenizer.decode(ids[:end], skip_special_tokens=False)
            fresh = "" if whole.endswith("\ufffd") else whole[len(said) :]
            said += fresh
            told.append((token_id, fresh))
        return told

    def read(self, steps: list[list[tuple[int, str]]], job: Job, reason: Reason = "stop", lag: int = 0) -> list[Event]:
        """Send an answer's steps; `lag`: its text comes so many characters late."""
        self.splits += 1
        events: list[Event] = []
        sink = ParsingSink(self.parsing, self.vocabulary, job, events.append)
        late = ""
        for step in steps:
            late += "".join(text for _, text in step)
            cut = max(0, len(late) - lag)
            sink(Delta(0, late[:cut], [token_id for token_id, _ in step]))
            late = late[cut:]
        end = [self.tokenizer.eos_token_id] if reason == "stop" else []
        sink(Delta(0, late, end, finish=Finish(reason)))
        sink(Finished(prompt_tokens=1, completion_tokens=sum(map(len, steps))))
        return events


def splits(tokens: list[tuple[int, str]], seed: str) -> Iterator[tuple[list[list[tuple[int, str]]], int]]:
    """Ways to split an answer into steps, with the lag of its text."""
    yield [tokens], 0
    for _ in range(RANDOM_SPLITS):
        dice = random.Random(f"{seed} {_}")
        steps, rest = [], tokens
        while rest:
            size = dice.choice((1, 2, 3, 5, 8, 13))
            steps.append(rest[:size])
            rest = rest[size:]
        yield steps, 0
    yield [[token] for token in tokens], LAG


def is_same(calls: list[tuple[str, str]], expected: list[tuple[str, Any]]) -> bool:
    try:
        return [(name, json.loads(arguments)) for name, arguments in calls] == expected
    except ValueError:
        return False


def no_blanks(text: str) -> str:
    return "".join(text.split())


def of_whole(bench: Bench, text: str, job: Job) -> Answer:
    """What vLLM's parser makes of a whole text; all of it is content where the parser raises."""
    assert job.parsing
    request = bench.parsing.request(job, job.parsing)
    parser = bench.parsing._build(bench.parsing._tools, request.tools, {})
    ids = bench.tokenizer.encode(text, add_special_tokens=False)
    try:
        reasoning, content, calls = parser.parse(text, request, enable_auto_tools=True, model_output_token_ids=ids)
    except Exception:  # noqa: BLE001 foreign code
        return Answer(content=text)
    return Answer(content or "", reasoning or "", [(call.name, call.arguments) for call in calls or ()])


def faults(bench: Bench, name: str, *, in_splits: bool = True) -> list[str]:
    """The answers of which the deltas joined are not the whole."""
    found = []
    write_content = formats.CONTENT.get(name, str)
    for label, (before, calls, after) in ANSWERS.items():
        texts = [write_content(before) if before else "", formats.TOOLS[name](calls) if calls else ""]
        text = "".join([*texts, write_content(after) if after else ""]).removeprefix(formats.BEGUN)
        job, tokens = bench.job(), bench.tokens(text)
        answer = joined(bench.read([[token] for token in tokens], job))
        whole = of_whole(bench, text, job)
        expected: list[tuple[str, Any]] = [(called, arguments) for called, arguments in calls]
        # where the format cannot say it, whatever vLLM makes of it
        is_right = is_same(answer.calls, expected)
        if not is_right and not is_same(whole.calls, expected):
            is_right = answer.calls == whole.calls
        contents = {no_blanks(text) for text in (whole.content, before + after, before)}
        if not is_right or no_blanks(answer.content) not in contents:
            found.append(label)
        for steps, lag in splits(tokens, f"{name} {label}") if in_splits else ():
            sampling = SamplingParams(stop=("\0" * (lag + 1),) if lag else ())
            other = replace(job, sampling=sampling)
            assert joined(bench.read(steps, other, lag=lag)) == answer, (label, steps)
    return found


@pytest.fixture(scope="module")
def marked(tokenizer: Any) -> Any:
    """The model's tokenizer with the tokens of other families added, as the engine wraps it."""
    from vllm.tokenizers.hf import get_cached_tokenizer

    tokenizer.add_tokens(formats.marks())
    return get_cached_tokenizer(tokenizer)


@pytest.fixture(scope="module")
def harmony() -> Harmony:
    return Harmony(load_harmony_encoding(HarmonyEncodingName.HARMONY_GPT_OSS))


def test_formats_are_known_of_all_parsers() -> None:
    from vllm.reasoning import ReasoningParserManager
    from vllm.tool_parsers import ToolParserManager

    assert {*ToolParserManager.list_registered()} == formats.TOOLS.keys() | NOT_HERE
    assert {*ReasoningParserManager.list_registered()} == formats.REASONING.keys() | NOT_HERE


@pytest.mark.parametrize("name", formats.TOOLS)
def test_the_deltas_of_calls_joined_are_the_whole(
    name: str, marked: Any, harmony: Harmony, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(harmony if name == "openai" else marked, name)
    assert not faults(bench, name)
    assert bench.splits == formats.TOOL_SPLITS
    monkeypatch.setattr(held_back, "TOOL_PARSERS", {})
    if name in LISTED:
        assert faults(bench, name, in_splits=False), "it need not be held back"


LISTED = frozenset(held_back.TOOL_PARSERS)


CUTS = 12


@pytest.mark.parametrize("name", formats.TOOLS)
def test_a_call_that_is_cut_never_looks_complete(name: str, marked: Any, harmony: Harmony) -> None:
    """Wherever the length cuts it: its arguments are no JSON, or those of a call that was whole."""
    bench = Bench(harmony if name == "openai" else marked, name)
    text = formats.TOOLS[name]([NESTED, SHORT]).removeprefix(formats.BEGUN)
    tokens = bench.tokens(text)
    dice = random.Random(name)
    full = joined(bench.read([[token] for token in tokens], bench.job()))
    whole = [(called, json.dumps(arguments)) for called, arguments in (NESTED, SHORT)]
    whole += [(called, arguments) for called, arguments in full.calls]
    known = [(called, json.loads(arguments)) for called, arguments in whole]
    ends: tuple[Reason, ...] = ("length", "time_limit", "abort")
    for end in sorted(dice.sample(range(1, len(tokens)), min(CUTS, len(tokens) - 1))):
        answer = joined(bench.read([tokens[:end]], bench.job(), dice.choice(ends)))
        for called, arguments in answer.calls:
            try:
                said = json.loads(arguments)
            except ValueError:
                continue
            assert (called, said) in known, (end, text)
    # the length may also end it just where the model would have; what a parser still holds may miss then
    cut = joined(bench.read([tokens], bench.job(), "length")).calls
    assert [called for called, _ in cut] == [called for called, _ in full.calls]
    for (_, arguments), (_, complete) in zip(cut, full.calls, strict=True):
        assert arguments == complete or (name == "mistral" and complete == arguments + "}")


@pytest.mark.parametrize("name", sorted(call_steps.READ_AGAIN))
def test_calls_in_growing_steps_are_the_same(name: str, marked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each step half of all before it: their ends fall into names, values and the text after a call."""
    monkeypatch.setattr(call_steps, "GROWTH", 1)
    assert not faults(Bench(marked, name), name)
    bench = Bench(marked, name, "qwen3")
    tokens = bench.tokens(f"<think>{THOUGHT}</think>" + formats.TOOLS[name]([NESTED, SHORT]))
    for cut in range(len(tokens) // 2, len(tokens), 5):
        alone = joined(bench.read([[token] for token in tokens[:cut]], bench.job(), "length"))
        assert joined(bench.read([tokens[:cut]], bench.job(), "length")) == alone


@pytest.mark.parametrize("name", ["qwen3_coder", "glm45", "minimax_m2", "step3p5", "hermes", "llama3_json", "pythonic"])
def test_a_number_that_is_too_great_stays_json(name: str, marked: Any) -> None:
    bench = Bench(marked, name)
    text = formats.TOOLS[name]([("get_weather", {"city": "Paris", "where": {"lat": 7531}})]).replace("7531", "1e999")
    tokens = bench.tokens(text)
    answer = joined(bench.read([[token] for token in tokens], bench.job()))
    for _, arguments in answer.calls:
        assert "Infinity" not in arguments
        assert json.loads(arguments)["where"] in ({"lat": float("inf")}, '{"lat": 1e999}')
    assert answer.calls or "1e999" in answer.content
    assert joined(bench.read([tokens], bench.job())) == answer


SHORTER, LONGER = 150, 300


def long_call(bench: Bench, name: str, words: int) -> list[tuple[int, str]]:
    """The tokens of a call of so many words."""
    text = " ".join(("fox", '"17"', "jumps", "over;")[place % 4] for place in range(words))
    return bench.tokens(formats.TOOLS[name]([("get_weather", {"city": "Paris", "note": text})]))


def lines_run(bench: Bench, tokens: list[tuple[int, str]]) -> int:
    """How many lines of Python an answer takes."""
    count, before = 0, sys.gettrace()

    def trace(_: Any, event: str, __: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    sys.settrace(trace)
    try:
        events = bench.read([[token] for token in tokens], bench.job())
    finally:
        sys.settrace(before)
    assert len(joined(events).calls) == 1
    return count


@pytest.mark.parametrize("name", sorted(call_steps.READ_AGAIN))
def test_a_long_calls_work_is_no_square(name: str, marked: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """A call twice as long takes about twice the lines of Python, and its parser reads about twice the characters."""
    monkeypatch.setattr(call_steps, "GROWTH", 8)
    bench = Bench(marked, name)
    lines_run(bench, long_call(bench, name, SHORTER))  # what is built once
    read, so_far = 0, 0
    parse = bench.parsing._tools.parse_delta

    def counted(parser: Any, text: str, *args: Any, **named: Any) -> Any:
        nonlocal read, so_far
        so_far += len(text)
        read += so_far
        return parse(parser, text, *args, **named)

    monkeypatch.setattr(bench.parsing._tools, "parse_delta", counted)
    lines, characters = [], []
    for words in (SHORTER, LONGER):
        read = so_far = 0
        lines.append(lines_run(bench, long_call(bench, name, words)))
        characters.append(read)
    assert lines[1] < 2.7 * lines[0]
    assert characters[1] < 2.7 * characters[0]


@pytest.mark.parametrize("name", sorted(call_steps.READ_AGAIN))
def test_a_name_leaves_with_the_first_event_of_its_call(name: str, marked: Any) -> None:
    """And the call's text follows in steps of at most one token for 64 before."""
    bench = Bench(marked, name)
    tokens = long_call(bench, name, LONGER)
    events: list[Event] = []
    sink = ParsingSink(bench.parsing, bench.vocabulary, bench.job(), events.append)
    begun, last, gaps = 0, 0, []
    for place, (token_id, text) in enumerate(tokens, 1):
        known = len(events)
        sink(Delta(0, text, [token_id]))
        told = [event.call for event in events[known:] if isinstance(event, Delta) and event.call]
        begun = begun or (place if told and told[0].name == "get_weather" else 0)
        if told:
            gaps.append((place - last, (place - begun) // 64))
            last = place
    assert 0 < begun <= len(bench.tokens(formats.TOOLS[name]([EMPTY]))) + 10
    assert len(gaps) > 100
    assert max(gap - most for gap, most in gaps[1:]) <= 25


@pytest.mark.parametrize("name", formats.REASONING)
def test_the_deltas_of_reasoning_joined_are_the_whole(name: str, marked: Any, harmony: Harmony) -> None:
    write, tool_parser = formats.REASONING[name]
    bench = Bench(harmony if name == "openai_gptoss" else marked, tool_parser, name)
    content = formats.CONTENT.get(name, str)
    start = write("\0").partition("\0")[0]
    calls = formats.TOOLS[tool_parser]
    plain, said = "Just text, a < b. Bye", "The answer: 東京🌟."
    cases: list[tuple[str, str, tuple[str, str, int]]] = [
        ("p", write(THOUGHT) + content(said), (THOUGHT, said, 0)),
        ("p", write(THOUGHT) + calls([SHORT]), (THOUGHT, "", 1)),
        ("p", write(THOUGHT) + content("Hm.") + calls([SHORT, SHORT]), (THOUGHT, "Hm.", 2)),
        ("p", start + THOUGHT, (THOUGHT, "", 0)),
        ("p", content(plain), ("", plain, 0)),
        ("p", calls([SHORT]), ("", "", 1)),
    ]
    if name not in formats.NO_OPEN_PROMPT:
        cases.append(("p" + start, write(THOUGHT).removeprefix(start) + content(said), (THOUGHT, said, 0)))
        cases.append(("p" + write("\n\n"), content(plain), ("", plain, 0)))
    for prompt, text, (reasoning, told, called) in cases:
        tokens = bench.tokens(text.removeprefix(formats.BEGUN))
        reason: Reason = "length" if text == start + THOUGHT else "stop"
        answer = joined(bench.read([[token] for token in tokens], bench.job(prompt), reason))
        assert no_blanks(answer.reasoning) == no_blanks(formats.NOTHING.get(name, reasoning)), (prompt, text)
        if name not in formats.NOTHING:
            assert no_blanks(answer.content) == no_blanks(told), (prompt, text)
            count = len(bench.tokenizer.encode(reasoning, add_special_tokens=False))
            assert abs(answer.reasoning_tokens - count) <= 1, (prompt, text)  # one token may be a mark's, too
        assert is_same(answer.calls, [(SHORT[0], SHORT[1])] * called), (prompt, text)
        for steps, lag in splits(tokens, f"{name} {text}"):
            job = replace(bench.job(prompt), sampling=SamplingParams(stop=("\0" * (lag + 1),) if lag else ()))
            assert joined(bench.read(steps, job, reason, lag)) == answer, (prompt, text, steps)
    assert bench.splits == (36 if name in formats.NO_OPEN_PROMPT else formats.REASONING_SPLITS)


FORCED = json.dumps([{"name": name, "parameters": arguments} for name, arguments in (SHORT, NESTED)])


@pytest.mark.parametrize("name", ["granite4", "mistral", "hermes"])
def test_a_required_call_is_read_as_the_grammar_makes_it(name: str, marked: Any) -> None:
    """As JSON where vLLM has it so for this parser, else in the model's own format."""
    bench = Bench(marked, name)
    is_json = bench.parsing._tools.tool_parser_cls.supports_required_and_named
    text = FORCED if is_json else formats.TOOLS[name]([SHORT, NESTED])
    tokens = bench.tokens(text)
    answer = joined(bench.read([[token] for token in tokens], bench.job(choice="required")))
    assert is_same(answer.calls, [SHORT, NESTED])
    assert not answer.content
    for steps, lag in splits(tokens, name):
        held = SamplingParams(stop=("\0" * (lag + 1),) if lag else ())
        job = replace(bench.job(choice="required"), sampling=held)
        assert joined(bench.read(steps, job, lag=lag)) == answer
    text = json.dumps(NESTED[1]) if is_json else formats.TOOLS[name]([NESTED])
    answer = joined(bench.read([bench.tokens(text)], bench.job(choice="named", named="get_weather")))
    assert is_same(answer.calls, [NESTED])
    assert not answer.content


def test_reasoning_may_stand_before_a_required_call(marked: Any) -> None:
    bench = Bench(marked, "granite4", "deepseek_r1")
    tokens = bench.tokens(f"<think>{THOUGHT}</think>\n{FORCED}")
    answer = joined(bench.read([[token] for token in tokens], bench.job(choice="required")))
    assert answer.reasoning == THOUGHT
    assert is_same(answer.calls, [SHORT, NESTED])


@pytest.mark.parametrize("name", ["hermes", "qwen3_coder", "llama3_json"])
def test_without_tools_their_text_is_content(name: str, marked: Any) -> None:
    bench = Bench(marked, name, "deepseek_r1")
    text = formats.TOOLS[name]([SHORT])
    answer = joined(
        bench.read([[token] for token in bench.tokens(f"<think>a</think>{text}")], bench.job(choice="none"))
    )
    assert (answer.reasoning, answer.content.strip(), answer.calls) == ("a", text.strip(), [])


def test_marks_spelled_in_ordinary_tokens_are_marks(marked: Any) -> None:
    """As a grammar spells them; parsers that look at token ids would never see the end of the reasoning."""
    bench = Bench(marked, "deepseek_v31", "deepseek_r1")
    text = f"<think>{THOUGHT}</think>" + formats.TOOLS["deepseek_v31"]([SHORT])
    letters = [(marked.encode(letter, add_special_tokens=False)[0], letter) for letter in text if letter.isascii()]
    text = "".join(letter for _, letter in letters)
    assert "<think>" in text
    answer = joined(bench.read([[letter] for letter in letters], bench.job()))
    assert answer.reasoning == "".join(letter for letter in THOUGHT if letter.isascii())
    assert abs(answer.reasoning_tokens - len(answer.reasoning)) <= 1


def test_a_parser_that_fails_leaves_the_rest_as_content(
    marked: Any, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    bench = Bench(marked, "hermes")
    text = formats.TOOLS["hermes"]([SHORT])

    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("broken")

    monkeypatch.setattr(bench.parsing._tools.tool_parser_cls, "extract_tool_calls_streaming", fail)
    for _ in range(2):
        answer = joined(bench.read([[token] for token in bench.tokens(text)], bench.job()))
        assert (answer.content, answer.calls, answer.finish) == (text, [], Finish("stop"))
    said = [record.getMessage() for record in caplog.records]
    assert [text.partition(" (")[2].partition(")")[0] for text in said if "could not be parsed" in text] == [
        "hermes tool parser, no reasoning parser"
    ]


def test_parsers_that_do_not_fit_are_refused(marked: Any) -> None:
    assert marked.get_vocab() is marked.get_vocab(), "parsers ask for it once per answer"
    with pytest.raises(TypeError, match="hermez"):
        Parsing(None, marked, "hermez", "")
    with pytest.raises(ImportError, match="cohere"):
        Parsing(None, marked, "cohere_command3", "")


def test_the_engine_can_be_told_where_a_constraint_begins() -> None:
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.engine.async_llm import AsyncLLM

    assert {"reasoning_ended", "reasoning_parser_kwargs"} <= inspect.signature(AsyncLLM.add_request).parameters.keys()
    assert "reasoning_parser" in inspect.signature(AsyncEngineArgs).parameters


@pytest.mark.parametrize(("prompt", "ended"), [("p<think>\n", False), ("p<think>\n\n</think>\n\n", True), ("p", False)])
def test_a_constraint_begins_after_the_reasoning(prompt: str, ended: bool, marked: Any) -> None:  # noqa: FBT001
    bench = Bench(marked, "hermes", "deepseek_r1")
    job = bench.job(prompt)
    constraint = SamplingParams(constraint=OutputConstraint("json_object", ""))
    told = bench.parsing.engine_arguments(replace(job, sampling=constraint))
    assert told == {"reasoning_ended": ended, "reasoning_parser_kwargs": {"chat_template_kwargs": {}}}
    # a completion reasons as little as its prompt says
    assert bench.parsing.engine_arguments(replace(job, sampling=constraint, parsing=None))["reasoning_ended"]
    assert Bench(marked, "hermes").parsing.engine_arguments(replace(job, sampling=constraint)) == {}


class Refused:
    """An engine that takes note of what it is asked, and answers with an exception."""

    def __init__(self) -> None:
        self.asked: dict[str, Any] = {}

    async def add_request(self, _: str, __: object, params: Any, **more: Any) -> None:
        self.asked = {"skip_special_tokens": params.skip_special_tokens, **more}
        raise ValueError("enough")


async def test_the_engine_shows_parsers_special_tokens_and_begins_the_constraint_late(marked: Any) -> None:
    bench = Bench(marked, "hermes", "deepseek_r1")
    engine = Refused()
    model = SimpleNamespace(tokenizer=marked, end_ids=frozenset(), tool_parser="hermes")
    trials = SimpleNamespace(params=lambda _: None, is_compact=False)
    vllm = Vllm(engine, model, None, trials, None, bench.parsing)  # type: ignore[arg-type]
    asked = SamplingParams(constraint=OutputConstraint("json_object", ""))
    with pytest.raises(BadField, match="enough"):
        async with vllm.run(replace(bench.job("p<think>\n"), sampling=asked), print):
            pass
    kwargs = {"chat_template_kwargs": dict[str, Any]()}
    told = {"priority": 0, "reasoning_ended": False, "reasoning_parser_kwargs": kwargs}
    assert engine.asked == {"skip_special_tokens": False, **told}
    with pytest.raises(BadField, match="enough"):
        async with vllm.run(Job(id="j", prompt_ids=[1], prompt_text="p"), print):
            pass
    assert engine.asked == {"skip_special_tokens": True, "priority": 0}
    broken = Tool("f", "", {"type": "object"})
    named = ParsingParams(tools=(broken,), choice="named", named="not there")
    with pytest.raises(BadField):
        async with vllm.run(Job(id="j", prompt_ids=[1], prompt_text="p", parsing=named), print):
            pass
