"""One line per request, whatever became of it: what it holds, what it never holds, and who may read it."""

import http.client
import json
import os
import threading
from collections.abc import Iterator
from typing import Any

import jsonschema_rs
import pytest
from prometheus_client import REGISTRY

from lmi_chat.errors import Bug
from lmi_chat.observability.access_log import LogWriter, RequestLog
from lmi_chat.observability.cloudwatch import EMBEDDED, embedded
from lmi_chat.observability.record import RequestRecord
from lmi_chat.pipeline.pipeline import PipelineConfig
from tests.http.test_app import CHAT, JSON, post, send
from tests.pipeline.test_pipeline import breaking
from tests.support.scripted import Scripted, Service, called, reasoned, said, serving

# Amazon CloudWatch, "Embedded metric format schema", and what the specification says beyond it.
UNITS = [*("Seconds", "Microseconds", "Milliseconds", "Bytes", "Kilobytes", "Megabytes"), *("Percent", "Count", "None")]
NAME = {"type": "string", "minLength": 1, "maxLength": 1024}
SCHEMA: dict[str, Any] = {
    "type": "object",
    "required": ["_aws"],
    "properties": {
        "_aws": {
            "type": "object",
            "required": ["Timestamp", "CloudWatchMetrics"],
            "additionalProperties": False,
            "properties": {
                "Timestamp": {"type": "integer", "minimum": 10**12},
                "CloudWatchMetrics": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["Namespace", "Dimensions", "Metrics"],
                        "additionalProperties": False,
                        "properties": {
                            "Namespace": NAME,
                            "Dimensions": {
                                "type": "array",
                                "minItems": 1,
                                "items": {
                                    "type": "array",
                                    "maxItems": 30,
                                    "items": {"type": "string", "minLength": 1, "maxLength": 250},
                                },
                            },
                            "Metrics": {
                                "type": "array",
                                "maxItems": 100,
                                "items": {
                                    "type": "object",
                                    "required": ["Name"],
                                    "additionalProperties": False,
                                    "properties": {
                                        "Name": NAME,
                                        "Unit": {"enum": UNITS},
                                        "StorageResolution": {"enum": [1, 60]},
                                    },
                                },
                            },
                        },
                    },
                },
            },
        }
    },
}


def check_embedded(line: dict[str, Any]) -> None:
    """The schema, and: each dimension points to a string of at most 1,024 characters, each metric to numbers."""
    jsonschema_rs.validate(SCHEMA, line)
    for directive in line["_aws"]["CloudWatchMetrics"]:
        for dimension in {name for names in directive["Dimensions"] for name in names}:
            assert 1 <= len(line[dimension]) <= 1024
        for metric in directive["Metrics"]:
            assert type(line[metric["Name"]]) in {int, float}
    assert len(json.dumps(line)) < 256 * 1024


@pytest.fixture
def lines() -> list[dict[str, Any]]:
    return []


@pytest.fixture
def service(lines: list[dict[str, Any]]) -> Iterator[Service]:
    request_log = RequestLog(lambda line: lines.append(json.loads(line)))
    with serving(
        Scripted(said("Hello!"), max_running=2), policy=PipelineConfig(request_log=request_log, queue=0)
    ) as running:
        yield running


def wait_for(lines: list[dict[str, Any]], count: int) -> None:
    """A line may be written just after its answer was read."""
    for _ in range(1000):
        if len(lines) >= count:
            return
        threading.Event().wait(0.005)
    raise AssertionError(f"{len(lines)} lines instead of {count}")


def test_a_line_holds_what_happened_and_nothing_that_was_said(service: Service, lines: list[dict[str, Any]]) -> None:
    body = {
        "messages": [{"role": "user", "content": "a secret question"}],
        "stream": True,
        "user": "ada",
        "metadata": {"team": "red"},
        "temprature": 1,
    }
    post(service, body, headers=JSON | {"X-Amzn-SageMaker-Inference-Id": "id 1/a"})
    wait_for(lines, 1)
    line = lines[0]
    total = line.pop("total_seconds")
    queue, ttft = line.pop("queue_seconds"), line.pop("ttft_seconds")
    assert total > 0
    assert queue >= 0.25, "what the engine says is added to the wait for a seat"
    assert ttft >= queue + 0.5
    assert line.pop("time").endswith("Z")
    assert line == {
        "id": "id 1/a",
        "dialect": "chat",
        "model": "tiny",
        "adapter": None,
        "stream": True,
        "status": 200,
        "error": None,
        "finish_reason": "stop",
        "prompt_tokens": len(service.engine.jobs[-1].prompt_ids),
        "completion_tokens": 6,
        "cached_tokens": 0,
        "reasoning_tokens": 0,
        "tools": None,
        "prefill_seconds": 0.5,
        "decode_seconds": 1.0,
        "key": None,
        "user": "ada",
        "prefix_aware_id": None,
        "metadata": {"team": "red"},
        "ignored_keys": ["temprature"],
    }
    assert "secret" not in json.dumps(lines)
    assert "Hello" not in json.dumps(lines)


@pytest.mark.parametrize(
    ("body", "status", "error", "dialect"),
    [
        (b"{", 400, "bad_json", None),
        (b'{"messages":[{"role":"user","content":"hi"}],"n":0}', 400, "bad_field", "chat"),
        (b'{"inputs":"a","model":"nope"}', 404, "model_not_found", "standard"),
        (b" " * 2_000_000, 413, "body_too_large", None),
    ],
)
def test_a_refusal_has_its_line(
    service: Service, lines: list[dict[str, Any]], body: bytes, status: int, error: str, dialect: str | None
) -> None:
    assert send(service, body)[0] == status
    wait_for(lines, 1)
    assert [(line["status"], line["error"], line["dialect"]) for line in lines] == [(status, error, dialect)]


def test_full_and_loading_are_told_too(lines: list[dict[str, Any]]) -> None:
    request_log = RequestLog(lambda line: lines.append(json.loads(line)))
    with serving(is_open=False, policy=PipelineConfig(request_log=request_log)) as service:
        assert post(service, CHAT)[0] == 503
    assert [(line["status"], line["error"]) for line in lines] == [(503, "loading")]


def test_a_client_that_goes_is_499_with_what_was_generated(lines: list[dict[str, Any]]) -> None:
    request_log = RequestLog(lambda line: lines.append(json.loads(line)))
    engine = Scripted(said("abcdefgh" * 8, gap_s=0.02))
    with serving(engine, policy=PipelineConfig(request_log=request_log)) as service:
        for is_stream in (True, False):
            connection = http.client.HTTPConnection("127.0.0.1", service.port, timeout=10)
            connection.request("POST", "/invocations", json.dumps(CHAT | {"stream": is_stream}), JSON)
            while not engine.running:
                threading.Event().wait(0.005)
            threading.Event().wait(0.1)
            assert connection.sock is not None
            connection.sock.close()
            connection.close()
            wait_for(lines, 1 + (not is_stream))
    assert [line["status"] for line in lines] == [499, 499]
    assert all(0 < line["completion_tokens"] < 64 for line in lines)
    assert [line["finish_reason"] for line in lines] == [None, None]


def test_an_error_in_a_stream_is_told_beside_its_200(lines: list[dict[str, Any]]) -> None:
    request_log = RequestLog(lambda line: lines.append(json.loads(line)))
    with serving(Scripted(breaking(Bug("boom"))), policy=PipelineConfig(request_log=request_log)) as service:
        assert post(service, CHAT | {"stream": True})[0] == 200
        assert post(service, CHAT)[0] == 500
        wait_for(lines, 2)
    assert [(line["status"], line["error"]) for line in lines] == [(200, "internal_error"), (500, "internal_error")]
    assert lines[0]["completion_tokens"] == 2


def sample(name: str, **labels: str) -> float:
    return REGISTRY.get_sample_value(name, labels) or 0.0


def test_figures(service: Service) -> None:
    named = {"dialect": "chat", "status": "200"}
    before = [
        sample("lmi_chat_requests_total", **named),
        sample("lmi_chat_errors_total", code="bad_json"),
        sample("lmi_chat_completion_tokens_total"),
        sample("lmi_chat_inter_token_seconds_count", dialect="chat"),
        sample("lmi_chat_inter_token_seconds_sum", dialect="chat"),
    ]
    assert post(service, CHAT)[0] == 200
    assert send(service, b"{")[0] == 400
    for path in ("/metrics", "/server/metrics"):
        status, headers, data = send(service, b"", path=path, method="GET")
        assert (status, int(headers["content-length"])) == (200, len(data))
        for name in ("requests_total", "running", "waiting", "ttft_seconds_bucket", "ignored_keys", "store_failures"):
            assert f"lmi_chat_{name}".encode() in data
    after = [
        sample("lmi_chat_requests_total", **named),
        sample("lmi_chat_errors_total", code="bad_json"),
        sample("lmi_chat_completion_tokens_total"),
        sample("lmi_chat_inter_token_seconds_count", dialect="chat"),
        sample("lmi_chat_inter_token_seconds_sum", dialect="chat"),
    ]
    grown = [new - old for new, old in zip(after, before, strict=True)]
    assert grown == pytest.approx([1, 1, 6, 1, 0.2])  # 1 s for five gaps


def test_cloudwatch_reads_metrics_out_of_the_line() -> None:
    full = RequestRecord(dialect="chat", model="tiny", queue_s=0.1, ttft_s=0.2, prefill_s=0.1, decode_s=1.5)
    for record in (full, RequestRecord(), RequestRecord(status=503, error="busy")):
        for keeps_all in (True, False):
            line = json.loads(json.dumps(embedded(record.line(2.0), keeps_all=keeps_all)))
            check_embedded(line)
            assert ("id" in line) == keeps_all
            assert line["total_seconds"] == 2.0
    shown = embedded(full.line(2.0))
    assert {metric["Name"] for metric in shown["_aws"]["CloudWatchMetrics"][0]["Metrics"]} >= EMBEDDED.keys()
    with pytest.raises(jsonschema_rs.ValidationError):
        check_embedded(shown | {"_aws": {}})


def test_what_is_written_by_settings() -> None:
    told: list[bytes] = []
    for has_requests, has_metrics in ((False, True), (True, True), (True, False), (False, False)):
        request_log = RequestLog(told.append, has_requests=has_requests, has_metrics=has_metrics)
        with request_log.recording(RequestRecord(id="x")):
            pass
    assert [("_aws" in json.loads(line), "id" in json.loads(line)) for line in told] == [
        (True, False),
        (True, True),
        (False, True),
    ]
    assert all(line.endswith(b"\n") and line.count(b"\n") == 1 for line in told)


def test_a_reader_that_stalls_costs_lines_and_no_time() -> None:
    reader, writing = os.pipe()
    lost = sample("lmi_chat_log_lines_lost_total")
    writer = LogWriter(writing, most=8)
    for number in range(2000):  # 200 KB: more than a pipe holds
        writer.write(b"%099d\n" % number)
    assert sample("lmi_chat_log_lines_lost_total") > lost
    found = b""
    while not found.endswith(b"x\n"):
        found += os.read(reader, 2**16)
        if len(found) % 100 == 0:
            writer.write(b"x\n")
    assert found.startswith(b"%099d\n" % 0)
    os.close(reader)
    lost = sample("lmi_chat_log_lines_lost_total")
    writer.write(b"nobody reads\n")
    writer.close()
    os.close(writing)
    assert sample("lmi_chat_log_lines_lost_total") == lost + 1


def test_what_waits_is_written_at_the_end() -> None:
    reader, writing = os.pipe()
    writer = LogWriter(writing)
    for number in range(100):
        writer.write(b"%d\n" % number)
    writer.close()
    assert os.read(reader, 2**16).split() == [b"%d" % number for number in range(100)]
    os.close(reader)
    os.close(writing)


@pytest.mark.parametrize("is_stream", [False, True])
def test_called_tools_are_told_by_name_and_reasoning_by_its_tokens(
    lines: list[dict[str, Any]], *, is_stream: bool
) -> None:
    names = ("lmi_chat_tool_calls_total", "lmi_chat_reasoning_tokens_total")
    before = [sample(name) for name in names]
    engine = Scripted(said(reasoned("secret"), called("weather", '{"city":"secret"}'), called("odd\nname" * 20, "{}")))
    policy = PipelineConfig(request_log=RequestLog(lambda line: lines.append(json.loads(line))))
    with serving(engine, policy=policy) as service:
        assert post(service, CHAT | {"stream": is_stream})[0] == 200
        wait_for(lines, 1)
    weather, odd = lines[0]["tools"]
    assert (weather, lines[0]["reasoning_tokens"], lines[0]["finish_reason"]) == ("weather", 6, "stop")
    assert odd.startswith("odd name")
    assert len(odd.encode()) <= 64
    assert "secret" not in json.dumps(lines)
    assert [sample(name) - old for name, old in zip(names, before, strict=True)] == [2, 6]


def test_many_called_tools_are_no_long_line() -> None:
    assert len(RequestRecord(called=("weather",) * 1000).line(1.0)["tools"]) == 64
