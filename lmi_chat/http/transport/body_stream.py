"""Write one request's streamed answer to its connection."""

import asyncio
from collections.abc import Callable
from typing import Any, cast

from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, ASGISendEvent, Scope
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from lmi_chat.http.transport.writer import ConnectionWriter

OUTLET = "lmi_chat.outlet"
SIZES = [b"%x\r\n" % size for size in range(4096)]
"""The first line of a chunk of so many bytes (RFC 9112 section 7.1)."""


class BodyStream:
    """Writes one request's streamed answer; found at `scope["extensions"]["lmi_chat.outlet"]`.

    Start and end of the response go through ASGI's `send`; the chunks between them through `write`.
    """

    __slots__ = ("_is_open", "_is_raw", "_on_gone", "_push", "_writer", "cycle", "is_gone")

    def __init__(self, cycle: RequestResponseCycle, writer: ConnectionWriter) -> None:
        """Belong to the one answer of `cycle`, on the connection of `writer`."""
        self.is_gone = False  # the client cannot get this answer any more
        self.cycle = cycle
        self._writer = writer
        self._on_gone: Callable[[], object] | None = None
        self._push = writer.push
        self._is_raw = False
        self._is_open = False  # between the start and the end of a response with a body of unknown length

    @property
    def on_gone(self) -> Callable[[], object] | None:
        """Called once, when the connection is lost before the response is complete; at once if it is lost already."""
        return self._on_gone

    @on_gone.setter
    def on_gone(self, callback: Callable[[], object] | None) -> None:
        self._on_gone = callback
        if self.is_gone:
            self._call_on_gone()

    @property
    def backlog_bytes(self) -> int:
        """Bytes written here that the transport has not taken yet."""
        return self._writer.backlog_bytes

    def write(self, data: bytes) -> None:
        """Send `data` as one chunk (RFC 9112 section 7.1), or bare to HTTP/1.0; drop it when the client is gone.

        Never blocks. Raises RuntimeError outside of a started, incomplete response without Content-Length.
        """
        if not self._is_open or not data:
            self._check(data)
        elif self._is_raw:
            self._push(data)
        else:
            size = len(data)
            self._push((SIZES[size] if size < len(SIZES) else b"%x\r\n" % size) + data + b"\r\n")

    def _check(self, data: bytes) -> None:
        """Raises RuntimeError for a chunk that cannot be written; the rest is dropped."""
        cycle = self.cycle
        if self.is_gone or not data:
            return
        if not cycle.response_started or cycle.response_complete:
            raise RuntimeError("write() belongs between the start and the end of a response.")
        if cycle.scope["method"] != "HEAD":
            raise RuntimeError("write() belongs to a response with a body and without Content-Length.")

    def disconnect(self) -> None:
        """Note that the client is gone and wake who waits for it; called by the connection."""
        self.is_gone = True
        self._is_open = False
        self.cycle.disconnected = True
        self.cycle.message_event.set()
        self._call_on_gone()

    def _call_on_gone(self) -> None:
        callback, self._on_gone = self._on_gone, None
        if callback is not None:
            callback()

    async def _send(self, message: ASGISendEvent) -> None:
        """Send as uvicorn does, plus what it leaves out: early answers close, HTTP/1.0 has no chunks (section 6.1)."""
        cycle = self.cycle
        if message["type"] == "http.response.start":
            if cycle.more_body:
                cycle.keep_alive = False
            names = [name.lower() for name, _ in message.get("headers", [])]
            if cycle.scope["http_version"] == "1.0" and b"content-length" not in names:
                self._is_raw = True
                cycle.chunked_encoding = False
        elif self._is_raw and message["type"] == "http.response.body":
            cycle.expected_content_length = len(message.get("body", b""))
        await cycle.send(message)
        is_body = cycle.response_started and not cycle.response_complete and cycle.scope["method"] != "HEAD"
        self._is_open = is_body and not self.is_gone and (bool(cycle.chunked_encoding) or self._is_raw)

    def wrap(self, app: ASGI3Application) -> ASGI3Application:
        """Wrap `app` with our `send`; its cancelling for a gone client is no error. Called by the connection."""

        async def answer(scope: Scope, receive: ASGIReceiveCallable, _send: ASGISendCallable) -> None:
            try:
                await app(scope, receive, self._send)
            except asyncio.CancelledError:
                if not self.is_gone:
                    raise
            finally:
                self._on_gone = None
                cast("dict[str, Any]", scope)["extensions"].pop(OUTLET, None)

        return answer
