"""A storm of 500 requests of which two in five are cut at random points, on the real engine."""

import asyncio
import json
import random
import resource
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.real.conftest import Server

REQUESTS, CUT_PART, AT_ONCE, SEED = 500, 0.4, 16, 20
LONG, SHORT = 192, 12
MOST_GROWN = 64 * 2**20
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Say hello."}], "temperature": 0}
BODIES: Sequence[tuple[str, dict[str, Any]]] = (
    ("/v1/chat/completions", CHAT | {"max_tokens": SHORT}),
    ("/v1/chat/completions", CHAT | {"max_tokens": SHORT, "stream": True, "logprobs": True}),
    ("/v1/completions", {"prompt": ["The sky is", "Grass is"], "max_tokens": SHORT, "temperature": 0}),
    ("/invocations", {"inputs": "The sea is", "parameters": {"max_new_tokens": SHORT, "do_sample": False}}),
)
SHOWN = ("choices", "usage", "generated_text")


def written(path: str, body: dict[str, Any]) -> bytes:
    data = json.dumps(body).encode()
    head = f"POST {path} HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\ncontent-length: {len(data)}\r\n"
    return f"{head}connection: close\r\n\r\n".encode() + data


async def ask(port: int, sent: bytes, cut: int | None = None) -> bytes:
    """The answer, or what came of it until the client went: within the request, or after `cut` bytes of the answer."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        writer.write(sent if cut is None or cut >= 0 else sent[:cut])
        await writer.drain()
        if cut is None:
            return await reader.read()
        return b"" if cut < 0 else await reader.read(cut)
    finally:
        writer.transport.abort()


def said(answer: bytes) -> Any:
    """What an answer says, without its head, its id and the moment of its making."""
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b" 200 " in head.partition(b"\r\n")[0], answer[:400]
    if b"event-stream" in head:
        events = [
            part.partition(b"data: ")[2].partition(b"\n\n")[0] for part in body.split(b"\r\n") if b"data: " in part
        ]
        shown = [json.loads(event)["choices"] for event in events if event != b"[DONE]"]
        return "".join(choice["delta"].get("content", "") for choices in shown for choice in choices)
    document = json.loads(body)
    return {name: document[name] for name in SHOWN if name in document}


def resident(pid: int) -> int:
    """Bytes of memory that the server's process has."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * resource.getpagesize()


async def storm(port: int, expected: Sequence[Any], chance: random.Random, count: int) -> int:
    """Send `count` requests, AT_ONCE at a time; every one that is not cut must say what it says in calm weather."""
    cuts, numbers = 0, iter(range(count))

    async def client() -> None:
        nonlocal cuts
        for number in numbers:
            path, body = BODIES[number % len(BODIES)]
            if chance.random() >= CUT_PART:
                assert said(await ask(port, written(path, body))) == expected[number % len(BODIES)]
                continue
            cuts += 1
            cut = chance.choice((-20, -1, 1, 300, 900))
            await ask(port, written("/v1/chat/completions", CHAT | {"max_tokens": LONG, "stream": True}), cut)

    await asyncio.gather(*(client() for _ in range(AT_ONCE)))
    return cuts


@pytest.mark.slow
@pytest.mark.timeout(900)
async def test_nothing_is_left_of_a_storm(server: Server) -> None:
    chance = random.Random(SEED)
    expected = [said(await ask(server.port, written(path, body))) for path, body in BODIES]
    await storm(server.port, expected, chance, REQUESTS // 5)
    begun = resident(server.process.pid)
    cuts = await storm(server.port, expected, chance, REQUESTS - REQUESTS // 5)
    assert server.wait_until_idle(5)
    grown = resident(server.process.pid) - begun
    print(f"{REQUESTS} requests, {cuts} of the last {REQUESTS - REQUESTS // 5} cut, {grown / 1024:.0f} KiB grown")
    assert json.loads(server.request("GET", "/ping")[2]) == {"status": "ready", "active": 0}
    assert cuts > (REQUESTS - REQUESTS // 5) * (CUT_PART - 0.1)
    assert grown < MOST_GROWN
    assert [said(await ask(server.port, written(path, body))) for path, body in BODIES] == expected
