"""SageMaker's contract around the answers: ids, attributes, adapters, batch transform, lengths, health, time."""

import json
import re
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest

from lmi_chat.codec.framing import EVENTS
from lmi_chat.pipeline.pipeline import PipelineConfig
from tests.http.test_app import CHAT, JSON, post, send
from tests.support.scripted import Scripted, Service, said, serving

pytestmark = pytest.mark.processes

INFERENCE_ID, ATTRIBUTES = "X-Amzn-SageMaker-Inference-Id", "X-Amzn-SageMaker-Custom-Attributes"
ADAPTER, TARGET = "X-Amzn-SageMaker-Adapter-Identifier", "X-Amzn-SageMaker-Target-Model"


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serving() as running:
        yield running


@pytest.mark.parametrize("spell", [str, str.lower, str.upper])
@pytest.mark.parametrize("given", ["abc-1", 'a b/c%#"\\', "~" * 128])
def test_the_inference_id_is_the_one_id(service: Service, spell: Any, given: str) -> None:
    """The engine's, the reply's, whole and streamed; a proxy's own id gives way to it."""
    headers = JSON | {spell(INFERENCE_ID): given, "X-Request-Id": "proxy"}
    for body in (CHAT, CHAT | {"stream": True}, CHAT | {"n": 0}):
        _, found, answer = post(service, body, headers=headers)
        assert (found["x-request-id"], found["x-amzn-sagemaker-inference-id"]) == (given, given)
        if body == CHAT:
            assert answer["id"] == f"chatcmpl-{given}"
            assert service.engine.jobs[-1].id == given


def test_without_one_the_proxys_id_counts_and_then_our_own(service: Service) -> None:
    found = post(service, CHAT, headers=JSON | {"X-Request-Id": "proxy"})[1]
    assert found["x-request-id"] == service.engine.jobs[-1].id == "proxy"
    assert "x-amzn-sagemaker-inference-id" not in found
    ids = {
        post(service, CHAT, headers=JSON | {"X-Request-Id": text})[1]["x-request-id"] for text in ("", "é", "x" * 129)
    }
    assert len(ids) == 3
    assert all(len(text) == 32 for text in ids)


@pytest.mark.parametrize(
    ("name", "text", "is_good"),
    [
        (ATTRIBUTES, "trace=9; x=1,\t".strip(), True),
        (ATTRIBUTES, "~" * 1024, True),
        (ATTRIBUTES, "~" * 1025, False),
        (ATTRIBUTES, "a\tb", False),
        (ATTRIBUTES, "é", False),
        (INFERENCE_ID, "x" * 129, False),
        (INFERENCE_ID, "é", False),
    ],
)
def test_headers_that_are_returned_unchanged(service: Service, name: str, text: str, *, is_good: bool) -> None:
    for body in (CHAT, CHAT | {"n": 0}):
        status, headers, answer = post(service, body, headers=JSON | {name: text})
        if is_good:
            assert status == (200 if body == CHAT else 400)
            assert headers[name.lower()] == text
        else:
            assert (status, answer["error"]["param"]) == (400, name)
            assert name.lower() not in headers


def test_a_target_model_is_the_served_one(service: Service) -> None:
    assert post(service, CHAT, headers=JSON | {TARGET: "tiny"})[0] == 200
    status, _, answer = post(service, CHAT, headers=JSON | {TARGET.lower(): "other.tar.gz"})
    assert (status, answer["error"]["param"]) == (404, TARGET)


@pytest.mark.parametrize(
    ("headers", "more", "status", "param"),
    [
        ({ADAPTER: "a"}, {}, 404, ADAPTER),
        ({ADAPTER.lower(): "a"}, {}, 404, ADAPTER),
        ({ADAPTER.upper(): "a"}, {}, 404, ADAPTER),
        ({}, {"adapters": "a"}, 404, "adapters"),
        ({}, {"adapters": ["a"]}, 404, "adapters[0]"),
        ({}, {"model": "a"}, 404, "model"),
        ({ADAPTER: "a"}, {"adapters": "a"}, 404, "adapters"),
        ({ADAPTER: "a"}, {"adapters": "b"}, 400, ADAPTER),
        ({ADAPTER: "a"}, {"model": "b"}, 400, ADAPTER),
        ({}, {"adapters": "a", "model": "b"}, 400, "model"),
        ({ADAPTER: "a"}, {"model": "tiny"}, 404, ADAPTER),
        ({}, {"adapters": ["a", "b"]}, 400, "adapters"),
        ({}, {"adapters": 1}, 400, "adapters"),
        ({ADAPTER: "../../etc"}, {}, 404, ADAPTER),
        ({}, {"adapters": ""}, 200, ""),
        ({}, {"adapters": None}, 200, ""),
        ({}, {"adapters": []}, 200, ""),
        ({}, {"adapters": [""]}, 200, ""),
    ],
)
def test_an_adapter_is_never_answered_by_the_base_model(
    service: Service, headers: dict[str, str], more: dict[str, Any], status: int, param: str
) -> None:
    for body in (CHAT, {"inputs": "hi"}, {"prompt": "hi"}):
        found, told, answer = post(service, body | more, headers=JSON | headers)
        assert found == status
        assert "x-lmi-chat-warning" not in told
        if status != 200:
            assert answer["param" if "inputs" in body else "error"] == param or answer["error"]["param"] == param


def test_adapters_of_several_prompts_are_as_many(service: Service) -> None:
    two = {"inputs": ["a", "b"]}
    assert post(service, two | {"adapters": ["a", "a"]})[0] == 404
    status, _, answer = post(service, two | {"adapters": ["a"]})
    assert (status, answer["error"]) == (400, "adapters must have one name for each of the 2 prompts, got 1")
    assert post(service, two | {"adapters": ["", ""]})[0] == 200


@pytest.mark.parametrize("prefix", ["/adapters", "/models/tiny/adapters"])
def test_adapters_routes(service: Service, prefix: str) -> None:
    assert send(service, b"", path=prefix, method="GET")[::2] == (200, {"adapters": []})
    good = {"name": "a", "src": "s3://x", "preload": True, "pin": False}
    for path, body in (
        (prefix, json.dumps(good).encode()),
        (prefix + "?name=a&src=x&preload=true&pin=false", b""),
        (prefix + "?name=a", b'{"src":"x"}'),
    ):
        status, _, answer = send(service, body, path=path)
        assert (status, answer["error"]["code"]) == (400, "adapters_off")
        assert "LoRA is off" in answer["error"]["message"]
    for method, path in (("GET", "/a"), ("DELETE", "/a"), ("POST", "/a/update"), ("GET", "/..%2F..%2Fetc")):
        status, _, answer = send(service, b"", path=prefix + path, method=method)
        assert status == 404, (method, path)


@pytest.mark.parametrize(
    ("query", "body", "param"),
    [
        ("", {"src": "x"}, "name"),
        ("", {"name": "a/b", "src": "x"}, "name"),
        ("", {"name": "x" * 129, "src": "x"}, "name"),
        ("", {"name": "..", "src": "x"}, "name"),
        ("", {"name": ".", "src": "x"}, "name"),
        ("", {"name": 1, "src": "x"}, "name"),
        ("", {"name": "a"}, "src"),
        ("", {"name": "a", "src": "x", "pin": "yes"}, "pin"),
        ("?preload=maybe", {"name": "a", "src": "x"}, "preload"),
        ("?name=b", {"name": "a", "src": "x"}, "name"),
    ],
)
def test_a_registration_is_checked(service: Service, query: str, body: dict[str, Any], param: str) -> None:
    status, _, answer = post(service, body, path="/adapters" + query)
    assert (status, answer["error"]["param"]) == (400, param)


def test_adapters_of_another_model(service: Service) -> None:
    assert send(service, b"", path="/models/other/adapters", method="GET")[0] == 404


@pytest.mark.parametrize(
    ("max_running", "max_body_bytes", "expected"),
    [(4, 25 * 2**20, (4, 25)), (8, 25 * 2**20, (8, 12)), (256, 25 * 2**20, (100, 1)), (2, 2**20 // 2, (2, 1))],
)
def test_batch_transform_is_told_what_may_be_sent(
    max_running: int, max_body_bytes: int, expected: tuple[int, int]
) -> None:
    """From the engine's own limit and the largest body, within SageMaker's 100 MB for all together."""
    with serving(Scripted(max_running=max_running), max_body_bytes=max_body_bytes) as service:
        status, _, answer = send(service, b"", path="/execution-parameters", method="GET")
    concurrent, payload_mb = expected
    assert status == 200
    assert answer == {
        "MaxConcurrentTransforms": concurrent,
        "BatchStrategy": "SINGLE_RECORD",
        "MaxPayloadInMB": payload_mb,
    }


def test_routes_while_the_model_loads() -> None:
    with serving(is_open=False) as service:
        for method, path in (("GET", "/execution-parameters"), ("GET", "/adapters"), ("POST", "/adapters")):
            assert send(service, b"", path=path, method=method)[0] == 503
        assert send(service, b"", path="/metrics", method="GET")[0] == 200


def raw(service: Service, method: str, path: str, body: bytes) -> tuple[bytes, bytes]:
    """The answer's head and body as they stand on the wire, to the connection's end."""
    head = f"{method} {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
    with socket.create_connection(("127.0.0.1", service.port), timeout=10) as connection:
        connection.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        data = b""
        while part := connection.recv(65536):
            data += part
    found, _, rest = data.partition(b"\r\n\r\n")
    return found.lower(), rest


WHOLE = [
    (path, body)
    for path in (
        *("/invocations", "/v1/chat/completions", "/v1/completions", "/predictions/tiny", "/models/tiny/invoke"),
        "/endpoints/x/invocations",
    )
    for body in (CHAT, {"prompt": "hi"}, {"inputs": "hi"}, {"requestType": "NEW_SESSION"}, {}, CHAT | {"n": 0})
]


def test_every_whole_answer_has_its_length_and_is_never_chunked(service: Service) -> None:
    """Asynchronous inference refuses chunks. Over bare sockets: each method on each path, successes and errors."""
    exchanges = [("POST", path, json.dumps(body).encode()) for path, body in WHOLE]
    exchanges += [("POST", "/endpoints/x/invocations-response-stream", json.dumps(CHAT).encode())]
    exchanges += [("POST", "/adapters", b'{"name":"a","src":"b"}'), ("POST", "/invocations", b"{")]
    for path in (
        *("/ping", "/v1/models", "/v1/models/tiny", "/v1/models/nope", "/metrics", "/server/metrics", "/openapi.json"),
        *("/execution-parameters", "/adapters", "/adapters/a", "/models/tiny/adapters", "/v1/chat/completions/x"),
        *("/nope", "/invocations", "/"),
    ):
        exchanges += [(method, path, b"") for method in ("GET", "HEAD", "DELETE", "PUT", "OPTIONS")]
    statuses = set()
    for method, path, body in exchanges:
        head, found = raw(service, method, path, body)
        length = re.search(rb"\r\ncontent-length: (\d+)", head)
        assert length, (method, path)
        assert len(found) == (0 if method == "HEAD" else int(length[1])), (method, path)
        assert b"transfer-encoding" not in head, (method, path)
        statuses.add(int(head.split()[1]))
    assert statuses >= {200, 400, 404, 405}


def test_ping_tells_of_an_engine_that_makes_no_progress() -> None:
    """Only while work waits, and only until it goes on."""
    engine = Scripted(said("abc", gap_s=0.3))
    with serving(engine, policy=PipelineConfig(stall_s=0.5)) as service:
        engine.last_step_at = time.monotonic() - 60
        assert send(service, b"", path="/ping", method="GET")[0] == 200, "nobody waits"
        connection = socket.create_connection(("127.0.0.1", service.port))
        body = json.dumps(CHAT).encode()
        connection.sendall(
            b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
            % len(body)
            + body
        )
        while not engine.running:
            time.sleep(0.01)
        assert send(service, b"", path="/ping", method="GET")[0] == 200, "it has only begun"
        time.sleep(0.6)
        status, _, answer = send(service, b"", path="/ping", method="GET")
        assert (status, answer["status"], answer["active"]) == (503, "stalled", 1)
        engine.last_step_at = time.monotonic()
        assert send(service, b"", path="/ping", method="GET")[0] == 200, "it went on"
        assert connection.recv(65536).startswith(b"HTTP/1.1 200")
        connection.close()


LIMIT = PipelineConfig(finish_before_s=0.4, queue=4)


def slow(text: str = "abcdefghijklmnop") -> Scripted:
    return Scripted(said(text, gap_s=0.05), max_running=4)


@pytest.mark.parametrize(
    ("body", "found"),
    [
        (CHAT, lambda whole: (whole["choices"][0]["finish_reason"], whole["choices"][0]["message"]["content"])),
        ({"prompt": "hi"}, lambda whole: (whole["choices"][0]["finish_reason"], whole["choices"][0]["text"])),
        (
            {"inputs": "hi", "parameters": {"details": True}},
            lambda whole: (whole["details"]["finish_reason"], whole["generated_text"]),
        ),
    ],
)
def test_a_whole_answer_ends_in_time_with_what_there_is(body: dict[str, Any], found: Any) -> None:
    with serving(slow(), policy=LIMIT) as service:
        status, _, whole = post(service, body)
        assert status == 200
        reason, text = found(whole)
        assert reason == "time_limit"
        assert 0 < len(text) < 16
        assert "abcdefghijklmnop".startswith(text)
        usage = whole.get("usage") or whole["details"]["usage"]
        assert usage["completion_tokens"] == len(text)
        assert (service.engine.running, service.pipeline.active) == (0, 0)


@pytest.mark.parametrize(
    ("body", "path"),
    [
        (CHAT | {"stream_options": {"include_usage": True}}, "/v1/chat/completions"),
        ({"prompt": "hi", "stream_options": {"include_usage": True}}, "/v1/completions"),
        ({"inputs": "hi", "parameters": {"details": True}}, "/invocations"),
    ],
)
def test_a_stream_ends_in_time_as_it_would_at_its_end(body: dict[str, Any], path: str) -> None:
    with serving(slow(), policy=LIMIT) as service:
        status, headers, data = send(service, json.dumps(body | {"stream": True}).encode(), path=path)
        assert status == 200
        if headers["content-type"] == EVENTS.content_type:
            assert data.endswith(b"data: [DONE]\n\n")
            *rest, closing, usage = [json.loads(event[6:]) for event in data.split(b"\n\n")[:-2]]
            assert closing["choices"][0]["finish_reason"] == "time_limit"
            assert usage["usage"]["completion_tokens"] == len(rest)
        else:
            last = json.loads(data.split(b"\n")[-2])
            assert last["details"]["finish_reason"] == "time_limit"
            assert last["details"]["generated_tokens"] == len(last["generated_text"])
        assert (service.engine.running, service.pipeline.active) == (0, 0)


def test_nothing_generated_in_time_is_504_and_no_seat_in_time_503() -> None:
    """The clock runs from the request's arrival, in the queue too."""
    with serving(Scripted(lambda _: [], max_running=1), policy=LIMIT) as service:
        for body in (CHAT, CHAT | {"stream": True}):
            status, _, answer = post(service, body)
            assert (status, answer["error"]["code"]) == (504, "deadline_exceeded")
            assert answer["error"]["message"] == "no token was generated within 0.4 s"
        assert (service.engine.running, service.pipeline.active) == (0, 0)
    with serving(Scripted(said("ab", gap_s=5.0), max_running=1), policy=LIMIT) as service:
        going = [socket.create_connection(("127.0.0.1", service.port)) for _ in range(2)]
        data = json.dumps(CHAT).encode()
        for connection in going:
            head = "POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            connection.sendall(f"{head}Content-Length: {len(data)}\r\n\r\n".encode() + data)
        while service.pipeline.active < 2:
            time.sleep(0.005)
        service.pipeline._config = PipelineConfig(finish_before_s=0.1, queue=4)
        status, headers, answer = post(service, CHAT)
        assert (status, answer["error"]["code"], headers["retry-after"]) == (503, "busy", "1")
        assert answer["error"]["message"].startswith("no seat came free within 0.1 s")
        for connection in going:
            connection.close()
