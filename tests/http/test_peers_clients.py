"""What other clients send, to the byte, and what each of them needs to find in the answer.

LiteLLM 1.110.2, langchain-aws 1.9.1 (boto3 1.44.8), guidellm 0.8.1, lm-eval 0.4.13, openai 3.57.0.
"""

import json
from collections.abc import Iterator
from typing import Any

import openai
import pytest
from botocore.eventstream import EventStreamBuffer

from tests.http.test_app import send
from tests.support.scripted import Service, serving

pytestmark = pytest.mark.processes

FRANCE = b'"messages": [{"role": "user", "content": "What is the capital of France?"}]'
LITELLM = {"Accept": "*/*", "User-Agent": "litellm/1.110.2", "Content-Type": "application/json"}
BOTO = {
    "Accept-Encoding": "identity",
    "Content-Type": "application/json",
    "User-Agent": "Boto3/1.44.8 md/Botocore#1.44.8 ua/2.1 os/linux lang/python#3.11.7 Botocore/1.44.8",
    "X-Amz-Date": "20261129T164144Z",
    "Authorization": "AWS4-HMAC-SHA256 Credential=none/20261129/us-east-1/sagemaker/aws4_request, SignedHeaders=host",
    "amz-sdk-invocation-id": "1dd329f5-0371-4cf6-b2ff-27dc06651b4f",
    "amz-sdk-request": "attempt=1; max=3",
}
HTTPX = {"Accept": "*/*", "User-Agent": "python-httpx/0.28.1", "Content-Type": "application/json"}
REQUESTS = {"Accept": "*/*", "User-Agent": "python-requests/2.34.2", "Content-Type": "application/json"}


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serving() as running:
        yield running


def events(data: bytes) -> list[Any]:
    """A stream's events, without the last one, which says that it is over."""
    *some, done, rest = data.split(b"\n\n")
    assert (done, rest) == (b"data: [DONE]", b"")
    return [json.loads(event.removeprefix(b"data: ")) for event in some]


def payloads(data: bytes) -> list[bytes]:
    """The parts of an event stream, as botocore reads them."""
    buffer = EventStreamBuffer()
    buffer.add_data(data)
    return [event.payload for event in buffer]


def test_litellms_hosted_vllm(service: Service) -> None:
    body = b'{"model": "lmi", ' + FRANCE + b', "temperature": 0, "max_tokens": 8}'
    status, _, answer = send(service, body, LITELLM, "/v1/chat/completions")
    assert (status, answer["choices"][0]["message"]["content"]) == (200, "Hello!")


def test_litellms_sagemaker_with_inputs(service: Service) -> None:
    """It puts its own settings among the parameters, too."""
    base = b"http://127.0.0.1:8080/endpoints/my-endpoint/invocations"
    body = (
        b'{"parameters": {"temperature": 0.1, "max_new_tokens": 8, "sagemaker_base_url": "%b"}, "inputs": "Hi"}' % base
    )
    status, headers, answer = send(service, body, LITELLM, "/endpoints/my-endpoint/invocations")
    assert (status, answer) == (200, {"generated_text": "Hello!"})
    assert "sagemaker_base_url is ignored" in headers["x-lmi-chat-warning"]


def test_langchains_endpoint(service: Service) -> None:
    body = b'{"inputs": "The capital of France is", "parameters": {"max_new_tokens": 6, "do_sample": false}}'
    status, _, answer = send(service, body, BOTO | {"Accept": "application/json"}, "/endpoints/my-endpoint/invocations")
    assert (status, answer) == (200, {"generated_text": "Hello!"})


def test_langchains_endpoint_streams(service: Service) -> None:
    """Its reader of lines hands a line on at its newline, whatever part that comes in."""
    body = b'{"inputs": "The capital of France is", "parameters": {"max_new_tokens": 6}, "stream": true}'
    status, _, data = send(service, body, BOTO, "/endpoints/my-endpoint/invocations-response-stream")
    assert status == 200
    joined = b"".join(payloads(data))
    assert joined.endswith(b"\n")
    assert "".join(json.loads(line)["token"]["text"] for line in joined.splitlines()) == "Hello!"


def test_langchains_chat_streams(service: Service) -> None:
    body = b"{" + FRANCE + b', "stream": true, "max_tokens": 8, "temperature": 0}'
    _, _, data = send(service, body, BOTO, "/endpoints/my-endpoint/invocations-response-stream")
    lines = [json.loads(line) for line in b"".join(payloads(data)).splitlines()]
    assert "".join(line["choices"][0]["delta"].get("content") or "" for line in lines) == "Hello!"


def test_guidellms_benchmark(service: Service) -> None:
    """It asks for the model, streams chats of parts and counts by the usage of each chunk."""
    model = send(service, b"", HTTPX, "/v1/models", "GET")[2]["data"][0]["id"]
    body = (
        b'{"model":"%b","stream":true,"stream_options":{"include_usage":true,"continuous_usage_stats":true},'
        b'"max_completion_tokens":8,"ignore_eos":true,"messages":[{"role":"user","content":[{"type":"text","text":'
        b'"1 0 m0 Finish medical want almost away until. Its culture song reveal"}]}]}'
    )
    status, _, data = send(service, body % model.encode(), HTTPX, "/v1/chat/completions")
    assert status == 200
    chunks = events(data)
    assert "".join(chunk["choices"][0]["delta"].get("content", "") for chunk in chunks[:-1]) == "Hello!"
    counts = [chunk["usage"]["completion_tokens"] for chunk in chunks]
    assert counts == sorted(counts)
    assert counts[-1] == 6


def test_lm_evals_loglikelihood(service: Service) -> None:
    """It sums the log-probabilities between the context and the one token that it asks for in vain."""
    ids = list(b"Hello")
    body = b'{"model": "lmi", "prompt": [%b], "temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234, '
    body += b'"echo": true}'
    status, _, answer = send(service, body % json.dumps(ids).encode(), REQUESTS, "/v1/completions")
    assert status == 200
    [choice] = answer["choices"]
    scores = choice["logprobs"]
    for name in ("tokens", "token_logprobs", "top_logprobs"):
        assert len(scores[name]) >= len(ids) + 1
    for score, top in list(zip(scores["token_logprobs"], scores["top_logprobs"], strict=True))[1 : len(ids)]:
        assert score in top.values()


def test_openais_stream_helper(service: Service) -> None:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{service.port}/v1", api_key="none", max_retries=0) as client:
        asked: list[Any] = [{"role": "user", "content": "Hi"}]
        with client.chat.completions.stream(model="tiny", messages=asked) as stream:
            kinds = [event.type for event in stream]
            answer = stream.get_final_completion()
        assert answer.choices[0].message.content == "Hello!"
        assert (kinds.count("content.delta"), kinds[-1]) == (6, "content.done")
        with pytest.raises(openai.NotFoundError):
            client.chat.completions.create(model="nope", messages=asked)
        with pytest.raises(openai.BadRequestError, match="temperature must be at least 0 and at most 2, got 9"):
            client.chat.completions.create(model="tiny", messages=asked, temperature=9)
