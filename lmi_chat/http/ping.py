"""Answer health checks: whether requests are taken, and whether the process is there at all."""

from collections.abc import Awaitable, Callable
from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lmi_chat.codec import json_text
from lmi_chat.errors import Error
from lmi_chat.http.answers import Live, NotReady, Ready
from lmi_chat.observability.startup import StartupProgress

READINESS = ("/ping", "/health")
LIVENESS = "/live"
PATHS = (*READINESS, LIVENESS)
"""Answered however many connections there are."""
LIVE: Live = {"status": "live"}


class Served(Protocol):
    """What takes the requests of an application."""

    @property
    def refusal(self) -> Error | None:
        """Why no request is taken, or None."""

    @property
    def active(self) -> int:
        """Requests that run."""

    @property
    def stalled_s(self) -> float:
        """Seconds without progress, if work waits for longer than it may; else 0."""


def routes(served: Served, health: StartupProgress) -> list[Route]:
    """Return the routes: `/ping`, `/health` and `/live`.

    The first, and the second, as vLLM and TGI call it: 200 when requests are taken, else 503 with the reason. The
    third: 200 as long as the event loop answers, so that who restarts what is not alive lets a model load.
    """
    answer = _ping(served, health)
    return [
        *(Route(path, answer, methods=["GET"]) for path in READINESS),
        Route(LIVENESS, _live, methods=["GET"]),
    ]


async def _live(_: Request) -> Response:
    return Response(json_text.dump(LIVE), media_type="application/json")


def _ping(served: Served, health: StartupProgress) -> Callable[[Request], Awaitable[Response]]:
    async def ping(_: Request) -> Response:
        refusal = served.refusal
        if refusal is None and (seconds := served.stalled_s):
            return _refused({"status": "stalled", "active": served.active, "seconds": round(seconds, 1)})
        if refusal is None:
            return _ready({"status": "ready", "active": served.active})
        if refusal.code == "loading":
            progress, seconds = round(health.progress, 2), round(health.seconds, 1)
            return _refused({"status": "loading", "phase": health.phase, "progress": progress, "seconds": seconds})
        return _refused({"status": refusal.code, "active": served.active})

    return ping


def _ready(answer: Ready) -> Response:
    return Response(json_text.dump(answer), 200, media_type="application/json")


def _refused(answer: NotReady) -> Response:
    return Response(json_text.dump(answer), 503, media_type="application/json")
