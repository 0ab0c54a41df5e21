"""What goes to the engine's core past vLLM's checks is, to the byte, what goes there through them."""

import asyncio
import random
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bench import fake_engine
from lmi_chat.engine.vllm import engine as vllm
from lmi_chat.engine.vllm.fast_path import submission
from lmi_chat.engine.vllm.structured_output.trials import TrialLimits
from lmi_chat.errors import Error
from lmi_chat.job import Job, SamplingParams, TokenSink

CONTEXT = 512


@pytest.fixture(scope="module")
def engine(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[vllm.Vllm]:
    """VLLM's AsyncLLM in this process, whose core is the stand-in."""
    core = fake_engine.start(tmp_path_factory.mktemp("core"))
    arguments = {"model": str(model), "max_model_len": str(CONTEXT), "max_num_seqs": "64"}
    loaded = vllm.load(
        arguments,
        ("tiny",),
        lambda _: None,
        trial_limits=TrialLimits(1.0, 1),
        has_fast_branch=True,
        addresses=core.addresses,
    )
    yield loaded
    core.stop()


def job(chance: random.Random, number: int) -> Job:
    """A plain request with random parameters."""
    most = chance.choice([1, 2, 100, 400])
    sampling = SamplingParams(
        temperature=chance.choice([0.0, 0.005, 0.7, 1.0, 2.0]),
        top_p=chance.choice([1.0, 0.9, 0.1]),
        top_k=chance.choice([0, -1, 1, 50]),
        min_p=chance.choice([0.0, 0.2]),
        presence_penalty=chance.choice([0.0, -1.5, 1.0]),
        frequency_penalty=chance.choice([0.0, 0.5]),
        repetition_penalty=chance.choice([1.0, 1.3]),
        seed=chance.choice([None, 0, 7, 2**40]),
        max_tokens=most,
        min_tokens=chance.choice([0, 1, most]),
        stop_token_ids=chance.choice([(), (5,), (5, 6)]),
        ignore_eos=chance.random() < 0.5,
        include_stop_str_in_output=chance.random() < 0.5,
        spaces_between_special_tokens=chance.random() < 0.5,
        logprobs=chance.choice([None, None, 0]),
    )
    return Job(
        id=f"chatcmpl-{number}",
        prompt_ids=[chance.randrange(1000) for _ in range(chance.choice([1, 5, 100]))],
        prompt_text="Hello",
        sampling=sampling,
        cache_salt=chance.choice([None, "abc"]),
        priority=chance.choice([0, 3]),
    )


async def sent(engine: vllm.Vllm, one: Job) -> list[Any]:
    """The requests that `one` makes the core's client send."""
    core, kept = engine._engine.engine_core, list[Any]()
    send = core.add_request_async

    async def keep(request: Any) -> None:
        kept.append(request)
        await send(request)

    core.add_request_async = keep
    try:
        async with engine.run(one, lambda _: None, TokenSink(lambda *_: None)):
            pass
    finally:
        core.add_request_async = send
    return kept


def written(request: Any) -> bytes:
    """What the core reads of a request, without its time and the end of its id."""
    from vllm.v1.serial_utils import MsgpackEncoder

    assert request.request_id.startswith(f"{request.external_req_id}-")
    assert request.arrival_time > 1e9
    request.request_id, request.arrival_time = "", 0.0
    (data,) = MsgpackEncoder().encode(request)
    return bytes(data)


def test_both_ways_send_the_same_bytes(engine: vllm.Vllm) -> None:
    chance, direct = random.Random(0), engine._submission
    assert direct is not None

    async def compare() -> None:
        jobs = [job(chance, number) for number in range(200)]
        jobs += [job(random.Random(seed), seed) for seed in range(20)] * 2  # shapes that have come before
        for one in jobs:
            both = []
            for way in (direct, None):
                engine._submission = way
                try:
                    (request,) = await sent(engine, one)
                    both.append(written(request))
                except Error as error:
                    both.append(error.message.encode())
            assert both[0] == both[1], one
        assert 20 < len(direct._shapes) <= submission.SHAPES_MOST

    try:
        asyncio.run(compare())
    finally:
        engine._submission = direct
