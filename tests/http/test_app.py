"""The HTTP surface against bytes as they come: the first rows of bad input, and what a good request gets."""

import contextlib
import gzip
import http.client
import json
import re
import resource
import socket
import threading
import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from lmi_chat.codec.framing import EVENTS
from lmi_chat.limits import Limits
from lmi_chat.pipeline.pipeline import PipelineConfig
from tests.support.scripted import Scripted, Service, said, serving

CHAT = {"messages": [{"role": "user", "content": "hi"}]}
JSON = {"content-type": "application/json"}
Reply = tuple[int, dict[str, str], Any]


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serving() as running:
        yield running


def send(
    service: Service,
    body: bytes,
    headers: dict[str, str] | None = None,
    path: str = "/invocations",
    method: str = "POST",
) -> Reply:
    """One exchange; the body is parsed if it is JSON."""
    connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=10)
    with contextlib.closing(connection):
        connection.request(method, path, body, JSON if headers is None else headers)
        answer = connection.getresponse()
        data = answer.read()
        found = {name.lower(): value for name, value in answer.getheaders()}
        is_json = found.get("content-type") == "application/json"
        return answer.status, found, json.loads(data) if is_json else data


def post(service: Service, body: object, **more: Any) -> Reply:
    return send(service, json.dumps(body).encode(), **more)


BOMB = gzip.compress(b'{"inputs":"' + b"a" * 100_000_000 + b'"}', compresslevel=1)  # 97 KB and more of 100 MB


def nested(depth: int) -> bytes:
    return b"[" * depth + b"]" * depth


def chat_with(field: bytes) -> bytes:
    return b'{"messages":[{"role":"user","content":"hi"}],' + field + b"}"


BAD_BYTES = [
    ("empty", b"", "bad_json", "empty"),
    ("text", b"hello", "bad_json", "byte 0"),
    ("cut", b'{"messages":[{"role"', "bad_json", "byte 20"),
    ("trailing bytes", b'{"inputs":"a"} x', "bad_json", "byte 15"),
    ("top level list", b"[1]", "bad_json", "must be a JSON object"),
    ("top level string", b'"a"', "bad_json", "must be a JSON object"),
    ("top level null", b"null", "bad_json", "must be a JSON object"),
    ("bad UTF-8", b'{"inputs":"\xff"}', "bad_encoding", "byte 11"),
    ("UTF-16", '{"inputs":"a"}'.encode("utf-16"), "bad_encoding", "UTF-8"),
    ("byte order mark", b'\xef\xbb\xbf{"inputs":"a"}', "bad_encoding", "byte order mark"),
    ("surrogate in content", b'{"messages":[{"role":"user","content":"\\ud800"}]}', "bad_field", "messages[0].content"),
    ("surrogate in role", b'{"messages":[{"role":"\\ud800","content":"a"}]}', "bad_field", "messages[0].role"),
    ("surrogate in stop", chat_with(b'"stop":["\\udfff"]'), "bad_field", "stop[0]"),
    ("surrogate in model", chat_with(b'"model":"\\ud800"'), "bad_field", "model"),
    ("NaN", chat_with(b'"temperature":NaN'), "bad_field", "temperature must be a finite number, got NaN"),
    ("Infinity", chat_with(b'"top_p":-Infinity'), "bad_field", "top_p must be a finite number"),
    ("1e400", chat_with(b'"temperature":1e400'), "bad_field", "temperature must be a finite number"),
    ("5,000 digits", chat_with(b'"seed":' + b"9" * 5000), "bad_field", "seed"),
    ("depth 1e3", chat_with(b'"x":' + nested(1000)), "bad_json", "deeper than 64"),
    ("depth 5e3", b'{"messages":' + nested(5000) + b"}", "bad_json", "deeper than 64"),
    ("depth 2e5", chat_with(b'"tools":' + nested(200_000)), "bad_json", "deeper than 64"),
    (
        "many fields wrong",
        json.dumps({"messages": [{"role": index} for index in range(2000)]}).encode(),
        "bad_field",
        "3995 more",
    ),
]


@pytest.mark.parametrize(("body", "code", "words"), [row[1:] for row in BAD_BYTES], ids=[row[0] for row in BAD_BYTES])
def test_bad_bytes_are_refused_with_their_reason(service: Service, body: bytes, code: str, words: str) -> None:
    status, headers, answer = send(service, body)
    assert status == 400
    assert answer["error"]["code"] == code
    assert words in answer["error"]["message"]
    assert int(headers["content-length"]) <= 2048
    assert service.engine.running == 0


def test_nul_is_text_and_the_last_of_equal_keys_wins(service: Service) -> None:
    assert send(service, b'{"messages":[{"role":"user","content":"a\\u0000b"}]}')[0] == 200
    assert "a\x00b" in service.engine.jobs[-1].prompt_text
    assert send(service, b'{"inputs":"a\\u0000b"}')[0] == 200
    assert service.engine.jobs[-1].prompt_text == "a\x00b"
    assert send(service, b'{"inputs":"a","inputs":"b"}')[0] == 200
    assert service.engine.jobs[-1].prompt_text == "b"


def test_a_million_messages_are_refused_while_ping_is_answered() -> None:
    body = b'{"messages":[' + b",".join([b'{"role":"user","content":"abcde"}'] * 1_000_000) + b"]}"
    assert len(body) > 33_000_000
    with serving(max_body_bytes=64 * 2**20) as service:
        slowest, over = [0.0], threading.Event()

        def ping() -> None:
            while not over.is_set():
                began = time.monotonic()
                assert send(service, b"", path="/ping", method="GET")[0] == 200
                slowest[0] = max(slowest[0], time.monotonic() - began)
                time.sleep(0.01)

        pinging = threading.Thread(target=ping)
        pinging.start()
        status, _, answer = send(service, body)
        over.set()
        pinging.join()
        assert status == 400
        assert answer["error"]["param"] == "messages"
        assert answer["error"]["message"] == "messages must have at most 2048 items, got more than 100000"
        print(f"slowest ping: {slowest[0] * 1000:.0f} ms")
        assert slowest[0] < 2.0


def test_200_megabytes_are_refused_while_they_come() -> None:
    """With and without a length; memory does not grow with what is sent."""
    with serving(max_body_bytes=2**20) as service:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        for has_length in (True, False):
            connection = socket.create_connection(("127.0.0.1", service.port))
            head = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
            head += b"Content-Length: 209715200\r\n\r\n" if has_length else b"Transfer-Encoding: chunked\r\n\r\n"
            part = b" " * 65536 if has_length else b"10000\r\n" + b" " * 65536 + b"\r\n"
            sent = 0
            with contextlib.suppress(ConnectionError):
                connection.sendall(head)
                for _ in range(3200):
                    connection.sendall(part)
                    sent += 65536
            with contextlib.suppress(ConnectionError):
                assert connection.recv(65536).startswith(b"HTTP/1.1 413 ")
            connection.close()
            print(f"{sent} bytes were sent before the end")
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 * 1024
        assert send(service, b"", path="/ping", method="GET")[0] == 200


def test_a_client_that_reads_gets_the_whole_413() -> None:
    with serving(max_body_bytes=2048) as service:
        status, headers, answer = send(service, b" " * 4096)
        assert (status, headers["connection"]) == (413, "close")
        assert answer["error"]["message"] == "the body has 4096 bytes; at most 2048 are read"


@pytest.mark.parametrize("encoding", ["gzip", "br", "deflate", "gzip, identity"])
def test_compressed_bodies_are_never_inflated(service: Service, encoding: str) -> None:
    status, _, answer = send(service, BOMB, JSON | {"content-encoding": encoding})
    assert status == 415
    assert "content-encoding" in answer["error"]["message"]


@pytest.mark.parametrize(
    ("content_type", "status"),
    [
        (None, 200),
        ("application/json", 200),
        ("Application/JSON; charset=UTF-8", 200),
        ("application/json; charset=utf-16", 415),
        ("text/csv", 415),
        ("image/png", 415),
        ("application/x-www-form-urlencoded", 415),
        ("application/octet-stream", 200),
        ("binary/octet-stream", 200),
        ("application/x-ndjson; charset=latin-1", 415),
        ("application/json; charset=utf-8; v=1", 200),
        ('application/json;v=1;CHARSET = "UTF-8" ; q=0.5', 200),
        ('application/json; note="a;charset=latin-1"; charset=utf8', 200),
        ("application/json; x-charset=latin-1", 200),
        ("application/json; v=1; charset=latin-1; w=2", 415),
        ('application/json; charset="utf-16"; v=1', 415),
        ("application/json; charset=", 200),
        ("application/json;;; ;", 200),
    ],
)
def test_content_types(service: Service, content_type: str | None, status: int) -> None:
    headers = {"content-type": content_type} if content_type else {}
    assert send(service, b'{"inputs":"a"}', headers)[0] == status


@pytest.mark.parametrize(
    ("content_type", "body", "words"),
    [
        (
            "application/octet-stream",
            b"\x00\x01\xff",
            'got "application/octet-stream", with which a JSON object is read: ',
        ),
        ("application/octet-stream", b'{"inputs":', "the body is not JSON: "),
        ("application/octet-stream", b"[1]", "the body must be a JSON object, got an array of 1 items"),
        ("application/octet-stream", b"", "the body is empty"),
        ("image/PNG", b"{}", 'got "image/png"'),
        ("application/x-www-form-urlencoded", b"{}", "what curl sends without -H 'content-type: application/json'"),
        ("text/csv; header=present", b"a,b", 'got "text/csv"'),
        ("json", b"{}", 'got "json"'),
    ],
)
def test_what_is_not_read_is_named_with_what_is(service: Service, content_type: str, body: bytes, words: str) -> None:
    for path in ("/invocations", "/v1/chat/completions", "/v1/completions"):
        status, _, answer = send(service, body, {"content-type": content_type}, path)
        assert (status, answer["error"]["code"]) == (415, "unsupported_media_type")
        assert answer["error"]["message"].startswith("content-type must be application/json, or application/jsonlines ")
        assert words in answer["error"]["message"]
        assert ("text/plain" in answer["error"]["message"]) == (path == "/invocations")


def test_bytes_that_are_json_name_their_bad_fields(service: Service) -> None:
    headers = {"content-type": "application/octet-stream"}
    assert send(service, b'{"inputs":"a","parameters":{"seed":NaN}}', headers)[0] == 400
    assert send(service, b'{"inputs":5}', headers)[2]["param"] == "inputs"


def test_plain_text_is_a_standard_request(service: Service) -> None:
    status, _, answer = send(service, b"hello", {"content-type": "text/plain"})
    assert (status, answer) == (200, {"generated_text": "Hello!"})
    assert service.engine.jobs[-1].prompt_text == "hello"
    assert send(service, b"hello", {"content-type": "text/plain"}, path="/v1/chat/completions")[0] == 415


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({**CHAT, "inputs": "a"}, "messages and inputs in one body"),
        ({"foo": 1}, "messages, inputs, prompt, input, query, text_1, file, requestType"),
        ({"input": 3}, "input must be a string or an array of items, got 3"),
        ({**CHAT, "max_tokens": True}, "max_tokens must be an integer, got true"),
        ({**CHAT, "stream": "yes"}, 'stream must be true or false, got "yes"'),
        ({**CHAT, "max_tokens": 4.5}, "max_tokens must be an integer, got 4.5"),
        ({**CHAT, "temperature": "x"}, 'temperature must be a number, got "x"'),
    ],
)
def test_the_body_chooses_and_its_own_field_is_named(service: Service, body: object, words: str) -> None:
    status, _, answer = post(service, body)
    assert status == 400
    assert words in answer["error"]["message"]


def test_errors_have_their_dialects_shape(service: Service) -> None:
    assert post(service, {"inputs": "a", "parameters": {"top_p": 2}})[2] == {
        "error": "parameters.top_p must be at least 0 and at most 1, got 2",
        "code": 400,
        "type": "invalid_request_error",
        "param": "parameters.top_p",
    }
    assert post(service, {**CHAT, "top_p": 2})[2] == {
        "error": {
            "message": "top_p must be at least 0 and at most 1, got 2",
            "type": "invalid_request_error",
            "param": "top_p",
            "code": "bad_field",
        }
    }


def test_paths_methods_and_models(service: Service) -> None:
    assert send(service, b"", path="/nope", method="GET")[0] == 404
    status, headers, _ = send(service, b"", path="/ping/", method="GET", headers={"Host": "evil.example"})
    assert (status, headers.get("location")) == (404, None)
    status, headers, answer = send(service, b"", method="GET")
    assert (status, answer["error"]["code"], headers["allow"]) == (405, "method_not_allowed", "POST")
    for path, model in (("/invocations", "nope"), ("/models/nope/invoke", ""), ("/predictions/nope", "")):
        status, _, answer = post(service, {**CHAT, "model": model}, path=path)
        assert status == 404
        assert answer["error"] == answer["error"] | {
            "code": "model_not_found",
            "type": "invalid_request_error",
            "param": "model",
        }
    status, _, answer = post(service, {"inputs": "a", "model": "nope"})
    assert (status, answer["code"], answer["type"], answer["param"]) == (404, 404, "invalid_request_error", "model")
    assert send(service, b"", path="/v1/models/nope", method="GET")[2]["error"]["code"] == "model_not_found"
    assert send(service, b"", path="/nope", method="GET")[2]["error"]["code"] == "not_found"
    assert post(service, {**CHAT, "model": ""})[0] == 200
    assert post(service, CHAT, path="/predictions/tiny")[0] == 200
    assert post(service, CHAT, path="/models/nope/invoke")[0] == 404
    for path in ("/ping", "/health"):
        assert send(service, b"", path=path, method="GET")[2] == {"status": "ready", "active": 0}


BODIES: list[dict[str, Any]] = [CHAT, {"inputs": "a"}, {"prompt": "a"}]


@pytest.mark.parametrize("body", BODIES, ids=["chat", "standard", "completion"])
@pytest.mark.parametrize("stream", [False, True])
def test_placeholders_are_no_models_names(service: Service, body: dict[str, Any], stream: bool) -> None:  # noqa: FBT001
    for name in ("tgi", "dummy"):
        assert post(service, {**body, "model": name, "stream": stream})[0] == 200
        assert send(service, b"", path=f"/v1/models/{name}", method="GET")[0] == 404
        assert post(service, body, path=f"/models/{name}/invoke")[0] == 404
    for name in ("default", "gpt-4", "TGI"):
        assert post(service, {**body, "model": name, "stream": stream})[0] == 404
    assert post(service, {**body, "model": "tgi", "adapters": "a"})[2] == post(service, {**body, "adapters": "a"})[2]


def test_placeholders_are_refused_where_strict() -> None:
    with serving(is_strict=True) as strict:
        status, _, answer = post(strict, {**CHAT, "model": "tgi"})
        assert (status, answer["error"]["message"]) == (404, 'model "tgi" is not served here; tiny is')


def test_each_name_of_the_model_is_listed() -> None:
    """A placeholder that clients send where they have no name is taken, and is no model."""
    with serving(names=frozenset({"tiny", "b", "a/c", "tgi"}), aliases=("b", "a/c")) as service:
        listed = send(service, b"", path="/v1/models", method="GET")[2]
        assert (listed["object"], [one["id"] for one in listed["data"]]) == ("list", ["tiny", "b", "a/c"])
        for one in listed["data"]:
            assert (one["object"], one["root"], one["max_model_len"]) == ("model", "tiny", 1024)
            assert send(service, b"", path=f"/v1/models/{one['id']}", method="GET")[2] == one
            assert post(service, {**CHAT, "model": one["id"]})[0] == 200
        for name in ("nope", "tgi"):
            assert send(service, b"", path=f"/v1/models/{name}", method="GET")[0] == 404
        with openai.OpenAI(base_url=f"http://127.0.0.1:{service.port}/v1", api_key="none") as client:
            assert [model.id for model in client.models.list()] == ["tiny", "b", "a/c"]
            assert client.models.retrieve("a/c").id == "a/c"


def test_the_frame_is_chosen_by_header_then_route(service: Service) -> None:
    asked = {**CHAT, "stream": True}
    kinds = {
        ("/invocations", ""): "application/jsonlines",
        ("/invocations", "*/*"): "application/jsonlines",
        ("/invocations", "application/json"): "application/jsonlines",
        ("/invocations", "text/event-stream"): EVENTS.content_type,
        ("/invocations", "text/event-stream; charset=utf-8"): EVENTS.content_type,
        ("/v1/chat/completions", ""): EVENTS.content_type,
        ("/v1/chat/completions", "application/json"): EVENTS.content_type,
        ("/v1/chat/completions", "application/jsonlines"): "application/jsonlines",
    }
    for (path, accept), kind in kinds.items():
        headers = JSON | ({"accept": accept} if accept else {})
        found = send(service, json.dumps(asked).encode(), headers, path)
        assert (found[1]["content-type"], found[1]["transfer-encoding"]) == (kind, "chunked"), (path, accept)
        assert found[2].endswith(b"data: [DONE]\n\n") == (kind == EVENTS.content_type)


def test_completions_have_a_route_of_their_own(service: Service) -> None:
    asked = {"prompt": "hi"}
    for path, kind in (("/v1/completions", EVENTS.content_type), ("/invocations", "application/jsonlines")):
        status, _, answer = post(service, asked, path=path)
        assert (status, answer["object"], answer["choices"][0]["text"]) == (200, "text_completion", "Hello!")
        status, headers, data = post(service, {**asked, "stream": True}, path=path)
        assert (status, headers["content-type"]) == (200, kind)
        assert data.endswith(b"data: [DONE]\n\n") == (kind == EVENTS.content_type)
    status, _, answer = post(service, {"inputs": "hi"}, path="/v1/completions")
    assert (status, answer["error"]["param"]) == (400, "prompt")
    assert send(service, b"hello", {"content-type": "text/plain"}, path="/v1/completions")[0] == 415


def test_requests_before_the_model_is_there() -> None:
    with serving(is_open=False) as service:
        status, headers, answer = post(service, CHAT)
        assert (status, answer["error"]["code"], headers["retry-after"]) == (503, "loading", "5")
        service.health.enter("importing the engine")
        for path in ("/ping", "/health"):
            status, _, answer = send(service, b"", path=path, method="GET")
            assert (status, answer["phase"]) == (503, "importing the engine")
        assert send(service, b"", path="/live", method="GET")[::2] == (200, {"status": "live"})


def test_the_process_is_live_when_the_engine_is_gone() -> None:
    engine = Scripted()
    with serving(engine) as service:
        engine.is_dead = True
        assert send(service, b"", path="/ping", method="GET")[0] == 503
        assert send(service, b"", path="/live", method="GET")[::2] == (200, {"status": "live"})


def test_more_than_the_slots_and_the_queue_is_refused_at_once() -> None:
    engine = Scripted(said("abc", gap_s=0.2), max_running=2)
    with serving(engine, policy=PipelineConfig(queue=1, limits=Limits())) as service:
        answers: list[Reply] = []
        threads = [threading.Thread(target=lambda: answers.append(post(service, CHAT))) for _ in range(4)]
        for thread in threads:
            thread.start()
        while service.pipeline.active < 4:
            time.sleep(0.01)
        status, headers, answer = post(service, CHAT)
        assert (status, headers["retry-after"]) == (503, "1")
        assert answer["error"]["message"].startswith("all 3 seats and 1 places in the queue are taken")
        for thread in threads:
            thread.join()
        assert [status for status, _, _ in answers] == [200] * 4
        assert post(service, CHAT)[0] == 200


def test_each_frame_is_one_write(service: Service) -> None:
    """A client that takes each chunk of the transfer for one event is right."""
    body = json.dumps({**CHAT, "stream": True}).encode()
    connection = socket.create_connection(("127.0.0.1", service.port))
    connection.sendall(
        b"POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Type: application/json\r\n"
        b"Content-Length: %d\r\n\r\n" % len(body) + body
    )
    data = b""
    while part := connection.recv(65536):
        data += part
    connection.close()
    payload = data.partition(b"\r\n\r\n")[2]
    events = []
    while payload:
        size, _, payload = payload.partition(b"\r\n")
        events.append(payload[: int(size, 16)])
        payload = payload[int(size, 16) + 2 :]
    assert events.pop() == b""
    assert events.pop() == b"data: [DONE]\n\n"
    texts = [json.loads(event.removeprefix(b"data: "))["choices"][0]["delta"].get("content", "") for event in events]
    assert texts == [*"Hello!", ""]


def ignored(service: Service) -> dict[str, float]:
    text = send(service, b"", {}, "/metrics", "GET")[2].decode()
    found = re.findall(r'^lmi_chat_ignored_keys_total\{dialect="(\w+)"\} (\S+)$', text, re.MULTILINE)
    return {dialect: float(count) for dialect, count in found}


def test_ignored_keys_are_told_and_counted(service: Service) -> None:
    before = ignored(service)
    misspelled = {"messages": [{"role": "user", "content": "hi", "nmae": "é\r\nx: y"}], "stream": True, "zz\r\nx: y": 1}
    _, headers, _ = post(service, misspelled)
    assert headers["x-lmi-chat-warning"] == (
        "zz x: y is ignored; messages[0].nmae is ignored; did you mean messages[0].name?"
    )
    assert "x-lmi-chat-warning" in post(service, {"inputs": "x", "parameters": {"max_output_tokens": 5}})[1]
    assert "x-lmi-chat-warning" not in post(service, CHAT)[1]
    after = ignored(service)
    assert {name: after[name] - before.get(name, 0) for name in ("chat", "standard")} == {"chat": 2, "standard": 1}
