"""Requests are counted by route under the names that vLLM's own server has, whatever becomes of them."""

import contextlib
import math
import socket
import time
from collections.abc import Iterator
from typing import Any

import pytest
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram

from lmi_chat.errors import Bug
from lmi_chat.observability import metrics
from tests.http.test_app import CHAT, JSON, post, send
from tests.pipeline.test_pipeline import breaking
from tests.support.scripted import Scripted, Service, said, serving


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    with serving() as running:
        yield running


def counts(handler: str, method: str = "POST") -> dict[str, float]:
    """Requests by status, and how often a time was observed."""
    found = {
        status: REGISTRY.get_sample_value(
            "http_requests_total", {"handler": handler, "method": method, "status": f"{status}xx"}
        )
        for status in range(2, 6)
    }
    labels = {"handler": handler, "method": method}
    times = REGISTRY.get_sample_value("http_request_duration_seconds_count", labels)
    return {f"{status}xx": count for status, count in found.items() if count} | {"times": times or 0.0}


def test_each_answer_counts_by_its_status(service: Service) -> None:
    before = counts("/invocations")
    precise = REGISTRY.get_sample_value("http_request_duration_highr_seconds_count") or 0.0
    for stream in (True, False):
        assert post(service, CHAT | {"stream": stream})[0] == 200
    assert send(service, b"{")[0] == 400
    assert post(service, CHAT, headers=JSON | {"accept": "a" * 3})[0] == 200
    after = counts("/invocations")
    grown = {name: more for name in after if (more := after[name] - before.get(name, 0.0))}
    assert grown == {"2xx": 3, "4xx": 1, "times": 4}
    assert REGISTRY.get_sample_value("http_request_duration_highr_seconds_count") == precise + 4


def test_failures_and_clients_that_hang_up_count() -> None:
    before = counts("/v1/completions")
    with serving(Scripted(breaking(Bug("boom")))) as service:
        assert post(service, {"prompt": "hi"}, path="/v1/completions")[0] == 500
    with serving(Scripted(said("word " * 80, gap_s=0.01))) as service:
        with contextlib.closing(socket.create_connection(("127.0.0.1", service.port))) as connection:
            head = b"POST /v1/completions HTTP/1.1\r\nhost: a\r\ncontent-length: 33\r\n\r\n"
            connection.sendall(head + b'{"prompt": "hi", "max_tokens": 9}')
        end = time.monotonic() + 20
        while counts("/v1/completions")["times"] < before["times"] + 2 and time.monotonic() < end:
            time.sleep(0.01)
    after = counts("/v1/completions")
    assert after["5xx"] == before.get("5xx", 0.0) + 1
    assert after["4xx"] == before.get("4xx", 0.0) + 1


def test_what_asks_how_the_server_is_does_not_count(service: Service) -> None:
    for path in ("/metrics", "/server/metrics", "/ping"):
        assert send(service, b"", {}, path, "GET")[0] == 200
        assert counts(path, "GET") == {"times": 0.0}
    assert send(service, b"", {}, "/v1/models", "GET")[0] == 200
    assert counts("/v1/models", "GET")["2xx"] >= 1


def test_they_are_those_of_vllms_server() -> None:
    """Names, labels and buckets, by the library itself."""
    library = pytest.importorskip("prometheus_fastapi_instrumentator")
    registry = CollectorRegistry()
    library.metrics.default(registry=registry)
    theirs = {_shape(one) for one in registry._collector_to_names if isinstance(one, Counter | Histogram)}
    ours = (metrics.HTTP_REQUESTS, metrics.HTTP_SECONDS, metrics.HTTP_SECONDS_BY_HANDLER)
    assert {_shape(one) for one in ours} == theirs


def _shape(metric: Any) -> tuple[Any, ...]:
    bounds = metric._kwargs.get("buckets") or getattr(metric, "_upper_bounds", ())
    finite = tuple(float(bound) for bound in bounds if bound < math.inf)
    return metric._name, metric._type, frozenset(metric._labelnames), finite
