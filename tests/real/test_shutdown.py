"""The end of a server: drained by SIGTERM. The shared server ends here."""

import json
import re
import signal
import threading
import time
from pathlib import Path

from tests.real.conftest import Server, is_all_gone
from tests.real.test_serving import LONG

OWN_LINE = re.compile(r"lmi-chat|\{\"|\d{4}-\d\d-\d\d .* lmi_chat\.|  curl |    -d |$")


def segments() -> list[str]:
    """Shared memory by the names of Python's own and of its semaphores."""
    return [path.name for path in Path("/dev/shm").glob("*") if path.name.startswith(("psm_", "sem.mp-"))]


def test_sigterm_lets_four_streams_complete(server: Server) -> None:
    """New work is refused with 503 and Connection: close, /ping is 503, the exit code is 0, no process is left."""
    children = server.children()
    maps = [Path(f"/proc/{pid}/maps").read_text() for pid in children]
    own = {name for name in segments() if any(name in text for text in maps)}
    assert own
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
    assert [len(lines) for lines in answers] == [61] * 4  # a chunk for each token, and the end
    assert all(lines[-1]["choices"][0]["finish_reason"] == "length" for lines in answers)  # type: ignore[index]
    assert server.process.wait(30) == 0
    assert is_all_gone(children, seconds=3)
    lines = server.log.read_text().splitlines()
    ready, stopping = (
        next(at for at, line in enumerate(lines) if mark in line) for mark in ("ready after", "stopping:")
    )
    told = [*lines[: ready + 1], *lines[stopping:]]  # what the engine says while it serves is passed on
    assert [line for line in told if not OWN_LINE.match(line)] == [], "other code's lines, warnings of leaks among them"
    assert not own & {*segments()}
