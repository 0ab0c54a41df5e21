"""Count each route's requests for Prometheus, under the names that vLLM's own server has them by.

They are those of the library prometheus-fastapi-instrumentator as that server sets it up: statuses by hundreds, a
handler by its path's template, and no request that asks how the server is. A body's size is not counted.
"""

import time
from collections.abc import Iterable
from typing import Any

from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lmi_chat.errors import Error
from lmi_chat.observability.metrics import HTTP_REQUESTS, HTTP_SECONDS, HTTP_SECONDS_BY_HANDLER
from lmi_chat.observability.record import CLIENT_GONE

LEFT_OUT = ("/metrics", "/health", "/load", "/ping", "/version", "/server_info")


class Counted:
    """One route, whose requests are counted."""

    def __init__(self, app: ASGIApp, handler: str) -> None:
        """Count the requests of `app` as those of `handler`."""
        self._app, self._handler = app, handler
        self._found: dict[tuple[str, int], tuple[Any, Any]] = {}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request; its time ends with the last byte of the answer."""
        began, status = time.monotonic(), 0

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, sent)
        except Error as error:
            status = status or error.status
            raise
        except Exception:
            status = status or Error.status
            raise
        finally:
            self._count(scope["method"], status or CLIENT_GONE, time.monotonic() - began)

    def _count(self, method: str, status: int, seconds: float) -> None:
        key = (method, status // 100)
        if (found := self._found.get(key)) is None:
            requests = HTTP_REQUESTS.labels(method, f"{key[1]}xx", self._handler)
            found = self._found[key] = (requests, HTTP_SECONDS_BY_HANDLER.labels(method, self._handler))
        requests, by_handler = found
        requests.inc()
        by_handler.observe(seconds)
        HTTP_SECONDS.observe(seconds)


def counted(routes: Iterable[Route]) -> list[Route]:
    """Count the requests of each of `routes` but those that only ask how the server is."""
    kept = list(routes)
    for route in kept:
        if not any(part in route.path for part in LEFT_OUT):
            route.app = Counted(route.app, route.path)
    return kept
