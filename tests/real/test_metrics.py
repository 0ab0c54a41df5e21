"""The real engine's /metrics: vLLM's names, labels, kinds and buckets as its own server has them, and its counts."""

import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import REGISTRY, Metric
from prometheus_client.parser import text_string_to_metric_families as read

from tests.observability.test_dashboards import missing, samples_of
from tests.real.conftest import LoraServer, Server
from tests.support.metrics_page import PAGE

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "Count from one."}], "max_tokens": 24}
Shape = tuple[str, str, frozenset[str], tuple[str, ...]]


def shapes(families: Any) -> dict[str, Shape]:
    """Each of vLLM's metrics by name: kind, help, names of labels, buckets; those with `_created` are times."""
    found = {}
    for family in families:
        if not family.name.startswith("vllm:") or family.name.endswith("_created"):
            continue
        samples = [one for one in family.samples if not one.name.endswith("_created")]
        labels = frozenset(name for one in samples for name in one.labels if name != "le")
        buckets = dict.fromkeys(one.labels["le"] for one in samples if "le" in one.labels)
        found[family.name.removesuffix("_total")] = (family.type, family.documentation, labels, tuple(buckets))
    return found


def values(families: Any, label: str) -> dict[str, set[str]]:
    """The values of a label, by metric."""
    return {one.name: {sample.labels[label] for sample in one.samples if label in sample.labels} for one in families}


def read_from(server: Server) -> list[Metric]:
    status, headers, data = server.request("GET", "/metrics")
    assert (status, headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
    return list(read(data.decode()))


@pytest.fixture
def _own_registry() -> Iterator[None]:
    from vllm.v1.metrics.prometheus import unregister_vllm_metrics

    unregister_vllm_metrics()
    yield
    unregister_vllm_metrics()


def registered(model: Path, **arguments: Any) -> dict[str, Shape]:
    """What vLLM's own server registers for such an engine."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.v1.metrics.loggers import PrometheusStatLogger

    config = AsyncEngineArgs(model=str(model), dtype="float32", **arguments).create_engine_config()
    config.cache_config.num_gpu_blocks = 8
    logger = PrometheusStatLogger(config, [0])
    logger.log_engine_initialized()
    if logger.gauge_lora_info is not None:  # it has a series from the first step on
        logger.gauge_lora_info.labels(max_lora=2, waiting_lora_adapters="", running_lora_adapters="")
    return shapes(REGISTRY.collect())


@pytest.mark.usefixtures("_own_registry")
def test_vllms_metrics_are_as_its_own_server_gives_them(server: Server, model: Path) -> None:
    server.whole(CHAT)
    server.lines(CHAT | {"n": 2, "stop": ["never seen"]})
    context = server.request("GET", "/v1/models")[2].decode()
    (length,) = re.findall(r'"max_model_len":(\d+)', context)[:1]
    expected = registered(model, max_model_len=int(length))
    found = read_from(server)
    assert shapes(found) == expected
    assert len(expected) > 30
    [shown] = re.findall(r"<!-- vllm -->\n(.*?)<!-- /vllm -->", PAGE.read_text(), re.DOTALL)
    assert {name.removesuffix("_total") for name in re.findall(r"`([^`]+)`", shown)} == expected.keys()
    names = set().union(*values(found, "model_name").values())
    assert len(names) == 1, "the name that requests mean the model by"
    assert names.pop() in context


def test_grafanas_queries_ask_for_what_the_engine_has(server: Server) -> None:
    server.whole(CHAT)
    assert missing(*samples_of(server.request("GET", "/metrics")[2].decode()), "vllm:") == []


def figures(server: Server) -> dict[str, float]:
    """VLLM's totals."""
    totals: dict[str, float] = {}
    for family in read_from(server):
        for sample in family.samples:
            if sample.name.startswith("vllm:") and sample.name.endswith(("_total", "_count")):
                reason = sample.labels.get("finished_reason", "")
                name = sample.name.removeprefix("vllm:") + (f" {reason}" if reason else "")
                totals[name] = totals.get(name, 0.0) + sample.value
    return totals


@pytest.mark.parametrize("way", ["fast path", "general path"])
def test_several_at_once_are_counted_one_by_one(server: Server, way: str) -> None:
    """Each gap between two tokens of each sequence counts, as vLLM counts them, whichever way the tokens take."""
    more = {} if way == "fast path" else {"stop": ["never seen"]}
    body = CHAT | {"ignore_eos": True, "stream_options": {"include_usage": True}} | more
    assert server.wait_until_idle(20)
    server.lines(body | {"max_tokens": 2})
    before, usages = figures(server), []

    def ask(number: int) -> None:
        text = f"Count from {number}."
        asked = body | {"messages": [{"role": "user", "content": text}], "max_tokens": 20 + 4 * number}
        usages.append(server.lines(asked)[-1]["usage"])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(5)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert server.wait_until_idle(20)
    after = figures(server)
    grown = {name: after[name] - before[name] for name in after}
    generated, asked = (sum(usage[f"{kind}_tokens"] for usage in usages) for kind in ("completion", "prompt"))
    assert generated == sum(20 + 4 * number for number in range(5))
    assert grown["generation_tokens_total"] == generated
    assert grown["inter_token_latency_seconds_count"] == generated - 5
    assert grown["prompt_tokens_total"] == grown["prefix_cache_queries_total"] == asked
    for name in ("time_to_first_token_seconds", "e2e_request_latency_seconds", "request_queue_time_seconds"):
        assert grown[f"{name}_count"] == 5, name
    ends = {name: count for name, count in grown.items() if name.startswith("request_success_total") and count}
    assert ends == {"request_success_total length": 5}


def test_adapters_are_told_by_their_names(lora: LoraServer) -> None:
    for number, path in enumerate(lora.four[:2]):
        added = lora.request("POST", f"/adapters?name=told-{number}&src={path}")
        assert added[0] == 200, added[2]
        lora.whole(CHAT | {"model": f"told-{number}"})
    (info,) = [one for one in read_from(lora) if one.name == "vllm:lora_requests_info"]
    running = {sample.labels["running_lora_adapters"] for sample in info.samples}
    assert {"told-0", "told-1"} <= running
    assert {sample.labels["max_lora"] for sample in info.samples} == {"2"}
    for number in range(2):
        assert lora.request("DELETE", f"/adapters/told-{number}")[0] == 200


@pytest.mark.usefixtures("_own_registry")
def test_with_adapters_they_are_vllms_own_too(lora: LoraServer, model: Path) -> None:
    expected = registered(
        model, max_model_len=512, max_num_seqs=16, enable_lora=True, max_loras=2, max_cpu_loras=3, max_lora_rank=8
    )
    assert "vllm:lora_requests_info" in expected
    assert shapes(read_from(lora)) == expected
