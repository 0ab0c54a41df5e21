"""Answer SageMaker's health check."""

from collections.abc import Awaitable, Callable
from typing import Protocol

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from lmi_chat.codec import json_text
from lmi_chat.errors import Error
from lmi_chat.observability.startup import StartupProgress

PATHS = ("/ping",)
"""Answered however many connections there are."""


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


def route(served: Served, health: StartupProgress) -> Route:
    """`GET /ping`: 200 when requests are taken, else 503 with what the server is doing."""
    return Route(PATHS[0], _ping(served, health), methods=["GET"])


def _ping(served: Served, health: StartupProgress) -> Callable[[Request], Awaitable[Response]]:
    async def ping(_: Request) -> Response:
        refusal = served.refusal
        if refusal is None and (seconds := served.stalled_s):
            return _json({"status": "stalled", "active": served.active, "seconds": round(seconds, 1)}, 503)
        if refusal is None:
            return _json({"status": "ready", "active": served.active}, 200)
        if refusal.code == "loading":
            return _json({"status": "loading"} | health.report(), 503)
        return _json({"status": refusal.code, "active": served.active}, 503)

    return ping


def _json(value: object, status: int) -> Response:
    return Response(json_text.dump(value), status, media_type="application/json")
