"""The end of a server: drained by SIGTERM, or with its engine killed. Runs last, the shared server ends here."""

import json
import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.engine.conftest import Server, end, start
from tests.engine.test_serving import LONG


def is_all_gone(pids: list[int], *, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while any(Path(f"/proc/{pid}").exists() for pid in pids) and time.monotonic() < end:
        time.sleep(0.05)
    return not any(Path(f"/proc/{pid}").exists() for pid in pids)


def test_sigterm_lets_four_streams_complete(server: Server) -> None:
    """New work is refused with 503 and Connection: close, /ping is 503, the exit code is 0, no process is left."""
    children = server.children()
    answers: list[list[object]] = []
    body = {**LONG, "max_tokens": 60}
    threads = [threading.Thread(target=lambda: answers.append(server.lines(body))) for _ in range(4)]
    for thread in threads:
        thread.start()
    limit = time.monotonic() + 20
    while server.in_engine() < 4:
        assert time.monotonic() < limit
        time.sleep(0.02)
    server.process.send_signal(signal.SIGTERM)
    time.sleep(0.2)
    status, headers, data = server.post({**LONG, "max_tokens": 1})
    assert (status, headers["connection"], headers["retry-after"]) == (503, "close", "1")
    assert json.loads(data)["error"]["code"] == "draining"
    status, _, data = server.request("GET", "/ping")
    assert (status, json.loads(data)["status"]) == (503, "draining")
    for thread in threads:
        thread.join()
    assert [len(lines) for lines in answers] == [60] * 4
    assert all(lines[-1]["choices"][0]["finish_reason"] == "length" for lines in answers)  # type: ignore[index]
    assert server.process.wait(30) == 0
    assert is_all_gone(children, seconds=3)


@pytest.fixture
def doomed(model: Path, tmp_path: Path) -> Iterator[Server]:
    """A server of its own, with everything that a deployment may choose otherwise."""
    running = start(
        tmp_path / "log",
        *("--model-id", str(model), "--served-model-name", "own,other", "--max-model-len", "512"),
        *("--output-formatter", "sse", "--finish-reason", "lmi", "--strict-requests"),
    )
    yield running
    end(running)


def test_settings_and_an_engine_that_is_killed(doomed: Server) -> None:
    """First the configured behaviour (one start serves both), then kill -9 while streams run."""
    status, headers, data = doomed.post({**LONG, "max_tokens": 2, "model": "other"})
    assert (status, headers["content-type"]) == (200, "text/event-stream")
    first = json.loads(data.split(b"\n\n")[0].removeprefix(b"data: "))
    assert first["model"] == "own"
    ended = json.loads(data.split(b"\n\n")[1].removeprefix(b"data: "))
    assert ended["choices"][0]["finish_reason"] == "length"
    status, _, data = doomed.post({**LONG, "max_token": 2})
    assert (status, json.loads(data)["error"]["param"]) == (400, "max_token")
    status, _, data = doomed.post({**LONG, "max_tokens": 512})
    assert status == 400

    children = doomed.children()
    core = next(pid for pid in doomed.children() if b"VLLM::EngineCor" in Path(f"/proc/{pid}/comm").read_bytes())
    streams: list[bytes] = []
    wholes: list[tuple[int, bytes]] = []

    def stream() -> None:
        streams.append(doomed.post({**LONG, "max_tokens": 450})[2])

    def whole() -> None:
        status, _, data = doomed.post({**LONG, "max_tokens": 450, "stream": False})
        wholes.append((status, data))

    threads = [threading.Thread(target=work) for work in (stream, stream, whole, whole)]
    for thread in threads:
        thread.start()
    limit = time.monotonic() + 20
    while doomed.in_engine() < 4:
        assert time.monotonic() < limit
        time.sleep(0.02)
    time.sleep(0.5)
    os.kill(core, signal.SIGKILL)
    for thread in threads:
        thread.join(10)
    assert len(streams) == len(wholes) == 2
    for data in streams:
        last = data.split(b"\n\n")[-2]
        assert json.loads(last.removeprefix(b"data: "))["error"]["code"] == "engine_down"
        assert b"[DONE]" not in data
    assert [status for status, _ in wholes] == [503, 503]
    assert doomed.process.wait(30) == 1
    assert is_all_gone(children, seconds=3)
