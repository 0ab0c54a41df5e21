"""OpenAI's routes of stored completions, over HTTP with a scripted engine."""

import json
import logging
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest

from lmi_chat.storage.completions import Completions
from tests.http.test_app import CHAT, Reply, post, send
from tests.storage.test_completions import failures
from tests.support.scripted import Scripted, Service, called, reasoned, said, serving

pytestmark = pytest.mark.processes

PATH = "/v1/chat/completions"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kept.db"


@pytest.fixture
def service(path: Path) -> Iterator[Service]:
    store = Completions(path)
    with serving(store=store) as running:
        yield running
    store.close()


def ask(service: Service, tail: str = "", method: str = "GET", body: object = None) -> Reply:
    return send(service, b"" if body is None else json.dumps(body).encode(), path=PATH + tail, method=method)


def listed(service: Service, **query: Any) -> Any:
    status, _, answer = ask(service, "?" + urlencode(query))
    assert status == 200, answer
    return answer


def made(service: Service, **fields: Any) -> Any:
    status, headers, answer = post(service, {**CHAT, "store": True, **fields}, path=PATH)
    assert status == 200, answer
    assert "x-lmi-chat-warning" not in headers
    return answer


def streamed(service: Service, **fields: Any) -> list[Any]:
    data: bytes = made(service, stream=True, **fields)
    return [json.loads(line[6:]) for line in data.split(b"\n\n") if line and not line.endswith(b"[DONE]")]


def test_a_completion_comes_back_as_it_was(service: Service) -> None:
    answer = made(service, metadata={"topic": "a"})
    whole = answer | {"metadata": {"topic": "a"}}
    assert ask(service, "/" + answer["id"])[2] == whole
    page = {"object": "list", "data": [whole], "first_id": answer["id"], "last_id": answer["id"], "has_more": False}
    assert ask(service)[2] == page


def test_a_stream_is_kept_as_the_whole_document(service: Service) -> None:
    whole, chunks = made(service, logprobs=True), streamed(service, logprobs=True, metadata={"a": "b"})
    found = ask(service, "/" + chunks[0]["id"])[2]
    assert found["choices"] == whole["choices"]
    assert found["usage"] == whole["usage"]
    assert found.keys() == whole.keys() | {"metadata"}
    assert abs(found["created"] - chunks[0]["created"]) <= 1
    assert found["metadata"] == {"a": "b"}


def test_what_does_not_ask_is_not_kept(service: Service) -> None:
    for fields in ({}, {"store": False}, {"store": None}):
        post(service, {**CHAT, **fields}, path=PATH)
    post(service, {"inputs": "a"})
    assert ask(service)[2] == {"object": "list", "data": [], "first_id": None, "last_id": None, "has_more": False}


def test_invocations_keep_too_and_no_caller_names_what_is_kept(service: Service) -> None:
    """By a name of the caller's, another's could be replaced."""
    headers = {"content-type": "application/json", "x-request-id": "mine"}
    answers = [send(service, json.dumps({**CHAT, "store": True}).encode(), headers) for _ in range(2)]
    assert [told["x-request-id"] for _, told, _ in answers] == ["mine", "mine"]
    assert len({answer["id"] for _, _, answer in answers}) == 2
    for _, _, answer in answers:
        assert ask(service, f"/{answer['id']}")[0] == 200
    assert ask(service, "/chatcmpl-mine")[0] == 404


def test_paging(service: Service) -> None:
    ids = [made(service)["id"] for _ in range(5)]
    page = listed(service, limit=2)
    assert ([item["id"] for item in page["data"]], page["has_more"]) == (ids[:2], True)
    page = listed(service, limit=2, after=page["last_id"])
    assert (page["first_id"], page["last_id"], page["has_more"]) == (ids[2], ids[3], True)
    page = listed(service, limit=2, after=page["last_id"], order="asc")
    assert ([item["id"] for item in page["data"]], page["has_more"]) == (ids[4:], False)
    page = listed(service, limit=100, order="desc", after=ids[4])
    assert [item["id"] for item in page["data"]] == ids[3::-1]


def test_filters(service: Service) -> None:
    for fruit, colour in (("apple", "red"), ("apple", "green"), ("plum [x]", "blue")):
        made(service, metadata={"fruit": fruit, "a colour]": colour})
    assert len(listed(service, **{"metadata[fruit]": "apple"})["data"]) == 2
    both = {"metadata[fruit]": "apple", "metadata[a colour]]": "green"}
    assert [item["metadata"]["a colour]"] for item in listed(service, **both)["data"]] == ["green"]
    assert len(listed(service, **{"metadata[fruit]": "plum [x]"})["data"]) == 1
    assert len(listed(service, model="tiny")["data"]) == 3
    assert listed(service, model="other")["data"] == []


@pytest.mark.parametrize(
    ("query", "param", "words"),
    [
        ("limit=0", "limit", 'limit must be at least 1 and at most 100, got "0"'),
        ("limit=101", "limit", "at most 100"),
        ("limit=two", "limit", 'got "two"'),
        ("limit=", "limit", "at least 1"),
        ("limit=-1", "limit", "at least 1"),
        ("limit=" + "9" * 5000, "limit", "at most 100"),
        ("limit=%D9%A3", "limit", "at least 1"),
        ("order=up", "order", 'order must be one of asc, desc, got "up"'),
        ("metadata=a", "metadata", "metadata must be written metadata[key]=value"),
        ("metadata[a=b", "metadata", "metadata must be written metadata[key]=value"),
        ("metadata[a]=" + "x" * 513, "metadata.a", "at most 512 characters"),
        ("metadata[" + "k" * 65 + "]=x", "metadata.kkk", "at most 64 characters"),
    ],
)
def test_bad_values_are_named(service: Service, query: str, param: str, words: str) -> None:
    status, headers, answer = ask(service, "?" + query)
    assert (status, answer["error"]["code"]) == (400, "bad_field")
    assert answer["error"]["param"].startswith(param)
    assert words in answer["error"]["message"]
    assert int(headers["content-length"]) <= 2048


def test_unknown_names_are_told_in_the_header(service: Service) -> None:
    status, headers, _ = ask(service, "?limt=5&%F0%9F%8C%9F=1")
    assert status == 200
    assert headers["x-lmi-chat-warning"] == "limt is ignored; did you mean limit?; \\U0001f31f is ignored"


def test_update(service: Service) -> None:
    answer = made(service, metadata={"a": "1", "b": "2"})
    status, _, found = ask(service, "/" + answer["id"], "POST", {"metadata": {"c": "3"}})
    assert (status, found) == (200, answer | {"metadata": {"c": "3"}})
    assert ask(service, "/" + answer["id"])[2] == found
    assert listed(service, **{"metadata[c]": "3"})["first_id"] == answer["id"]
    assert listed(service, **{"metadata[a]": "1"})["data"] == []
    assert ask(service, "/" + answer["id"], "POST", {"metadata": None})[2]["metadata"] == {}
    headers = ask(service, "/" + answer["id"], "POST", {"metadata": {}, "model": "x"})[1]
    assert headers["x-lmi-chat-warning"] == "model is ignored"
    headers = ask(service, "/" + answer["id"], "POST", {"metadata": {}, "metadatas": {}})[1]
    assert headers["x-lmi-chat-warning"] == "metadatas is ignored; did you mean metadata?"


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        (b"{}", 400, "metadata must be given"),
        (b'{"metadatas":{}}', 400, "or null for none; did you mean metadata by metadatas?"),
        (b'{"metadata":5}', 400, "metadata must be an object of strings, got 5"),
        (b'{"metadata":{"a":1}}', 400, "metadata.a must be a string, got 1"),
        (b"", 400, "the body is empty"),
        (b"[]", 400, "must be a JSON object"),
        (b'{"metadata":{"a":"\\ud800"}}', 400, "lone surrogate"),
        (b" " * 300_000, 413, "more than 262144 bytes"),
    ],
)
def test_bad_updates(service: Service, body: bytes, status: int, words: str) -> None:
    answer = made(service)
    found = send(service, body, path=f"{PATH}/{answer['id']}", method="POST")
    assert found[0] == status
    assert words in found[2]["error"]["message"]
    assert ask(service, "/" + answer["id"])[2]["metadata"] == {}


def test_a_client_that_goes_in_its_body_is_no_error_of_ours(service: Service, caplog: pytest.LogCaptureFixture) -> None:
    head = f"POST {PATH}/x HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n"
    with socket.create_connection(("127.0.0.1", service.port)) as client:
        client.sendall(head.encode() + b"{")
        assert ask(service)[0] == 200
    assert ask(service)[0] == 200  # so that the server has seen it go
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []


def test_delete(service: Service) -> None:
    answer = made(service)
    deleted = {"object": "chat.completion.deleted", "id": answer["id"], "deleted": True}
    assert ask(service, "/" + answer["id"], "DELETE")[2] == deleted
    for method, tail in (("GET", ""), ("DELETE", ""), ("POST", ""), ("GET", "/messages")):
        status, _, found = ask(
            service, f"/{answer['id']}{tail}", method, {"metadata": {}} if method == "POST" else None
        )
        assert (status, found["error"]["code"]) == (404, "not_found")
        assert answer["id"] in found["error"]["message"]
    assert ask(service, "?after=" + answer["id"])[0] == 404


def test_messages(service: Service) -> None:
    parts = [{"type": "text", "text": "How are you?"}]
    messages: list[dict[str, Any]] = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "hi", "name": "Ada"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "bye"},
    ]
    answer = made(service, messages=messages)
    tail = f"/{answer['id']}/messages"
    page = ask(service, tail)[2]
    assert page["has_more"] is False
    assert page["data"] == [
        {"id": f"{answer['id']}-{place}", "name": None, "content_parts": None} | message
        for place, message in enumerate(messages)
    ]
    page = ask(service, tail + "?limit=2&after=" + page["first_id"])[2]
    assert [item["content"] for item in page["data"]] == ["hi", "Hello."]
    assert (page["last_id"], page["has_more"]) == (f"{answer['id']}-2", True)
    assert ask(service, tail + "?order=desc&limit=1")[2]["data"][0]["content"] == "bye"
    assert ask(service, tail + "?limit=0")[2]["error"]["param"] == "limit"
    assert ask(service, tail + "?after=nope")[2]["error"]["param"] == "after"
    assert "model is ignored" in ask(service, tail + "?model=x")[1]["x-lmi-chat-warning"]
    kept = parts_of(service, parts)
    assert (kept["content"], kept["content_parts"]) == (None, parts)


def parts_of(service: Service, parts: list[Any]) -> Any:
    """The message of parts, which the fake template cannot render, put in by hand."""
    from lmi_chat.storage.completions_db import StoredCompletion

    messages = json.dumps([{"role": "user", "content": parts}]).encode()
    save = service.pipeline.deployment.save
    assert save is not None
    save(StoredCompletion(id="parts", model="tiny", document=b"{}", messages=messages))
    return ask(service, "/parts/messages")[2]["data"][0]


def test_without_a_store() -> None:
    with serving() as service:
        status, headers, answer = post(service, {**CHAT, "store": True}, path=PATH)
        assert (status, headers["x-lmi-chat-warning"]) == (200, "store is ignored: option.store names no file")
        for method, tail in (("GET", ""), ("GET", "/a"), ("POST", "/a"), ("DELETE", "/a"), ("GET", "/a/messages")):
            status, _, answer = ask(service, tail, method)
            assert (status, answer["error"]["code"]) == (404, "not_found")
            assert "option.store is not set" in answer["error"]["message"]
        assert ask(service, "", "PUT")[0] == 405


def test_a_restart_keeps_them(path: Path) -> None:
    ids = []
    for _ in range(2):
        store = Completions(path)
        with serving(store=store) as service:
            ids.append(made(service)["id"])
        store.close()
    store = Completions(path)
    with serving(store=store, is_open=False) as service:
        assert [item["id"] for item in listed(service)["data"]] == ids, "also while the model is loading"
    store.close()


@pytest.mark.parametrize("is_stream", [False, True])
def test_a_broken_disk_never_costs_an_answer(tmp_path: Path, *, is_stream: bool) -> None:
    store, before = Completions(tmp_path), failures()  # a folder stands where the file should be
    with serving(store=store) as service:
        for _ in range(3):
            assert (streamed if is_stream else made)(service)
        status, headers, answer = ask(service)
        assert (status, headers["retry-after"], answer["error"]["code"]) == (503, "1", "unavailable")
        assert failures() == before + 4
        metrics: bytes = send(service, b"", path="/metrics", method="GET")[2]
        assert f"lmi_chat_store_failures_total {before + 4}".encode() in metrics
    store.close()


def test_a_hanging_disk_slows_nobody(service: Service, path: Path) -> None:
    made(service)
    hang = threading.Event()
    store = getattr(service.pipeline.deployment.save, "__self__")  # noqa: B009
    waiting = threading.Thread(target=lambda: service.do(store._ask(lambda _: hang.wait(9))))
    waiting.start()
    time.sleep(0.05)
    for _ in range(20):
        streamed(service)
    assert waiting.is_alive(), "the answers came while the disk hung"
    hang.set()
    waiting.join()
    assert len(listed(service)["data"]) == 20
    assert listed(service)["has_more"] is True
    assert path.is_file()


def test_an_answer_that_is_given_up_is_not_kept(path: Path) -> None:
    import socket

    store = Completions(path)
    with serving(Scripted(said("abcdef", gap_s=0.1)), store=store) as service:
        body = json.dumps({**CHAT, "store": True, "stream": True}).encode()
        client = socket.create_connection(("127.0.0.1", service.port))
        head = b"POST /invocations HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
        client.sendall(head % len(body) + body)
        assert client.recv(100)
        client.close()
        while service.pipeline.active:
            time.sleep(0.01)
        assert listed(service)["data"] == []
    store.close()


def test_calls_and_reasoning_are_kept(path: Path) -> None:
    store = Completions(path)
    call = {"id": "call_0", "type": "function", "function": {"name": "weather", "arguments": "{}"}}
    asked: list[dict[str, Any]] = [
        {"role": "user", "content": "hi"},
        {"role": "assistant", "content": None, "tool_calls": [call]},
        {"role": "tool", "content": "rain", "tool_call_id": "call_0"},
    ]
    with serving(Scripted(said(reasoned("Hm."), "So", called("weather", {}))), store=store) as service:
        whole = made(service, messages=asked)
        chunks = streamed(service, messages=asked)
        for completion_id in (whole["id"], chunks[0]["id"]):
            message = ask(service, "/" + completion_id)[2]["choices"][0]["message"]
            assert message == whole["choices"][0]["message"]
            assert (message["reasoning"], message["tool_calls"]) == ("Hm.", [call])
        page = ask(service, f"/{whole['id']}/messages")[2]["data"]
    assert [message | {"id": ""} for message in page] == [
        {"id": "", "name": None, "content_parts": None} | message for message in asked
    ]
    store.close()
