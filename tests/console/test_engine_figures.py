"""Quantiles, and vLLM's own metrics as they are read between two looks."""

import pytest
from prometheus_client import CollectorRegistry, Gauge, Histogram

from lmi_chat.console.engine_figures import EngineFigures
from lmi_chat.console.quantiles import of_growth, quantile


@pytest.mark.parametrize(
    ("values", "part", "found"),
    [([], 0.5, None), ([3], 0.99, 3), ([1, 2, 3, 4], 0.5, 2), ([1, 2, 3], 0.5, 2), (list(range(1, 101)), 0.99, 99)],
)
def test_a_quantile_is_one_of_the_values(values: list[float], part: float, found: float | None) -> None:
    assert quantile(values, part) == found


def test_a_histograms_growth() -> None:
    before = {0.1: 5, 0.2: 5, float("inf"): 5}
    assert of_growth(before, before, 0.5) is None
    assert of_growth({}, {}, 0.5) is None
    after = {0.1: 5, 0.2: 15, float("inf"): 15}
    assert of_growth(before, after, 0.5) == pytest.approx(0.15)
    assert of_growth(before, {0.1: 5, 0.2: 5, float("inf"): 9}, 0.99) == 0.2


def test_the_engines_gaps_and_cache() -> None:
    registry = CollectorRegistry()
    figures = EngineFigures(registry)
    assert figures.read() == (None, None, None)
    gaps = Histogram("vllm:inter_token_latency_seconds", "h", ["engine"], buckets=(0.01, 0.02, 0.05), registry=registry)
    cache = Gauge("vllm:kv_cache_usage_perc", "g", ["engine"], registry=registry)
    cache.labels("0").set(0.25)
    cache.labels("1").set(0.75)
    for _ in range(99):
        gaps.labels("0").observe(0.5)  # before the first look
    assert figures.read() == (0.5, None, None)
    for _ in range(99):
        gaps.labels("0").observe(0.015)
    gaps.labels("1").observe(0.04)
    used, half, most = figures.read()
    assert used == 0.5
    assert half == pytest.approx(0.015, abs=0.001)
    assert most == pytest.approx(0.02, abs=0.001)
    assert figures.read() == (0.5, None, None)
