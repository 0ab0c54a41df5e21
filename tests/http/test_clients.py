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
from tests.support.scripted import Scripted, Service, called, reasoned, serving, token
from tests.support.scripted import said as of_parts

pytestmark = pytest.mark.processes

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


ARGUMENTS = {"city": "Zürich\u2028", "days": [1, 2]}


@pytest.fixture
def calling() -> Iterator[Service]:
    with serving(
        Scripted(of_parts(reasoned("Hm\u2028"), "So: ", called("weather", ARGUMENTS), called("time", {})))
    ) as it:
        yield it


def test_calls_and_reasoning_through_openais_client(calling: Service) -> None:
    """Whole, and by its own fold of a stream."""
    messages: Any = CHAT["messages"]
    with openai.OpenAI(base_url=f"http://127.0.0.1:{calling.port}/v1", api_key="none") as client:
        whole = client.chat.completions.create(messages=messages, model="tiny")
        with client.chat.completions.stream(messages=messages, model="tiny") as stream:
            streamed = stream.get_final_completion()
    for message in (whole.choices[0].message, streamed.choices[0].message):
        assert message.content == "So: "
        calls = [call for call in message.tool_calls or [] if call.type == "function"]
        assert [(call.id, call.function.name) for call in calls] == [("call_0", "weather"), ("call_1", "time")]
        assert [json.loads(call.function.arguments) for call in calls] == [ARGUMENTS, {}]
        extra = message.model_extra or {}
        assert (extra["reasoning"], extra["reasoning_content"]) == ("Hm\u2028", "Hm\u2028")
    assert (whole.choices[0].finish_reason, streamed.choices[0].finish_reason) == ("tool_calls", "tool_calls")
    details = whole.usage and whole.usage.completion_tokens_details
    assert details
    assert details.reasoning_tokens == 3


@pytest.mark.parametrize("accept", [LINES, EVENTS])
def test_calls_through_boto3(calling: Service, accept: str) -> None:
    with contextlib.closing(boto(calling)) as runtime:
        found = parts(stream(runtime, {**CHAT, "stream": True}, Accept=accept))
    lines = [line.removeprefix("data: ") for line in b"".join(found).decode().splitlines() if line]
    deltas = [json.loads(line)["choices"][0]["delta"] for line in lines if line != "[DONE]"]
    pieces = [piece for delta in deltas for piece in delta.get("tool_calls", ())]
    texts = ["".join(one["function"]["arguments"] for one in pieces if one["index"] == place) for place in (0, 1)]
    assert [json.loads(text) for text in texts] == [ARGUMENTS, {}]
    assert "".join(delta.get("reasoning", "") for delta in deltas) == "Hm\u2028"
