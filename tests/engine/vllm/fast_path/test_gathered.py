"""Gathered counters and histograms against Prometheus' own, and what a scrape finds."""

import math
import random
import threading
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, values

from lmi_chat.engine.vllm.fast_path import gathered
from lmi_chat.engine.vllm.fast_path.gathered import LISTS_MOST, AdaptersGauge, GatheredCounter, GatheredHistogram

BUCKETS = (0.0, 0.125, 1.0, 2.5, 100.0)


@pytest.fixture
def registry() -> CollectorRegistry:
    return CollectorRegistry()


def _shown(registry: CollectorRegistry) -> list[str]:
    return [line for line in generate_latest(registry).decode().splitlines() if "_created" not in line]


def _observations() -> Iterator[float]:
    chance = random.Random(4)
    yield from (*BUCKETS, math.inf, -1.0, 1e9)
    yield from (chance.choice([chance.randrange(24) / 8, chance.randrange(200), *BUCKETS]) for _ in range(2000))


def test_a_scrape_shows_the_same_as_without(registry: CollectorRegistry) -> None:
    """Read now and then; the numbers are such that no order of adding them rounds."""
    own = CollectorRegistry()
    plain = Histogram("time", "Seconds.", ["model"], registry=own, buckets=BUCKETS)
    other = GatheredHistogram("time", "Seconds.", ["model"], registry=registry, buckets=BUCKETS)
    counted = Counter("tokens", "Tokens.", ["model"], registry=own)
    gathering = GatheredCounter("tokens", "Tokens.", ["model"], registry=registry)
    for place, value in enumerate(_observations()):
        model = "ab"[place % 2]
        for one in (plain, other):
            one.labels(model).observe(value)
        for two in (counted, gathering):
            two.labels(model).inc(place)
        if place % 700 == 0:
            assert _shown(registry) == _shown(own)
    assert _shown(registry) == _shown(own)
    assert 'tokens_total{model="b"}' in "\n".join(_shown(registry))


def test_many_at_once_count_as_one_by_one(registry: CollectorRegistry) -> None:
    own = CollectorRegistry()
    plain = Histogram("time", "Seconds.", registry=own, buckets=BUCKETS)
    other = GatheredHistogram("time", "Seconds.", registry=registry, buckets=BUCKETS)
    chance = random.Random(5)
    for _ in range(60):
        step = [chance.randrange(24) / 8] * chance.randrange(300) + [math.nan] * chance.randrange(2)
        other.observe_all(step)
        assert len(other._gathered) <= gathered.WAITING_MOST
        for one in step:
            if one == one:  # noqa: PLR0124
                plain.observe(one)
    shown = [line for line in _shown(registry) if "_sum" not in line]
    assert shown == [line for line in _shown(own) if "_sum" not in line]


def test_lists_of_adapters_are_told_by_their_names_and_only_the_newest_are_kept(registry: CollectorRegistry) -> None:
    gauge = AdaptersGauge("lora", "Lists.", ["max_lora", "waiting", "running"], registry=registry)
    gauge.labels(max_lora=4, waiting="", running="a:1,b-2:2,a:3").set(1)
    gauge.labels(max_lora=4, waiting="a:1", running="").set(2)
    assert 'lora{max_lora="4",running="a,b-2",waiting=""} 1.0' in _shown(registry)
    assert 'lora{max_lora="4",running="",waiting="a"} 2.0' in _shown(registry)
    for number in range(200):
        gauge.labels(max_lora=4, waiting="", running=f"x{number}:{number}").set(number)
        gauge.labels(max_lora=4, waiting="", running="").set(number)
    found = [line for line in _shown(registry) if line.startswith("lora{")]
    assert len(found) == LISTS_MOST
    assert found[-1].endswith(" 199.0")
    assert not any('running="a' in line for line in found)


def test_what_is_no_number_counts_as_without(registry: CollectorRegistry) -> None:
    own = CollectorRegistry()
    for kind, where in ((Histogram, own), (GatheredHistogram, registry)):
        kind("time", "Seconds.", registry=where, buckets=BUCKETS).observe(math.nan)
    assert _shown(registry) == _shown(own)


def test_a_counter_does_not_go_back(registry: CollectorRegistry) -> None:
    counter = GatheredCounter("tokens", "Tokens.", registry=registry)
    counter.inc()
    with pytest.raises(ValueError, match="non-negative"):
        counter.inc(-1)
    assert "tokens_total 1.0" in _shown(registry)


def test_an_example_is_kept_with_its_bucket(registry: CollectorRegistry) -> None:
    histogram = GatheredHistogram("time", "Seconds.", registry=registry, buckets=BUCKETS)
    histogram.observe(0.5)
    histogram.observe(0.7, {"trace": "t"})
    (metric,) = histogram.collect()
    assert [sample.exemplar.labels for sample in metric.samples if sample.exemplar] == [{"trace": "t"}]
    assert next(sample.value for sample in metric.samples if sample.name == "time_count") == 2


def test_readers_and_the_one_who_counts_lose_nothing(registry: CollectorRegistry) -> None:
    counter = GatheredCounter("tokens", "Tokens.", registry=registry)
    is_over = threading.Event()

    def read() -> None:
        while not is_over.is_set():
            generate_latest(registry)

    readers = [threading.Thread(target=read) for _ in range(3)]
    for reader in readers:
        reader.start()
    for _ in range(30_000):
        counter.inc()
    is_over.set()
    for reader in readers:
        reader.join()
    assert "tokens_total 30000.0" in _shown(registry)


def test_where_several_processes_share_them_they_are_counted_one_by_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(values, "ValueClass", object)
    assert "PROMETHEUS_MULTIPROC_DIR" in gathered._incompatibility(type("Logger", (), {}))


def test_a_logger_of_other_classes_is_left_alone() -> None:
    assert "are others" in gathered._incompatibility(type("Logger", (), {"_counter_cls": Counter}))
    logger = type("Logger", (), {"_counter_cls": Counter, "_histogram_cls": Histogram, "_gauge_cls": Gauge})
    assert gathered._incompatibility(logger) == ""
