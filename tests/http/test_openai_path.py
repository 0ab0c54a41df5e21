"""OpenAI's paths below an endpoint, asked by the unmodified SDK; prefix-aware ids; scripted engine, real HTTP."""

import contextlib
import json
import socket
import time
from collections.abc import Iterator
from typing import Any

import httpx
import openai
import pytest

from lmi_chat.errors import EngineDown
from lmi_chat.http.access import ApiKeys
from lmi_chat.http.routes import ROUTES
from lmi_chat.observability.access_log import RequestLog
from lmi_chat.pipeline.pipeline import PipelineConfig
from tests.http.test_app import CHAT, JSON, post, send
from tests.http.test_sagemaker import boto
from tests.support.scripted import Scripted, Service, said, serving

PLACES = ("/endpoints/my-endpoint", "/endpoints/my-endpoint/inference-components/one")
ASKED: list[Any] = [{"role": "user", "content": "hi"}]
PREFIX_ID = "X-Amzn-SageMaker-Prefix-Aware-Id"


def client(service: Service, place: str, key: str = "a-bearer-token") -> openai.OpenAI:
    return openai.OpenAI(base_url=f"http://127.0.0.1:{service.port}{place}/openai/v1", api_key=key, max_retries=0)


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serving() as running:
        yield running


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("model", ["", "tiny", "my-endpoint"])
def test_the_sdk_unmodified_whole_and_streamed(service: Service, place: str, model: str) -> None:
    with client(service, place) as sdk:
        whole = sdk.chat.completions.create(model=model, messages=ASKED)
        assert whole.choices[0].message.content == "Hello!"
        with sdk.chat.completions.create(model=model, messages=ASKED, stream=True) as chunks:
            text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        assert text == "Hello!"
        assert sdk.completions.create(model=model, prompt="a").choices[0].text == "Hello!"
        assert {one.id for one in sdk.models.list()} == {"tiny", "lmi"}
        assert sdk.models.retrieve("tiny").id == "tiny"


@pytest.mark.parametrize("place", PLACES)
def test_errors_come_as_they_are(service: Service, place: str) -> None:
    with client(service, place) as sdk:
        with pytest.raises(openai.NotFoundError) as unknown:
            sdk.chat.completions.create(model="other", messages=ASKED)
        assert unknown.value.code == "model_not_found"
        with pytest.raises(openai.BadRequestError, match="temperature"):
            sdk.chat.completions.create(model="", messages=ASKED, temperature=-1)
        with pytest.raises(openai.NotFoundError):
            sdk.get("/nothing", cast_to=httpx.Response)


def test_a_wrong_endpoints_name_is_refused(service: Service) -> None:
    status, _, answer = post(service, CHAT, path="/endpoints/a_b/openai/v1/chat/completions")
    assert (status, "EndpointName" in answer["error"]["message"]) == (400, True)


def test_a_failure_of_the_engine_is_a_status_here() -> None:
    with serving(Scripted(lambda _: [EngineDown("gone")])) as service:
        status, found, _ = post(service, CHAT, path=f"{PLACES[0]}/openai/v1/chat/completions")
        assert (status, "x-amzn-errortype" in found) == (503, False)


@pytest.mark.parametrize("place", PLACES)
def test_every_inference_route_is_there(service: Service, place: str) -> None:
    """Each refuses an empty object in its own words, as its short path does."""
    for path in (path for path in ROUTES if path.startswith("/v1/")):
        own, same = (post(service, {}, path=one) for one in (path, f"{place}/openai{path}"))
        assert (same[0], same[2]["error"]["message"]) == (own[0], own[2]["error"]["message"])
        assert send(service, b"", path=f"{place}/openai{path}", method="PUT")[0] == 405


def test_where_there_are_keys_they_decide() -> None:
    with serving(api_keys=ApiKeys({"team": "secret"})) as service:
        with client(service, PLACES[0], "secret") as sdk:
            assert sdk.chat.completions.create(model="", messages=ASKED).choices[0].message.content == "Hello!"
        with client(service, PLACES[0]) as sdk, pytest.raises(openai.AuthenticationError):
            sdk.chat.completions.create(model="", messages=ASKED)
        with client(service, PLACES[0]) as sdk, pytest.raises(openai.AuthenticationError):
            sdk.models.list()


@pytest.mark.parametrize("path", ["/invocations", "/v1/chat/completions", f"{PLACES[0]}/openai/v1/chat/completions"])
@pytest.mark.parametrize(
    ("given", "is_good"), [("a", True), ("tenant 7", True), ("~" * 64, True), ("~" * 65, False), ("a\tb", False)]
)
def test_a_prefix_aware_id_is_bounded(service: Service, path: str, given: str, is_good: bool) -> None:  # noqa: FBT001
    status, found, answer = post(service, CHAT, path=path, headers=JSON | {PREFIX_ID: given})
    assert status == (200 if is_good else 400)
    assert PREFIX_ID.lower() not in found
    if not is_good:
        assert "Prefix" in answer["error"]["message"]
        assert "64 characters" in answer["error"]["message"]


def test_boto3_gives_a_prefix_aware_id_and_the_log_has_it() -> None:
    lines: list[Any] = []
    log = RequestLog(lambda line: lines.append(json.loads(line)))
    with serving(policy=PipelineConfig(request_log=log)) as service, contextlib.closing(boto(service)) as runtime:
        whole = runtime.invoke_endpoint(EndpointName="a", Body=json.dumps(CHAT), PrefixAwareId="tenant 7")
        assert json.loads(whole["Body"].read())["choices"][0]["message"]["content"] == "Hello!"
        reply = runtime.invoke_endpoint_with_response_stream(
            EndpointName="a", Body=json.dumps(CHAT | {"stream": True}), PrefixAwareId="tenant 8"
        )
        assert b"".join(part["PayloadPart"]["Bytes"] for part in reply["Body"])
        post(service, CHAT)
    assert [line["prefix_aware_id"] for line in lines] == ["tenant 7", "tenant 8", None]


@pytest.mark.parametrize(("turns_by", "running"), [("user", 5), ("prefix_aware_id", 3)])
def test_a_prefix_aware_id_takes_turns_where_a_setting_says_so(turns_by: str, running: int) -> None:
    """Of five seats one who takes turns has three at most; others find the fourth."""
    body = json.dumps(CHAT | {"stream": True}).encode()
    head = f"POST /invocations HTTP/1.1\r\nHost: a\r\n{PREFIX_ID}: one\r\nContent-Type: application/json\r\n"
    policy = PipelineConfig(turns_by=turns_by)
    with (
        serving(Scripted(said("ab", gap_s=600)), policy=policy) as service,
        contextlib.ExitStack() as open_sockets,
    ):
        for _ in range(5):
            one = open_sockets.enter_context(socket.create_connection(("127.0.0.1", service.port)))
            one.sendall(f"{head}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        end = time.monotonic() + 10
        while service.pipeline.active < 5 or service.engine.running + service.pipeline.waiting < 5:
            assert time.monotonic() < end
            time.sleep(0.005)
        assert service.engine.running == running


def test_what_publishes_cache_events_is_told_as_vllm_tells_it() -> None:
    with serving() as service:
        assert send(service, b"", path="/kv_event_sources", method="GET")[::2] == (200, {})
        source = {
            "enable_kv_cache_events": True,
            "publisher": "zmq",
            "endpoint": "tcp://*:5557",
            "replay_endpoint": None,
            "buffer_steps": 10000,
            "hwm": 100000,
            "max_queue_size": 100000,
            "topic": "",
        }
        service.engine.event_sources = {"0": source}
        assert send(service, b"", path="/kv_event_sources", method="GET")[::2] == (200, {"0": source})
    with serving(is_open=False) as service:
        assert send(service, b"", path="/kv_event_sources", method="GET")[0] == 503
