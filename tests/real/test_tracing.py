"""The real engine's spans and ours in one trace, on the fast path and the general one; no collector."""

import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.real.conftest import Server, end, start
from tests.support import collector
from tests.support.collector import Collector, facts

SPAN = "00f067aa0ba902b7"
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Count from one."}], "max_tokens": 24}
PROCESSES = 4
"""Of the engine's, each of which tells by itself that spans of its start could not be sent."""
SMALL = ("--max-model-len", "512", "--max-num-seqs", "4", "--kv-cache-memory-bytes", str(128 * 2**20))


@pytest.fixture(scope="module")
def receiver() -> Iterator[Collector]:
    with collector.over_grpc() as found:
        yield found


@pytest.fixture(scope="module")
def traced(model: Path, receiver: Collector, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    assert model.is_dir()
    folder = tmp_path_factory.mktemp("traced")
    environment = {"SM_VLLM_OTLP_TRACES_ENDPOINT": receiver.endpoint, "OTEL_BSP_SCHEDULE_DELAY": "50"}
    running = start(folder / "log", *SMALL, environment=environment)
    yield running
    end(running)


def asked(traced: Server, receiver: Collector, body: dict[str, Any]) -> dict[str, Any]:
    """The spans of one request by name, ours and the engine's: those in its trace."""
    trace = os.urandom(16).hex()
    assert traced.post(body, traceparent=f"00-{trace}-{SPAN}-01")[0] == 200
    return {span.name: span for span in receiver.wait(5, trace)}


@pytest.mark.parametrize("way", ["fast path", "general path"])
def test_the_engines_span_is_below_the_requests(traced: Server, receiver: Collector, way: str) -> None:
    body = CHAT | {"stream": True, "ignore_eos": True} | ({} if way == "fast path" else {"stop": ["never seen"]})
    spans = asked(traced, receiver, body)
    whole, own = (next(spans[name] for name in spans if name.startswith(kind)) for kind in ("chat ", "llm_request"))
    assert whole.parent_span_id.hex() == SPAN
    assert own.parent_span_id == whole.span_id
    ours, theirs = facts(whole), facts(own)
    assert ours["gen_ai.usage.output_tokens"] == theirs["gen_ai.usage.completion_tokens"] == 24
    assert ours["gen_ai.usage.input_tokens"] == theirs["gen_ai.usage.prompt_tokens"]
    for name in ("queue", "prefill", "decode"):
        phase = spans[name]
        seconds = (phase.end_time_unix_nano - phase.start_time_unix_nano) / 1e9
        theirs_s = theirs["gen_ai.latency.time_in_" + ("queue" if name == "queue" else f"model_{name}")]
        assert seconds == pytest.approx(theirs_s, abs=0.05 if name == "queue" else 1e-4)
        assert whole.start_time_unix_nano <= phase.start_time_unix_nano <= phase.end_time_unix_nano
        assert phase.end_time_unix_nano <= whole.end_time_unix_nano + 10**6


def test_a_start_is_told_by_the_engine_itself(traced: Server, receiver: Collector) -> None:
    """Spans of loading and warming up, which vLLM's processes send."""
    assert traced.process.poll() is None
    kinds = {facts(resource).get("vllm.process_kind") for _, resource in receiver.spans}
    assert "engine_core" in kinds


def test_without_a_collector_it_serves_and_ends_as_ever(model: Path, tmp_path: Path) -> None:
    assert model.is_dir()
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "PATH": os.environ["PATH"]}
    running = start(tmp_path / "log", *SMALL, "--otlp-traces-endpoint", "http://127.0.0.1:9", environment=environment)
    try:
        for _ in range(5):
            assert running.post(CHAT)[0] == 200
        began = time.monotonic()
        running.process.send_signal(signal.SIGTERM)
        assert running.process.wait(40) == 0
        print(f"ended in {time.monotonic() - began:.1f} s")
    finally:
        end(running)
    text = running.log.read_text()
    assert text.count("traces cannot be sent to") == 1
    assert text.count("Failed to export traces") <= PROCESSES
