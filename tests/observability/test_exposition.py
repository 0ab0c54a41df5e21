"""The metrics' text is the library's own, byte for byte, whatever happened between two scrapes; its bound."""

import math
import random
import re
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from prometheus_client import (
    REGISTRY,
    CollectorRegistry,
    Counter,
    Enum,
    Gauge,
    Histogram,
    Info,
    Summary,
    generate_latest,
)
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_open
from prometheus_client.parser import text_string_to_metric_families as read_plain

from lmi_chat import dialects
from lmi_chat.observability import exposition, metrics
from lmi_chat.observability.exposition import OPEN, PLAIN, Exposition
from lmi_chat.observability.metrics import count_request
from lmi_chat.observability.record import RequestRecord
from tests.http.test_app import CHAT, post, send
from tests.support.scripted import Service, serving

FORMATS = [(generate_latest, PLAIN.content_type), (OPEN._encode, OPEN.content_type)]
ODD = ["a", 'quo"te', "back\\slash", "new\nline", "per%cent %s", "# HELP x", "ü", ""]


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serving() as running:
        yield running


@pytest.mark.parametrize(("encode", "content_type"), FORMATS, ids=["plain", "open"])
def test_each_scrape_gives_the_librarys_own_text(encode: Callable[[Any], bytes], content_type: str) -> None:
    registry = CollectorRegistry()
    written = Exposition(encode, content_type, registry)
    assert written.write() == encode(registry)
    count = Counter("count", 'Help with "quotes", \\ and\nlines.', ["of", "by"], registry=registry)
    level = Gauge("level", "Level.", ["of"], registry=registry)
    time = Histogram("time_total", "Seconds.", ["of"], registry=registry, buckets=(0.1, 1, 1e7))
    below = Histogram("below", "May be negative.", registry=registry, buckets=(-1, 0, 1))
    asked = [0.0]
    Gauge("asked", "Asked when read.", registry=registry).set_function(lambda: asked[0])
    Counter("alone", "Without labels.", registry=registry).inc()
    Summary("sizes", "Bytes.", ["of"], registry=registry).labels("a").observe(2)
    Info("build", "Of what.", registry=registry).info({"version": "1"})
    Enum("state", "Where.", registry=registry, states=["on", "off"])
    chance = random.Random(7)
    for place in range(400):
        of = chance.choice(ODD)
        count.labels(of, chance.choice(ODD)).inc(chance.choice([1, 0.5, 1e9, 123456.75]))
        level.labels(of).set(chance.choice([0, -1, 1e-9, 1e6, 999_999.5, math.inf, -math.inf, math.nan, 1e21]))
        time.labels(of).observe(chance.choice([0.05, 0.5, 5, 1e8]))
        below.observe(chance.uniform(-3, 3))
        if place % 29 == 0:
            level.remove(of)
        if place == 200:
            registry.unregister(time)
        if place % 7 == 0:
            asked[0] = place
            assert written.write() == encode(registry), place


def test_names_with_colons_are_the_same_in_both_formats() -> None:
    """By Prometheus' own readers: vLLM's names have colons."""
    registry = CollectorRegistry()
    Gauge("vllm:level", "Level.", ["of"], registry=registry).labels("a").set(1)
    Counter("vllm:count", "Count.", registry=registry).inc()
    Histogram("vllm:time", "Seconds.", registry=registry, buckets=(1,)).observe(2)
    plain = read_plain(PLAIN._encode(registry).decode())
    opened = read_open(OPEN._encode(registry).decode())  # type: ignore[no-untyped-call]
    shown = [{one.name for family in families for one in family.samples} for families in (plain, opened)]
    assert shown[0] == shown[1]
    assert {name.partition(":")[0] for name in shown[0]} == {"vllm"}


def test_a_series_that_is_learnt_is_read_anew() -> None:
    registry = CollectorRegistry()
    written = Exposition(generate_latest, "", registry)
    gauge = Gauge("level", "Level.", ["of"], registry=registry)
    gauge.labels("a").set(1)
    written.write()
    gauge.clear()
    gauge.labels("a").set(2)
    assert 'level{of="a"} 2.0' in written.write().decode()


@pytest.mark.parametrize(
    ("accept", "chosen"),
    [
        ("", PLAIN),
        ("*/*", PLAIN),
        ("text/plain; version=0.0.4, application/openmetrics-text", PLAIN),
        ("application/openmetrics-text", OPEN),
        ("application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,text/plain;version=0.0.4;q=0.4", OPEN),
        # A scraper's own header, and the collector's
        (
            "application/openmetrics-text;version=1.0.0;q=0.5,text/plain;version=0.0.4;q=0.3,*/*;q=0.2",
            OPEN,
        ),
        ("application/openmetrics-text;version=0.0.1;q=0.75,text/plain;version=0.0.4;q=0.5,*/*;q=0.1", PLAIN),
    ],
)
def test_the_format_is_the_one_that_is_asked_for(service: Service, accept: str, chosen: Exposition) -> None:
    assert post(service, CHAT)[0] == 200
    status, headers, data = send(service, b"", {"accept": accept} if accept else {}, "/metrics", "GET")
    assert (status, headers["content-type"]) == (200, chosen.content_type)
    read = read_open if chosen is OPEN else read_plain
    found = {family.name: family for family in read(data.decode())}
    requests = next(one for name, one in found.items() if name.removesuffix("_total") == "lmi_chat_requests")
    assert any(sample.labels == {"dialect": "chat", "status": "200"} for sample in requests.samples)
    assert data.endswith(b"# EOF\n") == (chosen is OPEN)


def test_times_are_told_by_dialect(service: Service) -> None:
    for body in (CHAT, {"prompt": "hi"}, {"inputs": "hi"}):
        assert post(service, body)[0] == 200
    text = send(service, b"", {}, "/metrics", "GET")[2].decode()
    for name in ("queue", "ttft", "inter_token", "request"):
        counts = re.findall(rf'^lmi_chat_{name}_seconds_count\{{dialect="(\w+)"\}} ([\d.]+)', text, re.MULTILINE)
        assert {dialect for dialect, count in counts if float(count)} >= {"chat", "completion", "standard"}


@pytest.fixture
def _forgotten(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The adapters that a test counts by name make no others go without."""
    monkeypatch.setattr(metrics, "_named", set())
    yield
    for metric in (metrics.ADAPTER_REQUESTS, metrics.ADAPTER_PROMPT_TOKENS, metrics.ADAPTER_COMPLETION_TOKENS):
        metric.clear()


@pytest.mark.usefixtures("_forgotten")
def test_the_text_has_a_bound(service: Service) -> None:
    """Whatever callers send: names of users, adapters, models and codes make no series, or count together."""
    statuses = (200, 400, 404, 408, 413, 424, 429, 499, 500, 503, 504)
    chance = random.Random(3)
    for place in range(6000):
        record = RequestRecord(
            dialect=chance.choice([*dialects.DIALECTS]),
            model=f"model-{place}",
            user=f"user-{place}",
            owner=f"key-{place}",
            adapter=f"adapter-{place:0128d}",
            has_adapter=place % 5 > 0,
            metadata={f"a{place}": "b"},
            status=chance.choice(statuses),
            ignored=[f"key-{place}"],
            queue_s=0.01,
            ttft_s=0.02,
            decode_s=0.1,
            completion_tokens=5,
        )
        count_request(record, 0.1)
    data = send(service, b"", {}, "/metrics", "GET")[2]
    own = [line for line in data.decode().splitlines() if line.startswith("lmi_chat_")]
    kinds = len(dialects.DIALECTS) + 2
    most = (
        2 * (metrics.ADAPTERS_MOST + 2) * (len(statuses) + 2) + 2 * kinds * (len(statuses) + 1) + kinds * 4 * 20 + 300
    )
    assert len(own) <= most
    assert len(data) < 4 * 2**20
    for name in ("user-5999", "key-5999", "model-5999", "adapter-" + "0" * 124 + "5999"):
        assert name not in data.decode()


def test_a_scrape_makes_no_object_of_each_sample(monkeypatch: pytest.MonkeyPatch) -> None:
    """What costs a scrape its time: the library's own collecting, of which only what is no plain metric is left."""
    PLAIN.write()
    collected: list[str] = []
    for kind in (Counter, Gauge, Histogram):
        own = kind._child_samples

        def noted(self: Any, own: Callable[[Any], Any] = own) -> Any:
            collected.append(self._name)
            return own(self)

        monkeypatch.setattr(kind, "_child_samples", noted)
    assert PLAIN.write().count(b"\n") > 100
    assert collected == []
    monkeypatch.undo()
    shown = [line for line in exposition.PLAIN.write().splitlines() if not line.startswith((b"process_", b"python_"))]
    library = [
        line for line in generate_latest(REGISTRY).splitlines() if not line.startswith((b"process_", b"python_"))
    ]
    assert shown == library
