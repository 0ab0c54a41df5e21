"""A storm of requests of which two in five are cut at random points: nothing is left of them, others notice nothing."""

import asyncio
import contextlib
import gc
import itertools
import json
import random
import resource
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from lmi_chat.job import Job
from lmi_chat.pipeline.pipeline import PipelineConfig
from lmi_chat.storage.sessions import Sessions
from tests.support.scripted import Scripted, Service, Step, said, serving

REQUESTS, CUT_PART, AT_ONCE = 10_000, 0.4, 64
SEED = 20
TEXT = "The storm is over, and nothing is left of it."
WARM_UP = 2000
SLOW_EACH = 40
LIVES_IN = ("lmi_chat.http.transport", "lmi_chat.pipeline", "lmi_chat.http.endpoint", "lmi_chat.testing.engine")
SETTLE_S = 10.0
MOST_GROWN = 16 * 2**20
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Hi"}], "logprobs": True, "max_tokens": 64}
BODIES: Sequence[tuple[str, dict[str, Any]]] = (
    ("/v1/chat/completions", CHAT),
    ("/v1/chat/completions", CHAT | {"stream": True}),
    ("/v1/completions", {"prompt": "Hi", "max_tokens": 64, "logprobs": 1}),
    ("/invocations", {"inputs": "Hi", "stream": True, "parameters": {"max_new_tokens": 64}}),
    ("/invocations", {"inputs": ["Hi", "Ho"], "parameters": {"max_new_tokens": 64, "details": True}}),
    ("/invocations", CHAT | {"note": "x" * 20_000}),
)


numbers = itertools.count()


def script(job: Job) -> Sequence[Step]:
    """The text at once; now and then slowly, so that some clients surely go in the middle."""
    return said(TEXT, gap_s=0.0 if next(numbers) % SLOW_EACH else 0.005)(job)


def written(kind: int, session: str) -> bytes:
    path, body = BODIES[kind]
    data = json.dumps(body).encode()
    own = f"x-amzn-sagemaker-session-id: {session}\r\n" if session else ""
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\nx-request-id: storm\r\n{own}"
    return f"{head}content-length: {len(data)}\r\nconnection: close\r\n\r\n".encode() + data


async def ask(port: int, kind: int, cut: int | None, session: str = "") -> bytes:
    """The answer, or what came of it until the client went: within the request, or after `cut` bytes of the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    sent = written(kind, session)
    try:
        if cut is not None and cut < 0:
            writer.write(sent[:cut])
            await writer.drain()
            return b""
        writer.write(sent)
        return await reader.read() if cut is None else await reader.read(cut)
    finally:
        writer.transport.abort()


def said_by(kind: int, answer: bytes) -> Any:
    """What an answer says, without its head and the moment of its making."""
    _, _, body = answer.partition(b"\r\n\r\n")
    if BODIES[kind][1].get("stream"):
        return body.count(b"data: ") + body.count(b'"token"'), b"error" in body
    document = json.loads(body)
    return document if isinstance(document, list) else document | {"created": 0}


async def storm(service: Service, count: int, expected: Sequence[Any], chance: random.Random) -> int:
    """Send `count` requests, AT_ONCE at a time; every one that is not cut must say what it says in calm weather."""
    cuts, numbers = 0, iter(range(count))

    async def client() -> None:
        nonlocal cuts
        for number in numbers:
            kind, cut = number % len(BODIES), None
            if chance.random() < CUT_PART:
                cut, cuts = chance.choice((-200, -20, -1, 1, 300, 900)), cuts + 1
            answer = await ask(service.port, kind, cut)
            if cut is None:
                assert said_by(kind, answer) == expected[kind]

    await asyncio.gather(*(client() for _ in range(AT_ONCE)))
    return cuts


async def converse(service: Service, session: str) -> int:
    """A turn in the session, which may be in use by another; its status."""
    return int((await ask(service.port, 0, None, session)).split()[1])


async def counted(service: Service) -> dict[str, int]:
    """What the server holds: what runs and waits, and the objects of each class of its own in which requests live."""
    found: Counter[str] = Counter()
    gc.collect()
    for thing in gc.get_objects():
        kind = type(thing)
        if str(kind.__module__).startswith(LIVES_IN):
            found[kind.__qualname__] += 1
    found |= {"tasks": len(asyncio.all_tasks(service.loop)), "body bytes": service.bodies.bytes_in_flight}
    found |= {"active": service.pipeline.active, "waiting": service.pipeline.waiting, "running": service.engine.running}
    return {name: count for name, count in found.items() if count}


async def left(service: Service, before: dict[str, int]) -> dict[str, int]:
    """What the server holds more than before, as soon as that is nothing, or after SETTLE_S.

    Less is no fault: earlier tests of this process may have left something behind that goes meanwhile.
    """
    more: dict[str, int] = {}
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(SETTLE_S):
            while more := dict(Counter(await counted(service)) - Counter(before)):
                await asyncio.sleep(0.2)
    return more


def resident() -> int:
    """Bytes of memory that this process has, clients included."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_nothing_is_left_of_a_storm() -> None:
    sessions, chance = Sessions(seconds=600, most=4), random.Random(SEED)
    policy = PipelineConfig(sessions=sessions)
    with serving(Scripted(script, max_running=16), policy=policy) as service:
        held = sessions.open()
        expected = [said_by(kind, await ask(service.port, kind, None)) for kind in range(len(BODIES))]
        service.engine.jobs.clear()
        await asyncio.sleep(0.5)
        before = await counted(service)
        cuts = await storm(service, WARM_UP, expected, chance)
        service.engine.jobs.clear()
        assert await left(service, before) == {}
        begun = resident()
        turns = asyncio.gather(*(converse(service, held.id) for _ in range(8)))
        cuts += await storm(service, REQUESTS - WARM_UP, expected, chance)
        service.engine.jobs.clear()
        more = await left(service, before)
        grown = resident() - begun
        assert set(await turns) <= {200, 409}
        assert await converse(service, held.id) == 200
    print(f"{REQUESTS} requests, {cuts} cut, {service.engine.left_early} jobs left early, {grown / 1024:.0f} KiB grown")
    assert more == {}
    assert held.turn is None
    assert service.engine.left_early > 0
    assert cuts > REQUESTS * (CUT_PART - 0.05)
    assert grown < MOST_GROWN
