"""What LMI, TGI and vLLM get wrong on the wire, asked of this server; docs/peers.md has the table of all of it.

A test says in its first words whose fault it is. Those that need the real engine are in tests/real/test_peers.py.
"""

import contextlib
import json
import socket
import struct
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import openai
import pytest

from lmi_chat.config.settings import read
from lmi_chat.config.sources import BadSetting
from lmi_chat.errors import Error
from lmi_chat.job import Delta, Finish, Finished, Job
from tests.http.test_app import CHAT, JSON, post, send
from tests.http.test_sagemaker import boto, parts, stream
from tests.support.fakes import deployment
from tests.support.scripted import Service, Step, said, serving, token

pytestmark = pytest.mark.processes

ROOT = Path(__file__).parents[2]
STANDARD = {"inputs": "hi"}
COMPLETION = {"prompt": "hi"}
BODIES = [CHAT, STANDARD, COMPLETION]


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serving() as running:
        yield running


@pytest.fixture(autouse=True)
def _as_it_was(service: Service) -> Iterator[None]:
    service.engine.script, service.engine.left_early = said("Hello!"), 0
    service.engine.jobs.clear()
    yield
    wait_for(lambda: not (service.pipeline.active or service.engine.running))


def streamed(service: Service, body: dict[str, Any], accept: str = "application/jsonlines") -> bytes:
    status, headers, data = post(service, {**body, "stream": True}, headers=JSON | {"accept": accept})
    assert (status, headers["content-type"]) == (200, accept)
    return bytes(data)


@pytest.mark.parametrize("body", [{**CHAT, "stream_options": {"include_usage": True}}, STANDARD, COMPLETION])
def test_a_stream_has_no_empty_lines_and_ends_its_last_one(service: Service, body: dict[str, Any]) -> None:
    """LMI ends a stream with two empty lines; a reader of lines waits for ever for a newline that does not come."""
    data = streamed(service, body)
    assert data.endswith(b"\n")
    assert b"\n\n" not in data
    assert b"[DONE]" not in data
    lines = [json.loads(line) for line in data[:-1].split(b"\n")]
    assert len(lines) == len("Hello!") + (2 if "stream_options" in body else 0)  # a chat's end, and its usage


@pytest.mark.parametrize("body", BODIES)
def test_a_reader_of_lines_gets_every_line_out_of_sagemakers_parts(service: Service, body: dict[str, Any]) -> None:
    """What LangChain's line iterator does: join parts, give out what ends with a newline. Nothing is left over."""
    buffer, lines = b"", []
    with contextlib.closing(boto(service)) as runtime:
        for part in parts(stream(runtime, {**body, "stream": True})):
            *whole, buffer = (buffer + part).split(b"\n")
            lines += [json.loads(line) for line in whole]
    assert (len(lines), buffer) == (len("Hello!") + ("messages" in body), b"")


@pytest.mark.parametrize("body", BODIES)
def test_an_event_is_a_part_of_its_own(service: Service, body: dict[str, Any]) -> None:
    """vLLM glues [DONE] to the last chunk; Strands reads one event from each part."""
    with contextlib.closing(boto(service)) as runtime:
        found = parts(stream(runtime, {**body, "stream": True}, Accept="text/event-stream"))
    assert all(part.startswith(b"data: ") and part.index(b"\n\n") == len(part) - 2 for part in found)
    assert [part == b"data: [DONE]\n\n" for part in found].count(True) == ("inputs" not in body)


@pytest.mark.parametrize("body", BODIES)
def test_a_whole_answer_has_its_length(service: Service, body: dict[str, Any]) -> None:
    """LMI: an asynchronous endpoint finds no Content-Length."""
    _, headers, _ = post(service, body)
    assert int(headers["content-length"]) > 0
    assert "transfer-encoding" not in headers


def test_an_end_without_a_token_is_an_end(service: Service) -> None:
    """LMI: an aborted request's last chunk is an IndexError in mid-stream."""

    def script(job: Job) -> list[Step]:
        tokens = [token("a")] if job.sampling.logprobs is not None else []
        aborted = Delta(0, "", [], [], Finish("abort"))
        return [Delta(0, "a", [97], tokens), aborted, Finished(prompt_tokens=2, completion_tokens=1)]

    service.engine.script = script
    lines = [json.loads(line) for line in streamed(service, STANDARD | {"parameters": {"details": True}}).splitlines()]
    assert [line["generated_text"] for line in lines] == [None, "a"]
    assert (lines[-1]["details"]["finish_reason"], lines[-1]["details"]["generated_tokens"]) == ("abort", 1)


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("body", BODIES)
def test_an_unknown_model_is_not_found(service: Service, body: dict[str, Any], stream: bool) -> None:  # noqa: FBT001
    """LMI: 500 with a Python object's text. vLLM: on /invocations any name is the base model."""
    status, _, answer = post(service, {**body, "model": "nope", "stream": stream})
    message = answer["error"]["message"] if "inputs" not in body else answer["error"]
    assert (status, message) == (404, 'model "nope" is not served here; tiny is')
    assert service.engine.jobs == []


@pytest.mark.parametrize("name", [None, "", "lmi", "tiny"])
@pytest.mark.parametrize("body", BODIES)
def test_a_model_need_not_be_named(service: Service, body: dict[str, Any], name: str | None) -> None:
    """LMI's own name for it is one of its names here."""
    assert post(service, {**body, "model": name})[0] == 200


MISTAKES: list[tuple[dict[str, Any], str]] = [
    (CHAT | {"temperature": -3}, "temperature must be at least 0 and at most 2, got -3"),
    (CHAT | {"temperature": "x"}, 'temperature must be a number, got "x"'),
    (CHAT | {"messages": []}, "messages must have at least 1 and at most 2048 messages, got 0"),
    (STANDARD | {"parameters": {"max_new_tokens": "many"}}, 'parameters.max_new_tokens must be an integer, got "many"'),
    (STANDARD | {"parameters": {"temperature": -3}}, "parameters.temperature must be at least 0 and at most 2, got -3"),
    ({"inputs": "word " * 2500}, "inputs has 12500 characters; 1024 tokens hold at most 10240"),
    (STANDARD | {"parameters": {"max_new_tokens": 9, "n": "two\nlines"}}, 'parameters.n must be an integer, got "two'),
    ({"foo": 1}, "the body has none of the keys that choose a kind of request"),
]


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize(("body", "words"), MISTAKES, ids=[row[1][:40] for row in MISTAKES])
def test_a_mistake_is_told_to_who_made_it(service: Service, body: dict[str, Any], words: str, stream: bool) -> None:  # noqa: FBT001
    """LMI: 424 "Async Inference Failure …", or 500 because the text has two lines. vLLM: a complaint about `prompt`."""
    status, _, answer = post(service, {**body, "stream": stream} if "foo" not in body else body)
    message = answer["error"] if isinstance(answer["error"], str) else answer["error"]["message"]
    assert (status, message[: len(words)]) == (400, words)
    assert "\n" not in message


def test_null_parameters_are_none(service: Service) -> None:
    """LMI: 424, an AttributeError."""
    assert post(service, {"inputs": "hi", "parameters": None})[2] == {"generated_text": "Hello!"}


def test_stream_may_stand_among_the_parameters(service: Service) -> None:
    """LMI: works by half."""
    _, headers, data = post(service, {"inputs": "hi", "parameters": {"stream": True}})
    assert headers["content-type"] == "application/jsonlines"
    assert [json.loads(line)["token"]["text"] for line in data.splitlines()] == list("Hello!")


@pytest.mark.parametrize("body", [b"[1]", b'"x"', b"7", b"null"])
@pytest.mark.parametrize("path", ["/invocations", "/v1/chat/completions"])
def test_a_body_that_is_no_object_is_told_so(service: Service, body: bytes, path: str) -> None:
    """LMI: 424, a TypeError. vLLM: "list indices must be integers"."""
    status, _, answer = send(service, body, path=path)
    assert status == 400
    assert answer["error"]["message"].startswith("the body must be a JSON object, got ")


@pytest.mark.parametrize("text", ["false", "False", "FALSE", "true", "True"])
def test_sessions_on_or_off_requests_are_answered(text: str) -> None:
    """LMI: anything but exactly "true" makes every request fail."""
    settings = read({"enable_stateful_sessions": text}, {}, None, {})
    assert settings.enable_stateful_sessions == (text.lower() == "true")
    with serving() as service:  # it has no sessions
        assert post(service, CHAT)[0] == 200
        status, _, answer = post(service, {"requestType": "NEW_SESSION"})
        assert (status, answer["param"]) == (400, "requestType")
    with pytest.raises(BadSetting, match="must be one of true, false"):
        read({"enable_stateful_sessions": "yes"}, {}, None, {})


def test_the_callers_id_is_the_engines_id(service: Service) -> None:
    """LMI: it goes no further than the front end, and an internal id comes back as a header."""
    for name in ("X-Amzn-SageMaker-Inference-Id", "x-request-id"):
        _, headers, answer = post(service, CHAT, headers=JSON | {name: "abc-1"})
        assert (headers["x-request-id"], service.engine.jobs[-1].id, answer["id"]) == (
            "abc-1",
            "abc-1",
            "chatcmpl-abc-1",
        )
        assert not any("tracking" in header for header in headers)


@pytest.mark.parametrize("stream", [False, True])
def test_a_client_that_goes_ends_its_generation(service: Service, stream: bool) -> None:  # noqa: FBT001
    """LMI and others: generated to the end for nobody, most of all where the answer is not streamed."""
    service.engine.script = said("Hello!" * 1000, gap_s=0.01)
    body = json.dumps({**CHAT, "stream": stream}).encode()
    connection = socket.create_connection(("127.0.0.1", service.port))
    head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n"
    connection.sendall(head.encode() + body)
    wait_for(lambda: service.engine.running == 1)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()
    wait_for(lambda: service.engine.running == 0)
    assert (service.engine.left_early, service.pipeline.active) == (1, 0)


def wait_for(what: Any) -> None:
    end = time.monotonic() + 5
    while not what():
        assert time.monotonic() < end
        time.sleep(0.005)


@pytest.mark.parametrize("failure", [Error("boom"), ZeroDivisionError("boom")])
def test_after_failures_requests_are_answered(service: Service, failure: Any) -> None:
    """TGI: one incomplete generation, then all requests hang until it is started again."""
    service.engine.script = lambda _: [failure]
    for _ in range(3 * service.engine.max_running):
        assert post(service, CHAT)[0] == 500
    service.engine.script = said("Hello!")
    assert [post(service, body)[0] for body in BODIES] == [200] * 3
    assert service.pipeline.active == 0


def test_sagemaker_gets_no_healthy_ping_from_a_server_without_a_model() -> None:
    """Others: /ping 200 although the load failed."""
    with serving(is_open=False) as service:
        assert send(service, b"", path="/ping", method="GET")[0] == 503
        service.do(service.pipeline.open(service.engine, deployment()))
        assert send(service, b"", path="/ping", method="GET")[0] == 200
        service.engine.is_dead = True
        assert send(service, b"", path="/ping", method="GET")[0] == 503


@pytest.mark.parametrize("is_stream", [False, True])
@pytest.mark.parametrize("path", ["/invocations", "/endpoints/tiny/invocations", "/predictions/tiny"])
@pytest.mark.parametrize(
    "body", [{"messages": [{"role": "user", "content": "x" * 1100}]}, {"inputs": "x" * 1100}, {"prompt": "x" * 1100}]
)
def test_a_prompt_that_is_too_long_is_told_in_the_words_that_clients_look_for(
    service: Service, body: dict[str, Any], path: str, *, is_stream: bool
) -> None:
    """LiteLLM goes to a longer model, and LangChain raises an error of its own, by these words and by no others."""
    status, _, data = post(service, {**body, "stream": is_stream}, path=path)
    assert status == (424 if path.startswith("/endpoints") else 400)
    assert "model's maximum context length is 1024 tokens" in json.dumps(data)
    assert "the prompt is too long" in json.dumps(data)
    assert "`inputs` tokens + `max_new_tokens` must be <= 1024" in json.dumps(data), "LiteLLM's, behind SageMaker"


def test_openais_client_is_told_that_the_context_ends(service: Service) -> None:
    client = openai.OpenAI(base_url=f"http://127.0.0.1:{service.port}/v1", api_key="none", max_retries=0)
    with pytest.raises(openai.BadRequestError) as caught:
        client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": "x" * 1100}])
    assert (caught.value.code, caught.value.param) == ("context_length_exceeded", "messages")


@pytest.mark.parametrize("body", BODIES)
@pytest.mark.parametrize("is_stream", [False, True])
def test_a_limit_that_is_cut_is_told_by_the_header(service: Service, body: dict[str, Any], *, is_stream: bool) -> None:
    """VLLM refuses what it has not all the room for."""
    own = {"parameters": {"max_new_tokens": 9000}} if "inputs" in body else {"max_tokens": 9000}
    status, headers, _ = post(service, {**body, **own, "stream": is_stream})
    assert status == 200
    assert " is cut to " in headers["x-lmi-chat-warning"]
    assert service.engine.jobs[-1].sampling.max_tokens == 1024 - len(service.engine.jobs[-1].prompt_ids)
