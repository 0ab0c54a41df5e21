"""The server around the engine: batching, clients that go, health while it loads."""

import json
import socket
import statistics
import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import boto3
import botocore.exceptions
import pytest

from tests.real.conftest import Server

LONG = {"messages": [{"role": "user", "content": "Tell a long story."}], "ignore_eos": True, "temperature": 0}


def raw(server: Server, body: dict[str, object], headers: Mapping[str, str] | None = None) -> socket.socket:
    """A connection that has sent one request."""
    data = json.dumps(body).encode()
    connection = socket.create_connection(("127.0.0.1", server.port))
    head = "POST /invocations HTTP/1.1\r\nhost: x\r\ncontent-type: application/json\r\n"
    head += "".join(f"{name}: {text}\r\n" for name, text in (headers or {}).items())
    connection.sendall(f"{head}content-length: {len(data)}\r\n\r\n".encode() + data)
    return connection


def test_ping_tells_the_phases_while_loading(server: Server) -> None:
    """Taken by the fixture from the first moment on: the port answers at once, with what goes on."""
    loading = [shown for _, status, shown in server.pings if status == 503]
    phases = list(dict.fromkeys(shown["phase"] for shown in loading))
    assert "importing the engine" in phases
    assert "starting the engine and loading the weights" in phases
    assert [shown["progress"] for shown in loading] == sorted(shown["progress"] for shown in loading)
    assert all(shown["seconds"] >= 0 for shown in loading)
    assert server.pings[-1][1:] == (200, {"status": "ready", "active": 0})
    assert max(seconds for seconds, _, _ in server.pings) < 2.0, "SageMaker gives /ping two seconds"


def test_32_streams_share_the_engine(server: Server) -> None:
    """Continuous batching: together they take far less than one after the other, and each says what it says alone."""
    bodies = [
        {**LONG, "messages": [{"role": "user", "content": f"Story {index}"}], "max_tokens": 16} for index in range(32)
    ]

    def timed(body: dict[str, object]) -> tuple[float, str]:
        began = time.monotonic()
        text = "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in server.lines(body))
        return time.monotonic() - began, text

    timed(bodies[0])
    alone = [timed(body) for body in bodies[:4]]
    together: dict[int, str] = {}
    began = time.monotonic()
    threads = [
        threading.Thread(target=lambda index=index: together.__setitem__(index, timed(bodies[index])[1]))
        for index in range(32)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    ratio = (time.monotonic() - began) / statistics.median(seconds for seconds, _ in alone)
    print(f"32 streams take {ratio:.1f} times one stream")
    assert ratio < 16
    assert [together[index] for index in range(4)] == [text for _, text in alone]


def test_a_client_that_goes_takes_its_request_off_the_engine(server: Server) -> None:
    """Streaming and whole, closed by FIN and by RST, one of them before its first token."""
    connections = [raw(server, {**LONG, "max_tokens": 1500, "stream": index % 2 == 0}) for index in range(8)]
    end = time.monotonic() + 20
    while server.in_engine() < 8:
        assert time.monotonic() < end
        time.sleep(0.02)
    for index, connection in enumerate(connections):
        if index % 4 == 0:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
        connection.close()
    assert server.wait_until_idle(1.0)
    raw(server, {**LONG, "max_tokens": 1500}).close()
    end = time.monotonic() + 2  # it may be on its way to the engine still
    while json.loads(server.request("GET", "/ping")[2]) != {"status": "ready", "active": 0}:
        assert time.monotonic() < end
        time.sleep(0.02)
    assert server.wait_until_idle(1.0)


def test_many_that_leave_in_one_step_take_nobody_along(server: Server) -> None:
    """All in one go of the server's loop, some rounds; who stays gets the same text as alone."""
    asked = {**LONG, "max_tokens": 24, "temperature": 0}
    alone = server.whole(asked)["choices"][0]
    for _ in range(3):
        leaving = [raw(server, {**LONG, "max_tokens": 1500, "stream": True}) for _ in range(15)]
        end = time.monotonic() + 30
        while server.in_engine() < 15:
            assert time.monotonic() < end
            time.sleep(0.01)
        with ThreadPoolExecutor(1) as pool:
            staying = pool.submit(server.whole, asked)
            for connection in leaving:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\x00\x00\x00\x00\x00\x00\x00")
            for connection in leaving:
                connection.close()
            assert staying.result(60)["choices"][0] == alone
        assert server.wait_until_idle(2.0)


def test_the_request_id_and_attributes_come_back(server: Server) -> None:
    body = {**LONG, "max_tokens": 1}
    _, headers, data = server.post(
        body, **{"X-Amzn-SageMaker-Inference-Id": "abc-1", "X-Amzn-SageMaker-Custom-Attributes": "trace=9;x=1"}
    )
    assert headers["x-request-id"] == "abc-1"
    assert headers["x-amzn-sagemaker-custom-attributes"] == "trace=9;x=1"
    assert json.loads(data)["id"] == "chatcmpl-abc-1"
    _, headers, _ = server.post({**body, "temprature": 1})
    assert headers["x-lmi-chat-warning"] == "temprature is ignored; did you mean temperature?"


def test_a_line_per_request_is_in_the_log(server: Server) -> None:
    """With the engine's own times, and never a word of what was said."""
    for is_stream in (False, True):
        server.post(
            {**LONG, "max_tokens": 6, "stream": is_stream}, **{"x-amzn-sagemaker-inference-id": f"logged-{is_stream}"}
        )
    refused = {"X-AMZN-SAGEMAKER-INFERENCE-ID": "logged-refused"}
    assert server.post({**LONG, "n": 0}, **refused)[0] == 400
    raw(server, {**LONG, "max_tokens": 1500, "user": "gone"}).close()
    limit = time.monotonic() + 10
    while "gone" not in (log := server.log.read_text()):
        assert time.monotonic() < limit
        time.sleep(0.05)
    lines = [json.loads(line) for line in log.splitlines() if line.startswith("{")]
    named = {line["id"]: line for line in lines}
    for is_stream in (False, True):
        line = named[f"logged-{is_stream}"]
        assert (line["status"], line["stream"], line["finish_reason"]) == (200, is_stream, "length")
        assert line["completion_tokens"] == 6
        parts = [line[f"{part}_seconds"] for part in ("queue", "prefill", "decode")]
        assert all(part >= 0 for part in parts)
        assert 0 < line["prefill_seconds"] <= line["ttft_seconds"] < line["total_seconds"]
        assert sum(parts) <= line["total_seconds"]
    assert (named["logged-refused"]["status"], named["logged-refused"]["error"]) == (400, "bad_field")
    assert [line["status"] for line in lines if line["user"] == "gone"] == [499]
    assert "Tell a long story" not in log


def test_two_requests_with_one_id_do_not_touch_each_other(server: Server) -> None:
    """The caller chooses the id; ending one must not end its namesake."""
    going = raw(server, {**LONG, "max_tokens": 400, "stream": True})
    named = {"X-Amzn-SageMaker-Inference-Id": "same"}
    first = threading.Thread(target=lambda: results.append(server.post({**LONG, "max_tokens": 30}, **named)))
    results: list[object] = []
    first.start()
    second = server.post({**LONG, "max_tokens": 5}, **named)
    first.join()
    going.close()
    leaving = raw(server, {**LONG, "max_tokens": 400, "stream": True}, named)
    staying: list[object] = []
    third = threading.Thread(target=lambda: staying.append(server.post({**LONG, "max_tokens": 30}, **named)))
    third.start()
    time.sleep(0.3)
    leaving.close()
    third.join()
    assert json.loads(staying[0][2])["usage"]["completion_tokens"] == 30  # type: ignore[index]
    assert second[0] == 200
    assert json.loads(results[0][2])["usage"]["completion_tokens"] == 30  # type: ignore[index]
    assert server.wait_until_idle(1.0)


def test_a_session_through_boto3(server: Server) -> None:
    """The second turn alone is understood: the server holds the first and its answer."""
    runtime = boto3.client(
        "sagemaker-runtime",
        endpoint_url=f"http://127.0.0.1:{server.port}",
        region_name="us-east-1",
        aws_access_key_id="none",
        aws_secret_access_key="none",
    )

    def ask(body: dict[str, Any], session_id: str) -> Any:
        data = json.dumps(body)
        return runtime.invoke_endpoint(
            EndpointName="any", ContentType="application/json", Body=data, SessionId=session_id
        )

    begun = ask({"requestType": "NEW_SESSION"}, "NEW_SESSION")
    session_id = begun["NewSessionId"].partition(";")[0]
    assert session_id in begun["Body"].read().decode()
    first = {
        "messages": [{"role": "user", "content": "My name is Ada. Say hello."}],
        "temperature": 0,
        "max_tokens": 16,
    }
    said = json.loads(ask(first, session_id)["Body"].read())
    second = {"messages": [{"role": "user", "content": "And again."}], "temperature": 0, "max_tokens": 4}
    told = json.loads(ask(second, session_id)["Body"].read())
    assert told["usage"]["prompt_tokens"] > said["usage"]["prompt_tokens"] + 8
    assert ask({"requestType": "CLOSE"}, session_id)["ClosedSessionId"] == session_id
    with pytest.raises(botocore.exceptions.ClientError):
        ask(second, session_id)
    runtime.close()
