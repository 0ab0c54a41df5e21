"""The figures of each second; scripted engine, real HTTP."""

import contextlib
import http.client
import json
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise

import pytest

from lmi_chat.console.answers import COLUMNS
from lmi_chat.console.series import Series
from tests.http.test_app import CHAT, post
from tests.support.console import get, requests, rows, shown, until
from tests.support.scripted import Scripted, Service, said

pytestmark = pytest.mark.processes


@contextlib.contextmanager
def streaming(service: Service) -> Iterator[http.client.HTTPResponse]:
    """A stream whose head was read."""
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", service.port, timeout=20)) as connection:
        body = json.dumps(CHAT | {"stream": True, "max_tokens": 500}).encode()
        connection.request("POST", "/v1/chat/completions", body, {"content-type": "application/json"})
        with connection.getresponse() as answer:
            yield answer


def test_a_row_for_each_second() -> None:
    with shown() as service:
        found = until(lambda: rows(service)[1:])
        series = get(service, "series")
        assert (series["step_s"], series["columns"], series["errors"]) == (1, [*COLUMNS], {})
        assert series["end"] == series["rows"][-1][0]
        assert found[0]["time"] - rows(service)[0]["time"] >= 0.9
        idle = found[-1]
        names = ("running", "waiting", "tokens_per_s", "requests_per_s", "errors_per_s", "ttft_p50", "gap_p99")
        assert [idle[name] for name in names] == [0, 0, 0, 0, 0, None, None]
        assert idle["loop_hold"] >= 0
        assert len(get(service, "series?seconds=1")["rows"]) == 1


def test_no_row_yet() -> None:
    assert Series().last(5, 7.5) == {"step_s": 1.0, "end": 7.5, "columns": [*COLUMNS], "rows": [], "errors": {}}


def test_the_oldest_rows_go_first() -> None:
    series = Series()
    for second in range(1000):
        series.add((float(second), *([0.0] * 11)), Counter({"busy": 1}))
    found = series.last(900, 0.0)
    assert [row[0] for row in found["rows"]] == [float(second) for second in range(100, 1000)]
    assert (found["end"], found["errors"]) == (999.0, {"busy": 900})


def test_a_stream_that_runs_is_seen_before_its_end() -> None:
    """Its tokens and its first frame's time count while it goes on, its gaps at its end."""
    with shown(Scripted(said("a" * 60, gap_s=0.05))) as service, streaming(service) as answer:
        live = until(lambda: [row for row in rows(service) if row["running"] and row["tokens_per_s"]])
        first = until(lambda: [row["ttft_p50"] for row in rows(service) if row["ttft_p50"]])
        assert requests(service) == []
        assert first[0] >= 0.05
        assert live[0]["running"] == 1
        answer.read()
        [row] = until(lambda: requests(service))
        assert 0.05 <= row["gap_p50_s"] <= row["gap_max_s"]
        ended = until(lambda: [row for row in rows(service) if row["requests_per_s"]])
        assert ended[0]["gap_p50"] == pytest.approx(row["gap_p50_s"], rel=0.001)
        seconds = until(lambda: quiet(service))
        counted = sum(row["tokens_per_s"] * (row["time"] - last["time"]) for last, row in pairwise(seconds))
        first_s = seconds[0]["tokens_per_s"]  # of the first row the length is not known, but about one second
        assert counted + first_s == pytest.approx(60, rel=0.1)


def quiet(service: Service) -> list[dict[str, float]]:
    found = rows(service)
    return found if not found[-1]["running"] and not found[-1]["tokens_per_s"] else []


def test_requests_that_run_and_wait() -> None:
    with (
        shown(Scripted(said("a" * 400, gap_s=0.05), max_running=1)) as service,
        streaming(service),
        streaming(service),
        contextlib.closing(http.client.HTTPConnection("127.0.0.1", service.port, timeout=20)) as third,
    ):
        third.request("POST", "/invocations", json.dumps(CHAT).encode(), {"content-type": "application/json"})
        [row] = until(lambda: [row for row in rows(service) if row["waiting"]][:1])
        assert (row["running"], row["waiting"]) == (2, 1)


def test_errors_are_counted_by_their_codes() -> None:
    with shown() as service:
        for _ in range(2):
            post(service, CHAT | {"temperature": 9})
        post(service, {"nothing": 1})
        until(lambda: sum(get(service, "series")["errors"].values()) == 3)
        errors = get(service, "series")["errors"]
        assert errors["bad_field"] >= 2
        assert any(row["errors_per_s"] for row in rows(service))
