"""Admit requests by their API key, and record those that no inference record tells of."""

import hashlib
import hmac
from collections.abc import Callable, Iterable, Mapping

from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lmi_chat.errors import Error, Unauthorized
from lmi_chat.observability.access_log import RequestLog

OWNER = "lmi_chat.owner"
"""Where a scope has the name of the key that came with the request."""
BEARER = "bearer"


class ApiKeys:
    """The keys that are accepted; a request shows one as `Authorization: Bearer` or `x-api-key`."""

    def __init__(self, keys: Mapping[str, str]) -> None:
        """Accept `keys`, by their names."""
        self._digests = [(name, _digest(key)) for name, key in keys.items()]

    def owner(self, scope: Scope) -> str:
        """Name the key that a request shows, in a time that tells nothing of it. Raises Unauthorized."""
        given = _shown(scope["headers"])
        if not given:
            text = "this server asks for an API key: Authorization: Bearer KEY, or x-api-key: KEY"
            raise Unauthorized(text)
        digest = _digest(given)
        found = [name for name, known in self._digests if hmac.compare_digest(digest, known)]
        if not found:
            raise Unauthorized("the API key is none of this server's")
        return found[0]


def _digest(key: str) -> bytes:
    return hashlib.sha256(key.encode("latin-1", "replace")).digest()


def _shown(headers: Iterable[tuple[bytes, bytes]]) -> str:
    given = {name: value.decode("latin-1").strip() for name, value in headers}
    scheme, _, key = given.get(b"authorization", "").partition(" ")
    return key.strip() if scheme.lower() == BEARER and key else given.get(b"x-api-key", "")


class Guard:
    """One route: asks for a key where there are keys, and records what happened."""

    def __init__(self, app: ASGIApp, keys: ApiKeys | None, log: RequestLog, *, is_recorded: bool) -> None:
        """Guard `app`; `is_recorded`: every request, not only a refused one, gets an audit line in `log`."""
        self._app, self._keys, self._log, self._is_recorded = app, keys, log, is_recorded

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request. Raises Unauthorized, and what the route raises."""
        try:
            if self._keys is not None:
                scope[OWNER] = self._keys.owner(scope)
        except Unauthorized as error:
            self._record(scope, error.status, error)
            raise
        if not self._is_recorded:
            await self._app(scope, receive, send)
            return
        status = 0

        async def sent(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self._app(scope, receive, sent)
        except Error as error:
            status = error.status
            raise
        finally:
            self._record(scope, status)

    def _record(self, scope: Scope, status: int, refusal: Error | None = None) -> None:
        client = scope.get("client")
        peer = client[0] if client else ""
        self._log.audit(
            peer=peer,
            method=scope["method"],
            path=scope["path"],
            status=status,
            owner=scope.get(OWNER, ""),
            refusal=refusal,
        )


def guard(
    routes: Iterable[Route], keys: ApiKeys | None, log: RequestLog, is_recorded: Callable[[Route], bool]
) -> list[Route]:
    """Put a Guard before each of `routes` that needs one; `is_recorded`: all requests of one get an audit line."""
    kept = list(routes)
    for route in kept:
        if keys is not None or is_recorded(route):
            route.app = Guard(route.app, keys, log, is_recorded=is_recorded(route))
    return kept
