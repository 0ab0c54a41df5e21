"""Serve DJL Serving's HTTP API before a model directory's own handler: headers become properties, the body a part."""

import asyncio
import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol
from urllib.parse import parse_qsl

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from lmi_chat.codec.json_text import dump
from lmi_chat.errors import Draining, Error, Loading
from lmi_chat.http import access, errors, ping
from lmi_chat.http.access import ApiKeys
from lmi_chat.http.endpoint import read_body
from lmi_chat.http.transport.body_stream import OUTLET
from lmi_chat.http.transport.send_stream import AnyBodyStream, SendStream
from lmi_chat.observability.access_log import RequestLog
from lmi_chat.observability.startup import StartupProgress
from lmi_chat.pipeline.bodies import BodyBudget

# The connection's own matter.
HOP_HEADERS = frozenset({"connection", "content-length", "transfer-encoding"})


class Handler(Protocol):
    """The model directory's handler."""

    async def answer(self, properties: Mapping[str, str], content: Mapping[str, bytes], out: Any) -> None:
        """Answer one request by `out.head` and `out.send`. Raises Error."""


@dataclass(slots=True, kw_only=True)
class Site:
    """What the routes need; `handler` comes when it is loaded, `refusal` says why nothing is taken."""

    health: StartupProgress
    max_body_bytes: int
    bodies: BodyBudget = field(default_factory=BodyBudget)
    api_keys: ApiKeys | None = None
    request_log: RequestLog = field(default_factory=RequestLog)
    handler: Handler | None = None
    refusal: Error | None = field(default_factory=lambda: Loading("the handler is still loading; /ping says how far"))
    active: int = 0
    idle: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def stalled_s(self) -> float:
        """Always 0: how far a handler is with an answer, nobody knows."""
        return 0.0

    @contextlib.contextmanager
    def running(self) -> Iterator[Handler]:
        """Count a request that the handler answers. Raises why it does not."""
        if self.refusal or self.handler is None:
            raise self.refusal or Draining("the server is shutting down")
        self.active += 1
        self.idle.clear()
        try:
            yield self.handler
        finally:
            self.active -= 1
            if not self.active:
                self.idle.set()

    async def drain(self, seconds: float) -> None:
        """Take nothing more; wait up to `seconds` for what runs."""
        self.refusal = Draining("the server is shutting down")
        if self.active:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self.idle.wait(), seconds)


class Reply:
    """A handler's Out over ASGI."""

    def __init__(self, send: Send) -> None:
        """Nothing has been sent yet."""
        self._send = send
        self._head: dict[str, Any] | None = None
        self._body = bytearray()
        self.is_streaming = False

    async def head(self, code: int, headers: Mapping[str, str], *, is_stream: bool) -> None:
        """Begin: a stream at once, a document when it is complete."""
        given = {name.lower(): value for name, value in headers.items() if name.lower() not in HOP_HEADERS}
        pairs = [(name.encode(), value.encode("latin-1", "replace")) for name, value in given.items()]
        self._head = {"type": "http.response.start", "status": code, "headers": pairs}
        if is_stream:
            await self._send(self._head)
            self.is_streaming = True

    async def send(self, data: bytes) -> None:
        """Send some of a stream, or keep some of a document."""
        if self.is_streaming:
            await self._send({"type": "http.response.body", "body": data, "more_body": True})
        else:
            self._body += data

    async def end(self) -> None:
        """End a stream, or send the document with its length."""
        if not self.is_streaming and self._head:
            self._head["headers"].append((b"content-length", str(len(self._body)).encode()))
            await self._send(self._head)
        await self._send({"type": "http.response.body", "body": b"" if self.is_streaming else bytes(self._body)})


class Invoke:
    """An inference route; the handler's task is cancelled when its client goes."""

    def __init__(self, site: Site) -> None:
        """Answer by the handler of `site`."""
        self._site = site

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        body_stream: AnyBodyStream | None = scope.get("extensions", {}).get(OUTLET)
        if body_stream is None:  # the server's protocol class is not ours
            await SendStream(receive, send).serve(self, scope)
            return
        task = asyncio.current_task()
        body_stream.on_gone = task.cancel if task else None
        try:
            with self._site.running() as handler:
                await self._answer(handler, Reply(send), scope, receive)
        except asyncio.CancelledError:
            if not body_stream.is_gone:
                raise

    async def _answer(self, handler: Handler, reply: Reply, scope: Scope, receive: Receive) -> None:
        try:
            with self._site.bodies.body() as counted:
                body = await read_body(scope, receive, self._site.max_body_bytes, body=counted)
                properties = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
                query = parse_qsl(scope["query_string"].decode("latin-1"))
                content = {name: value.encode() for name, value in query} | {"data": body}
                await handler.answer(properties, content, reply)
        except Error as error:
            if not reply.is_streaming:
                raise
            await reply.send(dump(_body(error)) + b"\n")
        await reply.end()


class _NoRoute(Error):
    """What no route takes; DJL Serving says no more than its status and text."""


def _body(error: Error) -> dict[str, object]:
    kind = {} if isinstance(error, _NoRoute) else {"type": error.kind}
    return {"code": error.status, "message": error.message, "error": error.message, **kind}


def _shape_of(_: Request, error: Error) -> errors.Refusal:
    return error.status, {}, _body(error)


def _route_error(_: Request, error: HTTPException) -> Error:
    refusal = _NoRoute(error.detail)
    refusal.status = error.status_code
    return refusal


def build(site: Site) -> Starlette:
    """All routes of one model directory."""
    paths = ("/invocations", "/predictions/{model}", "/models/{model}/invoke", "/v1/chat/completions")
    invoke = access.guard(
        [Route(path, Invoke(site), methods=["POST"]) for path in paths],
        site.api_keys,
        site.request_log,
        lambda _: True,
    )
    routes = [*ping.routes(site, site.health), *invoke]
    return errors.application(routes, _shape_of, _route_error)
