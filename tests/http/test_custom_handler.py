"""The routes around a model directory's own handler, without one that runs in a process."""

import asyncio
from collections.abc import Mapping
from typing import Any

import httpx
import pytest

from lmi_chat.http import custom_handler
from lmi_chat.http.custom_handler import Site
from lmi_chat.observability.startup import StartupProgress


class Echo:
    """Answers when it may."""

    def __init__(self) -> None:
        self.may_end = asyncio.Event()

    async def answer(self, _properties: Mapping[str, str], content: Mapping[str, bytes], out: Any) -> None:
        await self.may_end.wait()
        await out.head(200, {}, is_stream=False)
        await out.send(content["data"])


def site(**changes: Any) -> Site:
    return Site(health=StartupProgress(), max_body_bytes=10, **changes)


def client(place: Site) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(custom_handler.build(place)), base_url="http://t")


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [("GET", "/nowhere", 404, "Not Found"), ("GET", "/invocations", 405, "Method Not Allowed")],
)
async def test_what_no_route_takes_is_told_in_djls_shape(method: str, path: str, status: int, words: str) -> None:
    async with client(site(handler=Echo(), refusal=None)) as ask:
        answer = await ask.request(method, path)
    assert (answer.status_code, answer.headers["content-type"]) == (status, "application/json")
    assert answer.json() == {"code": status, "message": words, "error": words}
    assert answer.headers.get("allow") == ("POST" if status == 405 else None)


async def test_ping_and_requests_while_it_loads() -> None:
    async with client(site()) as ask:
        ping, answer = await ask.get("/ping"), await ask.post("/invocations", content=b"x")
    assert (ping.status_code, ping.json()["status"], ping.json()["progress"]) == (503, "loading", 0.0)
    words = "the handler is still loading; /ping says how far"
    assert answer.json() == {"code": 503, "message": words, "error": words, "type": "unavailable_error"}
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "5")


async def test_a_drain_waits_for_what_runs_and_refuses_the_rest() -> None:
    place = site(handler=(echo := Echo()), refusal=None)
    async with client(place) as ask:
        running = asyncio.create_task(ask.post("/invocations", content=b"x"))
        while not place.active:
            await asyncio.sleep(0)
        await place.drain(0.01)
        assert (await ask.get("/ping")).json() == {"status": "draining", "active": 1}
        late = await ask.post("/invocations", content=b"x")
        assert (late.status_code, late.json()["message"]) == (503, "the server is shutting down")
        echo.may_end.set()
        await place.drain(60)
        assert ((await running).content, place.active) == (b"x", 0)


async def test_a_body_over_the_limit() -> None:
    async with client(site(handler=Echo(), refusal=None)) as ask:
        answer = await ask.post("/invocations", content=b"x" * 11)
    assert (answer.status_code, answer.headers["connection"]) == (413, "close")
    assert answer.json()["error"] == "the body has 11 bytes; at most 10 are read"
