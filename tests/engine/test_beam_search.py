"""Beam search against a model of two steps whose best sequence begins with the second-best token."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

import pytest

from lmi_chat.engine import beam_search
from lmi_chat.errors import Bug, Error
from lmi_chat.job import Delta, Event, Finish, Finished, Job, SamplingParams, Sink, Token, TokenLogprob

END = 0
MODEL = {
    (): {1: -0.5, 2: -0.9},
    (1,): {3: -2.0, 4: -2.1},
    (2,): {3: -0.1, 4: -4.0},
    (1, 3): {END: -0.1, 5: -3.0},
    (2, 3): {END: -0.2, 5: -2.0},
}


@contextlib.asynccontextmanager
async def run(job: Job, sink: Sink) -> AsyncIterator[None]:
    """One step of MODEL."""
    assert job.sampling.max_tokens == 1
    table = MODEL.get(tuple(job.prompt_ids[1:]), {END: -0.01, 5: -5.0})
    ranked = sorted(table.items(), key=lambda item: -item[1])[: job.sampling.logprobs]
    choices = tuple(TokenLogprob(token, logprob, bytes([64 + token]), token == END) for token, logprob in ranked)
    sink(Delta(0, "", [choices[0].id], [Token(choices[0], choices)]))
    sink(Finished(prompt_tokens=1, completion_tokens=1))
    yield


async def found(
    *,
    beams: int,
    max_tokens: int = 3,
    penalty: float = 1.0,
    is_early: bool = False,
    logprobs: int = 0,
    ends: frozenset[int] = frozenset({END}),
    **changes: Any,
) -> list[Event]:
    events: list[Event] = []
    sampling = SamplingParams(temperature=0.0, max_tokens=max_tokens, logprobs=logprobs, **changes)
    job = Job(
        id="j",
        prompt_ids=[9],
        prompt_text="p",
        sampling=sampling,
        beams=beams,
        length_penalty=penalty,
        stops_early=is_early,
    )
    async with beam_search.run(run, job, events.append, ends):
        while not events or not isinstance(events[-1], Finished | Error):
            await asyncio.sleep(0)
    return events


async def test_two_beams_find_what_greedy_misses() -> None:
    events = await found(beams=2)
    deltas = [event for event in events if isinstance(event, Delta)]
    assert deltas[0].ids == [2, 3, END]
    assert deltas[0].text == "BC"
    assert [delta.index for delta in deltas] == [0, 1]
    assert deltas[0].finish is not None
    assert deltas[0].finish.reason == "stop"
    assert sum(token.choice.logprob for token in deltas[0].tokens) == pytest.approx(-1.2)
    count = sum(len(delta.ids) for delta in deltas)
    assert events[-1] == Finished(prompt_tokens=1, completion_tokens=count, reasons=("stop", "length"))


async def test_the_length_limit_ends_unfinished_beams() -> None:
    events = await found(beams=2, max_tokens=2)
    deltas = [event for event in events if isinstance(event, Delta)]
    assert deltas[0].ids == [2, 3]
    assert deltas[0].finish is not None
    assert deltas[0].finish.reason == "length"


def pieces_of(events: list[Event]) -> list[Delta]:
    return [event for event in events if isinstance(event, Delta)]


@pytest.mark.parametrize(("is_kept", "text"), [(False, "B"), (True, "BC")])
async def test_stop_strings_end_a_beam(is_kept: bool, text: str) -> None:  # noqa: FBT001
    [best, _] = pieces_of(await found(beams=2, stop=("C",), include_stop_str_in_output=is_kept))
    assert (best.ids, best.text, best.finish) == ([2, 3], text, Finish("stop", "C"))


async def test_stop_tokens_end_a_beam_and_are_named() -> None:
    [best, _] = pieces_of(await found(beams=2, stop_token_ids=(3,)))
    assert (best.ids, best.text, best.finish) == ([2, 3], "B", Finish("stop", 3))


async def test_the_end_may_be_passed_over() -> None:
    """`ignore_eos`: the model's own ends are none; `min_tokens`: none yet."""
    assert pieces_of(await found(beams=2, ends=frozenset()))[0].ids == [2, 3, END]
    assert pieces_of(await found(beams=2, ends=frozenset()))[0].finish == Finish("length")
    assert pieces_of(await found(beams=2, min_tokens=3))[0].ids == [2, 3, 5]
    least = pieces_of(await found(beams=2, max_tokens=4, min_tokens=3))
    assert all(END not in delta.ids[:3] for delta in least)
    assert pieces_of(await found(beams=2, stop=("C",), min_tokens=2))[0].ids == [2, 3, END]


async def test_alternatives_are_those_of_each_step() -> None:
    [best, _] = pieces_of(await found(beams=2, logprobs=1))
    assert [token.choice.id for token in best.tokens] == [2, 3, END]
    assert [[top.id for top in token.top] for token in best.tokens] == [[1], [3], [END]]
    assert [token.top for token in pieces_of(await found(beams=2))[0].tokens] == [(), (), ()]


@pytest.mark.parametrize(("penalty", "ids"), [(0.0, [2]), (1.7, [1, 3, END])])
async def test_the_length_penalty_chooses(penalty: float, ids: list[int]) -> None:
    """One ends (by a stop token) at −0.9 after one token, another at −2.6 after three: the exponent weighs them."""
    assert pieces_of(await found(beams=2, stop_token_ids=(2,), penalty=penalty))[0].ids == ids


async def test_early_stopping_takes_the_first_that_end() -> None:
    """Two have ended after three steps; without it the search goes on to a longer one that scores better."""
    early = pieces_of(await found(beams=2, max_tokens=8, penalty=4.0, is_early=True))
    late = pieces_of(await found(beams=2, max_tokens=8, penalty=4.0))
    assert max(len(delta.ids) for delta in early) == 3
    assert max(len(delta.ids) for delta in late) > 3


async def test_an_error_of_a_step_is_the_searchs_error() -> None:
    @contextlib.asynccontextmanager
    async def failing(_: Job, sink: Sink) -> AsyncIterator[None]:
        sink(Bug("boom"))
        yield

    events: list[Event] = []
    job = Job(id="j", prompt_ids=[9], prompt_text="p", sampling=SamplingParams(max_tokens=3), beams=2)
    async with beam_search.run(failing, job, events.append, frozenset({END})):
        while not events:
            await asyncio.sleep(0)
    assert [str(event) for event in events] == ["boom"]


async def test_whatever_fails_in_a_search_is_told() -> None:
    """An output without tokens, say: the client hears of it at once and not at its deadline."""

    @contextlib.asynccontextmanager
    async def empty(_: Job, sink: Sink) -> AsyncIterator[None]:
        sink(Finished(prompt_tokens=1, completion_tokens=0))
        yield

    events: list[Event] = []
    job = Job(id="j", prompt_ids=[9], prompt_text="p", sampling=SamplingParams(max_tokens=3), beams=2)
    async with beam_search.run(empty, job, events.append, frozenset({END})), asyncio.timeout(5):
        while not events:
            await asyncio.sleep(0)
    assert [type(event) for event in events] == [Bug]


async def test_a_cut_search_gives_the_best_there_is() -> None:
    """After the step under way; what had not ended says so, what might not have gone on does not."""
    events: list[Event] = []
    sampling = SamplingParams(temperature=0.0, max_tokens=3, logprobs=0)
    job = Job(id="j", prompt_ids=[9], prompt_text="p", sampling=sampling, beams=2)
    async with beam_search.run(run, job, events.append, frozenset({END})) as search:
        assert search.completion_tokens == 0
        while not search.completion_tokens:
            await asyncio.sleep(0)
        search.cut()
        while not events or not isinstance(events[-1], Finished | Error):
            await asyncio.sleep(0)
    deltas = [event for event in events if isinstance(event, Delta)]
    assert [len(delta.ids) for delta in deltas] == [2, 2]
    assert [delta.finish and delta.finish.reason for delta in deltas] == ["time_limit"] * 2
    assert isinstance(events[-1], Finished)
    assert (events[-1].completion_tokens, events[-1].reasons) == (4, ("time_limit",) * 2)
