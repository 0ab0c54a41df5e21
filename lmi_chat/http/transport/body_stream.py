"""The way out of a connection: order, backlog, stalls, closing; and the BodyStream of one streamed answer."""

import asyncio
import contextlib
import fcntl
import socket
import struct
import termios
from asyncio import TimerHandle
from collections.abc import Callable
from typing import Any, cast

from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, ASGISendEvent, Scope
from uvicorn.protocols.http.httptools_impl import RequestResponseCycle

from lmi_chat.limits import ConnectionLimits

OUTLET = "lmi_chat.outlet"
SIZES = [b"%x\r\n" % size for size in range(4096)]
"""The first line of a chunk of so many bytes (RFC 9112 section 7.1)."""


class WriteBatch:
    """Connections that have something to send once what is being done now is done: one write for each of them.

    The engine's messages are worked off all that there are at once, so that a server which falls behind writes less.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._waiting: list[ConnectionWriter] = []

    def add(self, way_out: "ConnectionWriter") -> None:
        """Let `way_out` flush soon."""
        if not self._waiting:
            self.loop.call_soon(self._flush)
        self._waiting.append(way_out)

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        for way_out in waiting:
            way_out.flush()


class ConnectionWriter(asyncio.Transport):
    """The way out of a connection, which uvicorn takes for its transport: order, backlog, stalls and closing."""

    def __init__(self, transport: asyncio.Transport, burst: WriteBatch, edge: ConnectionLimits) -> None:
        super().__init__()
        self.transport = transport
        self.on_close: Callable[[], None] = transport.close
        self.backlog_bytes = 0
        self._loop = burst.loop
        self._burst = burst
        self._edge = edge
        self._pending: list[bytes] = []
        self._is_paused = False
        self._is_closing = False
        self._stall: TimerHandle | None = None
        self._unsent_bytes = 0

    def push(self, chunk: bytes) -> None:
        """Write soon, or keep for later while the transport is full; over the limit the connection is aborted."""
        if self._is_closing:
            return
        if not self._pending and not self._is_paused:
            self._burst.add(self)
        self._pending.append(chunk)
        self.backlog_bytes += len(chunk)
        if self.backlog_bytes > self._edge.backlog_bytes:
            self.flush()
            if self._pending:
                self.abort()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write for uvicorn, behind all that was pushed."""
        if self._is_closing:
            return
        if self._pending:
            self._pending.append(bytes(data))
            self._flush()
        else:
            self.transport.write(data)

    def flush(self) -> None:
        """Write what waits, unless the transport is full."""
        if not self._is_paused and not self._is_closing:
            self._flush()

    def _flush(self) -> None:
        if self._pending:
            pending, self._pending = self._pending, []
            joined = b"".join(pending) if len(pending) > 1 else pending[0]
            self.backlog_bytes = 0
            self.transport.write(joined)

    def pause(self) -> None:
        """The transport is full."""
        self._is_paused = True
        self.watch()

    def resume(self) -> None:
        """The transport has room again."""
        self._is_paused = False
        if not self._is_closing:
            self._unwatch()
            self._flush()

    def watch(self) -> None:
        """From now on the client must take something in each `write_stall_s`, or it is cut off."""
        if self._stall is None:
            self._unsent_bytes = self._measure()
            self._stall = self._loop.call_later(self._edge.write_stall_s, self._check_stall)

    def _unwatch(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def _check_stall(self) -> None:
        self._stall = None
        before, self._unsent_bytes = self._unsent_bytes, self._measure()
        if self._unsent_bytes < before or not self._unsent_bytes:
            self.watch()
        else:
            self.abort()

    def _measure(self) -> int:
        """Bytes not taken yet, the kernel's included: a slow reader's progress may show nowhere else for a minute."""
        size = self.transport.get_write_buffer_size()
        try:
            queue = fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
        except (AttributeError, OSError, ValueError):  # no socket, or none that can tell
            return size
        return size + int(struct.unpack("i", queue)[0])

    def close(self) -> None:
        """Send what is left, then close."""
        if not self._is_closing:
            self._flush()
            self._is_closing = True
            self.watch()  # unsent bytes would keep the socket open for as long as the client likes
            self.on_close()

    def abort(self) -> None:
        """Reset the connection: an end in the middle must not look like one, nor the kernel keep what is unsent."""
        self._is_closing = True
        self._pending.clear()
        raw = self.transport.get_extra_info("socket")
        if raw is not None:
            with contextlib.suppress(OSError):
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def lose(self) -> None:
        """The connection is lost: nothing is written or waited for any more."""
        self._is_closing = True
        self._pending.clear()
        self.backlog_bytes = 0
        self._unwatch()
        self.on_close = self.transport.close  # no cycle of references for the collector

    def is_closing(self) -> bool:
        """Nothing more is taken."""
        return self._is_closing or self.transport.is_closing()

    def pause_reading(self) -> None:
        """As the transport."""
        self.transport.pause_reading()

    def resume_reading(self) -> None:
        """As the transport."""
        self.transport.resume_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        """As the transport."""
        return self.transport.get_extra_info(name, default)


class BodyStream:
    """Where one request's streamed answer goes out; found at `scope["extensions"]["lmi_chat.outlet"]`.

    Start and end of the response go through ASGI's `send`; the chunks between them through `write`.
    """

    __slots__ = ("_is_open", "_is_raw", "_on_gone", "_push", "_way_out", "cycle", "is_gone")

    def __init__(self, cycle: RequestResponseCycle, line: ConnectionWriter) -> None:
        """Belong to the one answer of `cycle`, on the connection that is written through `line`."""
        self.is_gone = False  # the client cannot get this answer any more
        self.cycle = cycle
        self._way_out = line
        self._on_gone: Callable[[], object] | None = None
        self._push = line.push
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
            self._tell()

    @property
    def backlog_bytes(self) -> int:
        """Bytes written here that the transport has not taken yet."""
        return self._way_out.backlog_bytes

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
        """Raises RuntimeError for what cannot be written; the rest is dropped."""
        cycle = self.cycle
        if self.is_gone or not data:
            return
        if not cycle.response_started or cycle.response_complete:
            raise RuntimeError("write() belongs between the start and the end of a response.")
        if cycle.scope["method"] != "HEAD":
            raise RuntimeError("write() belongs to a response with a body and without Content-Length.")

    def lose(self) -> None:
        """Say that the client is gone, and wake what waits for it; the connection's to call."""
        self.is_gone = True
        self._is_open = False
        self.cycle.disconnected = True
        self.cycle.message_event.set()
        self._tell()

    def _tell(self) -> None:
        callback, self._on_gone = self._on_gone, None
        if callback is not None:
            callback()

    async def _send(self, message: ASGISendEvent) -> None:
        """As uvicorn's, plus two things it leaves out: early answers close, HTTP/1.0 has no chunks (section 6.1)."""
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
        """`app` with our `send`, and whose cancelling for a gone client is no error; the connection's to call."""

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
