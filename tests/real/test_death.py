"""kill -9 on the engine while streams run: error frames, 503, exit code 1, no orphans. The other server ends here."""

import contextlib
import json
import os
import signal
import threading
import time
from pathlib import Path

from botocore.exceptions import EventStreamError

from tests.real.conftest import Server, is_all_gone
from tests.real.test_boto import boto
from tests.real.test_serving import LONG


def core_of(server: Server) -> int:
    return next(pid for pid in server.children() if b"VLLM::EngineCor" in Path(f"/proc/{pid}/comm").read_bytes())


def ping_until(server: Server, status: int, *, seconds: float) -> dict[str, object]:
    end = time.monotonic() + seconds
    while True:
        found, _, data = server.request("GET", "/ping")
        if found == status:
            return json.loads(data)  # type: ignore[no-any-return]
        assert time.monotonic() < end, data
        time.sleep(0.05)


def test_an_engine_that_stands_still(other: Server) -> None:
    """Stopped, not dead: /ping says so after stall_seconds while work waits, and takes it back when it goes on."""
    core = core_of(other)
    answers: list[list[object]] = []
    asking = threading.Thread(target=lambda: answers.append(other.lines({**LONG, "max_tokens": 40})))
    os.kill(core, signal.SIGSTOP)
    try:
        asking.start()
        assert ping_until(other, 503, seconds=20)["status"] == "stalled"
    finally:
        os.kill(core, signal.SIGCONT)
    ping_until(other, 200, seconds=20)
    asking.join()
    assert answers[0][-1]["choices"][0]["finish_reason"] == "length"  # type: ignore[index]


def test_an_engine_that_is_killed(other: Server) -> None:
    children = other.children()
    core = core_of(other)
    streams: list[bytes] = []
    wholes: list[tuple[int, bytes]] = []

    def stream() -> None:
        streams.append(other.post({**LONG, "max_tokens": 450, "stream": True}, accept="text/event-stream")[2])

    def whole() -> None:
        status, _, data = other.post({**LONG, "max_tokens": 450})
        wholes.append((status, data))

    raised: list[BaseException] = []

    def read_by_boto3() -> None:
        with contextlib.closing(boto(other)) as runtime:
            body = json.dumps({**LONG, "max_tokens": 450, "stream": True})
            reply = runtime.invoke_endpoint_with_response_stream(EndpointName="e", Body=body)
            try:
                for event in reply["Body"]:
                    assert event["PayloadPart"]["Bytes"]
            except EventStreamError as error:
                raised.append(error)

    threads = [threading.Thread(target=work) for work in (stream, stream, whole, whole, read_by_boto3)]
    for thread in threads:
        thread.start()
    limit = time.monotonic() + 20
    while other.in_engine() < 5:
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
    assert ["ModelStreamError" in str(error) for error in raised] == [True]
    assert other.process.wait(30) == 1
    assert is_all_gone(children, seconds=3)
