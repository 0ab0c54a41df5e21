"""More than a client, or a step, can take: on an engine without a model that gives tokens as fast as it can."""

import contextlib
import http.client
import json
import os
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from bench.fake_engine import Fake
from tests.real.conftest import Server

TEXT = "The quick brown fox jumps over the lazy dog. "


@pytest.fixture(autouse=True)
def _hurried(stand_in: Fake) -> Iterator[None]:
    stand_in.pace(0.2)
    yield
    stand_in.pace(0)


def chat(tokens: int, **fields: object) -> dict[str, object]:
    content = [{"role": "user", "content": TEXT}]
    return {"messages": content, "max_tokens": tokens, "ignore_eos": True, "stream": True, **fields}


def lines(server: Server, tokens: int) -> list[Any]:
    """A stream's lines, each of which parses alone; the last one is of counts."""
    counted = chat(tokens, stream_options={"include_usage": True})
    found = server.lines(counted)
    assert found[-1]["usage"]["completion_tokens"] == tokens
    return found[:-1]


def text(found: list[Any]) -> str:
    return "".join(line["choices"][0]["delta"].get("content", "") for line in found)


def resident_bytes(server: Server) -> int:
    return int(Path(f"/proc/{server.process.pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


@contextlib.contextmanager
def deaf(server: Server, body: dict[str, object]) -> Iterator[socket.socket]:
    """A client that asks and reads nothing."""
    data = json.dumps(body).encode()
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2048)
        client.connect(("127.0.0.1", server.port))
        head = f"POST /invocations HTTP/1.1\r\nhost: a\r\ncontent-type: application/json\r\ncontent-length: {len(data)}"
        client.sendall(head.encode() + b"\r\n\r\n" + data)
        yield client


def is_reset(client: socket.socket) -> bool:
    """Whether the answer was broken off, which no reader can take for its end."""
    try:
        while client.recv(65536):
            pass
    except ConnectionResetError:
        return True
    return False


@pytest.fixture
def stack() -> Iterator[contextlib.ExitStack]:
    with contextlib.ExitStack() as opened:
        yield opened


def test_a_slow_reader_costs_bounded_memory_and_the_other_31_nothing(
    attached: Server, stand_in: Fake, stack: contextlib.ExitStack
) -> None:
    """It is cut off at `stream_backlog_bytes`; the others, which begin after it, get every token meanwhile."""
    expected = text(lines(attached, 300))
    stand_in.pace(1)
    with ThreadPoolExecutor(31) as pool:
        list(pool.map(lambda _: lines(attached, 300), range(31)))
        before = resident_bytes(attached)  # what 31 streams leave behind is there
        slow = stack.enter_context(deaf(attached, chat(7500, logprobs=True, top_logprobs=5)))
        found = list(pool.map(lambda _: lines(attached, 300), range(31)))
        assert [text(each) for each in found] == [expected] * 31
        assert attached.wait_until_idle(60), "the engine does not go on for nobody"
        grown = resident_bytes(attached) - before
        assert is_reset(slow)
    assert grown < 16 * 2**20


def test_a_step_of_more_requests_than_are_worked_off_in_one_go(attached: Server) -> None:
    """200 streams, 128 of which are one part of a message; stop strings take some off the engine in mid-part."""
    expected = lines(attached, 40)
    stopped = attached.lines(chat(40, stop=[" lazy"]))
    assert stopped[-1]["choices"][0]["stop_reason"] == " lazy"

    def ask(place: int) -> str:
        if place % 4:
            return text(lines(attached, 40))
        return text(attached.lines(chat(40, stop=[" lazy"])))

    with ThreadPoolExecutor(200) as pool:
        found = list(pool.map(ask, range(200)))
    assert found == [text(expected) if place % 4 else text(stopped) for place in range(200)]
    assert attached.wait_until_idle(10)


def test_a_client_that_leaves_in_mid_stream_takes_its_request_off_the_engine(attached: Server) -> None:
    connection = http.client.HTTPConnection("127.0.0.1", attached.port, timeout=60)
    connection.request("POST", "/invocations", json.dumps(chat(8000)), {"content-type": "application/json"})
    answer = connection.getresponse()
    assert answer.readline().startswith(b"{")
    answer.close()
    connection.close()
    assert attached.wait_until_idle(10)
