"""Beam search against a model of two steps whose best sequence begins with the second-best token."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from lmi_chat.engine import beam
from lmi_chat.errors import Bug, Error
from lmi_chat.job import Choice, Done, Event, Job, Piece, Sampling, Sink, Token

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
    choices = tuple(Choice(token, logprob, bytes([64 + token]), token == END) for token, logprob in ranked)
    sink(Piece(0, "", [choices[0].id], [Token(choices[0], choices)]))
    sink(Done(prompt_tokens=1, completion_tokens=1))
    yield


async def found(*, beams: int, max_tokens: int = 3, penalty: float = 1.0) -> list[Event]:
    events: list[Event] = []
    sampling = Sampling(temperature=0.0, max_tokens=max_tokens, logprobs=0)
    job = Job(id="j", prompt_ids=[9], prompt_text="p", sampling=sampling, beams=beams, length_penalty=penalty)
    async with beam.run(run, job, events.append, frozenset({END})):
        while not events or not isinstance(events[-1], Done | Error):
            await asyncio.sleep(0)
    return events


async def test_two_beams_find_what_greedy_misses() -> None:
    events = await found(beams=2)
    pieces = [event for event in events if isinstance(event, Piece)]
    assert pieces[0].ids == [2, 3, END]
    assert pieces[0].text == "BC"
    assert [piece.index for piece in pieces] == [0, 1]
    assert pieces[0].finish is not None
    assert pieces[0].finish.reason == "stop"
    assert sum(token.choice.logprob for token in pieces[0].tokens) == pytest.approx(-1.2)
    assert events[-1] == Done(prompt_tokens=1, completion_tokens=sum(len(piece.ids) for piece in pieces))


async def test_the_length_limit_ends_unfinished_beams() -> None:
    events = await found(beams=2, max_tokens=2)
    pieces = [event for event in events if isinstance(event, Piece)]
    assert pieces[0].ids == [2, 3]
    assert pieces[0].finish is not None
    assert pieces[0].finish.reason == "length"


async def test_an_error_of_a_step_is_the_searchs_error() -> None:
    @contextlib.asynccontextmanager
    async def failing(_: Job, sink: Sink) -> AsyncIterator[None]:
        sink(Bug("boom"))
        yield

    events: list[Event] = []
    job = Job(id="j", prompt_ids=[9], prompt_text="p", sampling=Sampling(max_tokens=3), beams=2)
    async with beam.run(failing, job, events.append, frozenset({END})):
        while not events:
            await asyncio.sleep(0)
    assert [str(event) for event in events] == ["boom"]
