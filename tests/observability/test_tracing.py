"""Spans as a collector gets them, by HTTP and gRPC: ids, times, attributes, errors, sampling, a dead collector."""

import contextlib
import http.client
import json
import logging
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY

from lmi_chat.errors import Bug
from lmi_chat.observability.access_log import RequestLog
from lmi_chat.observability.tracing import CLOSE_S, BadTracing, Target, find_target, open_tracing
from lmi_chat.pipeline.pipeline import PipelineConfig
from tests.http.test_app import CHAT, JSON, post, send
from tests.pipeline.test_pipeline import breaking
from tests.server.test_start_and_end import ready
from tests.support import collector, served
from tests.support.collector import Collector, facts
from tests.support.scripted import Scripted, Service, said, serving

pytestmark = pytest.mark.processes

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
PARENT = {"traceparent": f"00-{TRACE}-{SPAN}-01", "tracestate": "vendor=1,other=two"}
HEADER = re.compile(r"00-([0-9a-f]{32})-([0-9a-f]{16})-(0[01])")


@contextlib.contextmanager
def traced(endpoint: str = "", engine: Scripted | None = None, **changes: Any) -> Iterator[Service]:
    """A server whose tracing begins as production's does, by setting or environment."""
    opened = open_tracing(endpoint, os.environ)
    try:
        with serving(engine, policy=PipelineConfig(request_log=RequestLog(tracing=opened), **changes)) as running:
            yield running
    finally:
        if opened is not None:
            opened.close()


@pytest.fixture(autouse=True)
def _environment(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("opentelemetry.exporter.otlp.proto.http")
    for name in [name for name in os.environ if name.startswith("OTEL_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("OTEL_BSP_SCHEDULE_DELAY", "20")


@pytest.fixture(params=["http/protobuf", "grpc"])
def receiver(request: pytest.FixtureRequest) -> Iterator[Collector]:
    with collector.over_http() if request.param == "http/protobuf" else collector.over_grpc() as found:
        yield found


@pytest.fixture
def by_http(monkeypatch: pytest.MonkeyPatch) -> Iterator[Collector]:
    with collector.over_http() as found:
        monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", found.endpoint)
        yield found


def test_a_request_is_a_span_with_its_phases_below(receiver: Collector) -> None:
    """Whose trace is the caller's, by the setting that vLLM has."""
    body = CHAT | {"stream": True, "temperature": 0.5, "top_p": 0.9, "max_tokens": 9, "seed": 4, "stop": ["never"]}
    began = time.time_ns()
    with traced(receiver.endpoint) as service:
        status, headers, _ = post(service, body, headers=JSON | PARENT | {"x-request-id": "mine"})
        sent = receiver.wait(4)
    assert status == 200
    answered = HEADER.fullmatch(headers["traceparent"])
    assert answered is not None
    assert answered[1] == TRACE
    assert answered[2] != SPAN
    assert headers["tracestate"] == PARENT["tracestate"]
    spans = {span.name: span for span in sent}
    whole = spans["chat tiny"]
    assert spans.keys() == {"chat tiny", "queue", "prefill", "decode"}
    assert {span.trace_id.hex() for span in sent} == {TRACE}
    assert (whole.parent_span_id.hex(), whole.span_id.hex()) == (SPAN, answered[2])
    assert {spans[name].parent_span_id.hex() for name in ("queue", "prefill", "decode")} == {answered[2]}
    assert whole.trace_state == PARENT["tracestate"]
    assert (whole.kind, whole.status.code) == (2, 0), "a server's, without an error"
    order = [whole.start_time_unix_nano, *(spans[name].start_time_unix_nano for name in ("queue", "prefill", "decode"))]
    assert order == sorted(order)
    assert began <= whole.start_time_unix_nano < whole.end_time_unix_nano <= time.time_ns()
    assert spans["queue"].end_time_unix_nano == spans["prefill"].start_time_unix_nano
    assert spans["prefill"].end_time_unix_nano == spans["decode"].start_time_unix_nano
    assert spans["decode"].end_time_unix_nano - spans["decode"].start_time_unix_nano == pytest.approx(1e9, rel=1e-3)
    found = facts(whole)
    assert found.pop("gen_ai.response.time_to_first_chunk") > 0
    assert found == {
        "gen_ai.operation.name": "chat",
        "gen_ai.provider.name": "lmi-chat",
        "gen_ai.request.id": "mine",
        "gen_ai.request.model": "tiny",
        "gen_ai.response.model": "tiny",
        "gen_ai.request.stream": True,
        "gen_ai.request.temperature": 0.5,
        "gen_ai.request.top_p": 0.9,
        "gen_ai.request.max_tokens": 9,
        "gen_ai.request.seed": 4,
        "gen_ai.request.stop_sequences": ["never"],
        "gen_ai.request.presence_penalty": 0.0,
        "gen_ai.request.frequency_penalty": 0.0,
        "gen_ai.usage.input_tokens": found["gen_ai.usage.input_tokens"],
        "gen_ai.usage.output_tokens": 6,
        "gen_ai.usage.cache_read.input_tokens": 0,
        "gen_ai.usage.reasoning.output_tokens": 0,
        "gen_ai.response.finish_reasons": ["stop"],
        "http.response.status_code": 200,
        "lmi_chat.dialect": "chat",
    }
    assert found["gen_ai.usage.input_tokens"] > 0
    assert facts(spans["decode"]) == {"gen_ai.usage.output_tokens": 6}
    assert facts(receiver.spans[0][1])["service.name"] == "lmi-chat"


def test_each_dialect_is_told_by_its_operation(by_http: Collector) -> None:
    with traced() as service:
        for body in (CHAT, {"prompt": "hi"}, {"inputs": "hi"}):
            assert post(service, body)[0] == 200
        sent = by_http.wait(12)
    told = {facts(span)["lmi_chat.dialect"]: span.name for span in sent if span.kind == 2}
    assert told == {"chat": "chat tiny", "completion": "text_completion tiny", "standard": "text_completion tiny"}
    assert len({span.trace_id for span in sent}) == 3, "without a caller each has a trace of its own"
    assert by_http.paths[0] == "/v1/traces"


def test_boto3s_callers_hand_their_span_on_in_custom_attributes(by_http: Collector) -> None:
    attributes = {"X-Amzn-SageMaker-Custom-Attributes": f"tenant=a;traceparent={PARENT['traceparent']}"}
    with traced() as service:
        headers = post(service, CHAT, headers=JSON | attributes)[1]
        sent = by_http.wait(4)
    assert {span.trace_id.hex() for span in sent} == {TRACE}
    assert headers["traceparent"].startswith(f"00-{TRACE}-")


def test_refusals_and_failures_are_spans_with_an_error(by_http: Collector) -> None:
    with traced(engine=Scripted(breaking(Bug("secret")))) as service:
        assert send(service, b'{"messages": "secret"', JSON)[0] == 400
        assert post(service, CHAT | {"temperature": 9})[0] == 400
        status, headers, _ = post(service, CHAT | {"stream": True})
        sent = [span for span in by_http.wait(3) if span.kind == 2]
    assert (status, "traceparent" in headers) == (200, True)
    told = [(facts(span)["error.type"], facts(span)["http.response.status_code"]) for span in sent]
    assert told == [("bad_json", 400), ("bad_field", 400), ("internal_error", 200)]
    assert all(span.status.code == 2 for span in sent)
    assert "secret" not in str(by_http.spans)


def test_a_client_that_hangs_up_is_told(by_http: Collector) -> None:
    with traced(engine=Scripted(said("word " * 80, gap_s=0.01))) as service:
        with socket.create_connection(("127.0.0.1", service.port)) as connection:
            body = json.dumps(CHAT | {"stream": True, "max_tokens": 400}).encode()
            head = f"POST /invocations HTTP/1.1\r\nhost: a\r\ncontent-length: {len(body)}\r\n\r\n".encode()
            connection.sendall(head + body)
            connection.recv(100)
        [whole] = [span for span in by_http.wait(1) if span.kind == 2]
    assert facts(whole)["error.type"] == "client_disconnected"
    assert facts(whole)["http.response.status_code"] == 499


def test_records_of_one_body_are_spans_below_it(by_http: Collector) -> None:
    lines = b"\n".join([json.dumps(CHAT).encode()] * 3)
    with traced() as service:
        assert send(service, lines, {"content-type": "application/jsonlines"})[0] == 200
        sent = by_http.wait(13)
    [body] = [span for span in sent if span.name.startswith("records")]
    below = [span for span in sent if span.name == "chat tiny"]
    assert [span.parent_span_id for span in below] == [body.span_id] * 3


@pytest.mark.parametrize(
    ("sampler", "argument", "headers", "is_sampled"),
    [
        ("always_on", "", PARENT, True),
        ("always_off", "", PARENT, False),
        ("traceidratio", "0.0", {}, False),
        ("parentbased_always_on", "", {"traceparent": f"00-{TRACE}-{SPAN}-00"}, False),
        ("parentbased_always_off", "", PARENT, True),
        ("parentbased_always_off", "", {}, False),
    ],
)
def test_the_sampler_is_the_environments(
    by_http: Collector, monkeypatch: pytest.MonkeyPatch, sampler: str, argument: str, headers: Any, *, is_sampled: bool
) -> None:
    monkeypatch.setenv("OTEL_TRACES_SAMPLER", sampler)
    if argument:
        monkeypatch.setenv("OTEL_TRACES_SAMPLER_ARG", argument)
    with traced() as service:
        answered = post(service, CHAT, headers=JSON | headers)[1]
        monkeypatch.setenv("OTEL_TRACES_SAMPLER", "always_on")
    assert answered["traceparent"].endswith("-01" if is_sampled else "-00")
    with traced() as service:  # whose spans come after the others'
        post(service, CHAT)
        by_http.wait(8 if is_sampled else 4)
    assert len(by_http.spans) == (8 if is_sampled else 4)


def test_names_of_the_service_are_the_environments(by_http: Collector, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_SERVICE_NAME", "shop")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "deployment.environment=test")
    with traced() as service:
        post(service, CHAT)
        by_http.wait(4)
    named = facts(by_http.spans[0][1])
    assert (named["service.name"], named["deployment.environment"]) == ("shop", "test")


def lost() -> float:
    return REGISTRY.get_sample_value("lmi_chat_traces_lost_total") or 0.0


def is_lost(count: float) -> bool:
    return lost() >= count


def wait_until(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + 20
    while not is_so() and time.monotonic() < end:
        time.sleep(0.02)
    assert is_so()


def test_a_collector_that_is_gone_costs_its_spans_and_one_line(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "1")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    before = lost()
    caplog.set_level(logging.WARNING)
    with traced(f"http://127.0.0.1:{port}/v1/traces") as service:
        for wave in range(3):
            for _ in range(10):
                assert post(service, CHAT)[0] == 200
            wait_until(partial(is_lost, before + 10 * (wave + 1)))
    assert lost() == before + 30
    lines = [record.getMessage() for record in caplog.records if record.name.startswith(("opentel", "lmi_chat"))]
    assert len(lines) == 1
    assert lines[0].startswith(f"traces cannot be sent to http://127.0.0.1:{port}/v1/traces and are dropped until")
    assert "export" in lines[0] or "refused" in lines[0] or "Max retries" in lines[0], (
        "the reason that the library gave"
    )


def test_a_server_that_ends_before_it_knows_says_what_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    """A collector that takes connections and never answers."""
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}/v1/traces"
        with traced(endpoint) as service:
            assert post(service, CHAT)[0] == 200
        lines = [record.getMessage() for record in caplog.records if record.name.startswith("lmi_chat.obs")]
    assert lines == [f"traces cannot be sent to {endpoint} and are dropped: not within {CLOSE_S:g} s of the end"]


def test_what_waits_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """A collector that takes its time: requests go on, and the spans of those beyond the bound are dropped."""
    monkeypatch.setenv("OTEL_BSP_MAX_QUEUE_SIZE", "8")
    before = lost()
    with contextlib.closing(socket.create_server(("127.0.0.1", 0))) as silent:
        endpoint = f"http://127.0.0.1:{silent.getsockname()[1]}/v1/traces"
        with traced(endpoint) as service:
            for _ in range(30):
                assert post(service, CHAT)[0] == 200
            assert 14 <= lost() - before <= 21, "eight wait, and as many at most are on their way"


@pytest.mark.slow
def test_a_collector_that_comes_back_is_told(caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TRACES_TIMEOUT", "1")
    with collector.over_http() as found:
        endpoint = found.endpoint
    with traced(endpoint) as service:
        before = lost()
        post(service, CHAT)
        wait_until(lambda: lost() > before)
        port = int(endpoint.rpartition(":")[2].split("/")[0])
        with collector.over_http(port) as found:
            post(service, CHAT)
            found.wait(4)
            wait_until(lambda: "again" in caplog.text)
    assert f"traces are sent to {endpoint} again" in caplog.text


@pytest.mark.parametrize(
    ("endpoint", "environment", "found"),
    [
        ("", {}, None),
        ("grpc://a:4317", {}, Target("grpc://a:4317", "grpc", "grpc://a:4317")),
        ("http://a:4318", {}, Target("http://a:4318", "http/protobuf", "http://a:4318/v1/traces")),
        (
            "http://user:secret@a:9/x",
            {},
            Target("http://a:9/x", "grpc", "http://user:secret@a:9/x"),
        ),
        ("http://a/v1/traces", {}, Target("http://a/v1/traces", "http/protobuf", "http://a/v1/traces")),
        (
            "http://a:9",
            {"OTEL_EXPORTER_OTLP_TRACES_PROTOCOL": "http/protobuf", "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"},
            Target("http://a:9", "http/protobuf", "http://a:9/v1/traces"),
        ),
        ("", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:4318"}, Target("http://a:4318", "http/protobuf")),
        ("", {"OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "http://a:4317"}, Target("http://a:4317", "grpc")),
        ("http://a:4318", {"OTEL_SDK_DISABLED": "true"}, None),
        ("", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a", "OTEL_TRACES_EXPORTER": "none"}, None),
    ],
)
def test_where_traces_go(endpoint: str, environment: dict[str, str], found: Target | None) -> None:
    assert find_target(endpoint, environment) == found


def test_a_protocol_that_is_none_is_refused() -> None:
    with pytest.raises(
        BadTracing, match=r"OTEL_EXPORTER_OTLP_PROTOCOL must be grpc or http/protobuf, got \"http/json\""
    ):
        find_target("http://a", {"OTEL_EXPORTER_OTLP_PROTOCOL": "http/json"})


def test_without_the_sdk_it_is_one_sentence(monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.sdk.resources", None)
    with pytest.raises(BadTracing, match="traces need opentelemetry-sdk and opentelemetry-exporter-otlp"):
        open_tracing("http://a:4317", {})
    assert open_tracing("", {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://a:4317"}) is None
    assert "opentelemetry-sdk" in caplog.text


def test_nothing_is_imported_or_told_where_it_is_off() -> None:
    code = "import sys, lmi_chat.server.bootstrap as b; from lmi_chat.observability.tracing import open_tracing; "
    code += "assert open_tracing('', {}) is None; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not [name for name in done.stdout.split() if name.startswith("opentelemetry")]
    with traced() as service:
        headers = post(service, CHAT, headers=JSON | PARENT)[1]
    assert not {"traceparent", "tracestate"} & headers.keys()


@pytest.mark.processes
def test_a_served_process_traces_by_the_setting_of_vllm(tmp_path: Path, receiver: Collector) -> None:
    process = served.start(tmp_path, "--otlp-traces-endpoint", receiver.endpoint)
    try:
        (port,) = re.findall(r"listening on http://[^:]+:(\d+)", "\n".join(ready(process)))
        connection = http.client.HTTPConnection("127.0.0.1", int(port), timeout=20)
        with contextlib.closing(connection):
            connection.request("POST", "/invocations", json.dumps(CHAT).encode(), JSON | PARENT)
            with connection.getresponse() as answer:
                assert answer.status == 200
                answer.read()
        process.send_signal(signal.SIGTERM)  # what waits is sent at the end
        assert process.wait(20) == 0
    finally:
        process.kill()
        process.communicate()
    assert {span.trace_id.hex() for span in receiver.wait(4)} == {TRACE}
