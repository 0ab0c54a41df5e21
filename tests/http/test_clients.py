"""An answer that is not ASCII, read line by line by clients as they are: its characters, and one JSON text to a line.

requests takes text/* for Latin-1 unless a charset says otherwise; its reader of lines, httpx's and others' split where
str.splitlines does, at U+0085, U+2028 and U+2029 too.
"""

import contextlib
import json
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import httpx
import openai
import pytest
import requests

from lmi_chat.job import Delta, Finish, Finished, Job
from tests.http.test_app import CHAT
from tests.http.test_sagemaker import boto, parts, stream
from tests.support.scripted import Scripted, Service, serving, token

TEXT = "入\u2028ca\u2029f\x85é!"
LINES, EVENTS = "application/jsonlines", "text/event-stream"
BODIES: dict[str, tuple[dict[str, Any], str]] = {
    "chat": (CHAT, "/v1/chat/completions"),
    "completion": ({"prompt": "hi"}, "/v1/completions"),
    "standard": ({"inputs": "hi"}, "/invocations"),
    "details": ({"inputs": "hi", "parameters": {"details": True}}, "/invocations"),
    "logprobs": ({**CHAT, "logprobs": True}, "/v1/chat/completions"),
}


def script(job: Job) -> Sequence[Delta | Finished]:
    has_tokens = job.sampling.logprobs is not None
    steps: list[Delta | Finished] = [
        Delta(0, character, list(character.encode())[:1], [token(character)] if has_tokens else [])
        for character in TEXT
    ]
    end = Delta(0, "", [], [], Finish("length"))
    return [*steps, end, Finished(prompt_tokens=len(job.prompt_ids), completion_tokens=len(TEXT))]


@pytest.fixture(scope="module", params=["token by token", "delta by delta"])
def service(request: pytest.FixtureRequest) -> Iterator[Service]:
    with serving(Scripted(script, uses_token_sink=request.param == "token by token")) as running:
        yield running


def by_requests(url: str, body: Any, accept: str) -> list[str]:
    with requests.post(url, json=body, headers={"accept": accept}, stream=True, timeout=10) as answer:
        return [str(line) for line in answer.iter_lines(decode_unicode=True)]


def by_httpx(url: str, body: Any, accept: str) -> list[str]:
    with httpx.stream("POST", url, json=body, headers={"accept": accept}, timeout=10) as answer:
        return list(answer.iter_lines())


def said(chunks: Iterable[Any]) -> str:
    """The text of a stream's chunks, of any dialect."""
    texts: list[str] = []
    for chunk in chunks:
        choices = chunk.get("choices", ())
        texts += [choice.get("text") or choice.get("delta", {}).get("content") or "" for choice in choices]
        if "token" in chunk:
            texts.append(chunk["token"]["text"])
    return "".join(texts)


@pytest.mark.parametrize("read", [by_requests, by_httpx])
@pytest.mark.parametrize("accept", [LINES, EVENTS, f"{EVENTS}; charset=utf-8"])
@pytest.mark.parametrize("dialect", BODIES)
def test_a_stream_read_line_by_line(service: Service, read: Any, accept: str, dialect: str) -> None:
    body, path = BODIES[dialect]
    found = [line for line in read(f"http://127.0.0.1:{service.port}{path}", body | {"stream": True}, accept) if line]
    if accept != LINES:
        assert all(line.startswith("data: ") for line in found)
        found = [line.removeprefix("data: ") for line in found if line != "data: [DONE]"]
    chunks = [json.loads(line) for line in found]
    assert said(chunks) == TEXT
    if "inputs" in body:
        assert chunks[-1]["generated_text"] == TEXT


@pytest.mark.parametrize("dialect", BODIES)
def test_a_whole_answer_read_line_by_line(service: Service, dialect: str) -> None:
    body, path = BODIES[dialect]
    for read in (by_requests, by_httpx):
        [line] = read(f"http://127.0.0.1:{service.port}{path}", body, "application/json")
        assert json.dumps(TEXT)[1:-1] in json.dumps(json.loads(line))
    assert requests.post(f"http://127.0.0.1:{service.port}{path}", json=body, timeout=10).encoding == "utf-8"


@pytest.mark.parametrize("accept", [LINES, EVENTS])
@pytest.mark.parametrize("dialect", BODIES)
def test_a_stream_through_boto3(service: Service, accept: str, dialect: str) -> None:
    body, _ = BODIES[dialect]
    with contextlib.closing(boto(service)) as runtime:
        reply = stream(runtime, body | {"stream": True}, Accept=accept)
        data = b"".join(parts(reply))
    assert reply["ContentType"].partition(";")[0] == accept
    found = [line.removeprefix("data: ") for line in data.decode().splitlines() if line]
    assert said(json.loads(line) for line in found if line != "[DONE]") == TEXT


def test_a_stream_through_openais_client(service: Service) -> None:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{service.port}/v1", api_key="none") as client:
        messages: Any = CHAT["messages"]
        chunks = list(client.chat.completions.create(messages=messages, model="tiny", stream=True))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == TEXT
    assert [chunk.choices[0].finish_reason for chunk in chunks] == [None] * len(TEXT) + ["length"]
    assert chunks[-1].choices[0].delta.model_dump(exclude_unset=True) == {}
