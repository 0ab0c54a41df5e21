"""kill -9 on the engine while streams run: error frames, 503, exit code 1, no orphans. The other server ends here."""

import contextlib
import json
import os
import signal
import threading
import time
from pathlib import Path

from botocore.exceptions import EventStreamError

from tests.engine.conftest import Server, is_all_gone
from tests.engine.test_boto import boto
from tests.engine.test_serving import LONG


def test_an_engine_that_is_killed(other: Server) -> None:
    children = other.children()
    core = next(pid for pid in other.children() if b"VLLM::EngineCor" in Path(f"/proc/{pid}/comm").read_bytes())
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
