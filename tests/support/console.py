"""A server with its console on, and what it answers."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from lmi_chat.console.recorder import Console
from lmi_chat.job import Finished, Job, Times
from tests.http.test_app import send
from tests.support.scripted import Script, Scripted, Service, Step, said, serving

CONFIG: Any = {"name": "port", "value": "8080", "origin": "default", "effect": None}


def timed(text: str, times: Times, gap_s: float) -> Script:
    """An answer whose engine tells `times` of it."""
    plain = said(text, gap_s=gap_s)

    def script(job: Job) -> Sequence[Step]:
        return [replace(step, times=times) if isinstance(step, Finished) else step for step in plain(job)]

    return script


@contextlib.contextmanager
def shown(engine: Scripted | None = None, *, most: int = 10, **changes: Any) -> Iterator[Service]:
    with serving(engine, console=Console(most, [CONFIG]), **changes) as service:
        yield service


def get(service: Service, path: str, headers: dict[str, str] | None = None) -> Any:
    status, _, answer = send(service, b"", headers, path=f"/console/api/{path}", method="GET")
    assert status == 200, answer
    return answer


def requests(service: Service, query: str = "") -> list[Any]:
    found: list[Any] = get(service, f"requests?{query}")["requests"]
    return found


def rows(service: Service) -> list[dict[str, Any]]:
    """The series' rows by their columns."""
    series = get(service, "series")
    return [dict(zip(series["columns"], row, strict=True)) for row in series["rows"]]


def until(found: Callable[[], Any]) -> Any:
    """The first true value of `found`, which the server needs a moment for."""
    while not (value := found()):
        time.sleep(0.05)
    return value
