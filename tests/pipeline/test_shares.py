"""A request of many jobs: it enters by shares, ends as one, and leaves nothing behind however it ends."""

import asyncio
import json
from collections.abc import Sequence
from typing import Any

import pytest

from lmi_chat.errors import Bug, Error
from lmi_chat.job import Job
from lmi_chat.pipeline.pipeline import InferenceRequest, Pipeline
from tests.pipeline.test_pipeline import Kept, opened
from tests.support.scripted import Scripted, Step, said

pytestmark = pytest.mark.processes

PROMPTS = [f"prompt {number}" for number in range(20)]


async def ask(line: Pipeline, body: dict[str, Any]) -> Any:
    out = Kept()
    await line.answer(InferenceRequest(body=json.dumps(body).encode(), id="t"), out)
    return json.loads(out.data)


def many(**parameters: Any) -> dict[str, Any]:
    return {"prompt": PROMPTS, "max_tokens": 50, **parameters}


async def until(engine: Scripted, count: int) -> None:
    async with asyncio.timeout(5):
        while engine.running != count:
            await asyncio.sleep(0.001)


async def test_a_neighbour_finds_a_seat_while_a_big_request_runs() -> None:
    """With 8 seats and a spare one the big request holds at most 7, of whichever of its sequences."""
    line, engine = await opened(said("abcdefgh", gap_s=0.02), max_running=8)
    big = asyncio.create_task(ask(line, many(n=4)))
    await until(engine, 1)
    peak = 0
    for _ in range(3):
        answer = await ask(line, {"prompt": "a neighbour"})
        assert answer["choices"][0]["text"] == "abcdefgh"
        assert not big.done(), "it came later and was answered before"
        peak = max(peak, sum(job.sampling.n for job in engine.jobs[-engine.running :]))
    answer = await big
    assert [choice["index"] for choice in answer["choices"]] == list(range(80))
    assert answer["usage"]["completion_tokens"] == 20 * 8
    assert (engine.running, engine.left_early, line.active, line.waiting) == (0, 0, 0, 0)


async def test_as_many_run_as_there_are_seats() -> None:
    line, engine = await opened(said("ab", gap_s=30), max_running=8)
    big = asyncio.create_task(ask(line, many()))
    await until(engine, 7)  # a share of 8
    await asyncio.sleep(0.05)
    assert engine.running == 7
    assert line.waiting == 1, "one job waits, not thirteen"
    big.cancel()
    with pytest.raises(asyncio.CancelledError):
        await big
    assert (engine.running, line.active, line.waiting) == (0, 0, 0)


async def test_choices_come_in_the_order_of_the_prompts() -> None:
    def script(job: Job) -> Sequence[Step]:
        return said(job.prompt_text[-1], gap_s=0.03 * (10 - int(job.prompt_text[-1])))(job)

    line, _ = await opened(script, max_running=4)
    answer = await ask(line, many())
    assert [choice["text"] for choice in answer["choices"]] == [prompt[-1] for prompt in PROMPTS]


@pytest.mark.parametrize("place", [0, 1, 15])
async def test_one_that_fails_ends_all(place: int) -> None:
    failed = Bug("it broke")

    def script(job: Job) -> Sequence[Step]:
        return [failed] if job.prompt_text == PROMPTS[place] else said("ok", gap_s=0.01)(job)

    line, engine = await opened(script, max_running=4)
    with pytest.raises(Error, match="it broke"):
        await ask(line, many())
    assert (engine.running, line.active, line.waiting) == (0, 0, 0)


@pytest.mark.parametrize("place", [0, 1, 15])
async def test_one_that_cannot_begin_ends_all(place: int) -> None:
    def script(job: Job) -> Sequence[Step]:
        return [RuntimeError("no room")] if job.prompt_text == PROMPTS[place] else said("ok", gap_s=0.01)(job)

    line, engine = await opened(script, max_running=4)
    with pytest.raises((Error, BaseExceptionGroup)):
        await ask(line, many())
    assert (engine.running, line.active, line.waiting) == (0, 0, 0)


async def test_what_never_began_ends_empty_when_the_answer_is_cut() -> None:
    line, engine = await opened(said("ab" * 50, gap_s=0.02), max_running=4, finish_before_s=0.3)
    answer = await ask(line, many())
    texts = [choice["text"] for choice in answer["choices"]]
    assert len(texts) == 20
    assert all(texts[:3])
    assert not any(texts[4:])
    assert {choice["finish_reason"] for choice in answer["choices"]} == {"time_limit"}
    assert (engine.running, line.active, line.waiting) == (0, 0, 0)


async def test_a_drain_and_the_engines_death_end_all_of_it() -> None:
    line, engine = await opened(said("ab", gap_s=30), max_running=4)
    big = asyncio.create_task(ask(line, many()))
    await until(engine, 3)
    line.fail_all(Bug("the engine is gone"))
    with pytest.raises(Error, match="the engine is gone"):
        await big
    assert (engine.running, line.active, line.waiting) == (0, 0, 0)


@pytest.mark.parametrize("turns", range(10))
async def test_a_seat_that_comes_as_the_request_goes_is_given_back(turns: int) -> None:
    """Whenever the one and the other meet: with two seats, two jobs run afterwards."""
    line, engine = await opened(said("ab", gap_s=30), max_running=1)
    first, big = (asyncio.create_task(ask(line, {"prompt": PROMPTS[:count]})) for count in (1, 2))
    await until(engine, 2)
    first.cancel()
    for _ in range(turns):
        await asyncio.sleep(0)
    big.cancel()
    await asyncio.gather(first, big, return_exceptions=True)
    again = [asyncio.create_task(ask(line, {"prompt": prompt})) for prompt in PROMPTS[:2]]
    await until(engine, 2)
    for task in again:
        task.cancel()
    await asyncio.gather(*again, return_exceptions=True)
    assert (engine.running, line.active, line.waiting) == (0, 0, 0)
