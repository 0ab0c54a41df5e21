"""One connection: the limits of the transport, and the way out for streamed bytes. No routes, no bodies' meaning.

Built on uvicorn's `HttpToolsProtocol`, whose cycle still writes the start and the end of each response (RFC 9112).
"""

import asyncio
import contextlib
import enum
import fcntl
import json
import socket
import struct
import termios
from asyncio import TimerHandle
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar, cast

import httptools
from uvicorn._types import ASGI3Application, ASGIReceiveCallable, ASGISendCallable, ASGISendEvent, Scope
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from lmi_chat.errors import Error

OUTLET = "lmi_chat.outlet"
PIPELINE_MAX = 16  # requests queued behind the one being answered


@dataclass(frozen=True, slots=True, kw_only=True)
class Edge:
    """What one connection may cost; sizes in bytes, times in seconds."""

    header_bytes: int = 64 * 1024  # request line and headers of one request
    header_count: int = 100
    receive_s: float = 30.0  # a head is complete within this; a body brings receive_bytes in each such window
    receive_bytes: int = 16 * 1024  # 1 or more
    write_stall_s: float = 30.0  # a client that takes nothing for so long is cut off
    backlog_bytes: int = 1 << 20  # unsent bytes of a stream beyond the transport's own buffer
    linger_s: float = 2.0  # unread input is discarded for so long after an answer that closes


class BadHttp(Error):
    """Not HTTP/1.1 or 1.0 as RFC 9112 writes it, or framed in two ways at once."""

    status, kind, code = 400, "invalid_request_error", "bad_http"


class MissingHost(BadHttp):
    """An HTTP/1.1 request without Host (RFC 9112 section 3.2)."""

    code = "missing_host"


class HeadersTooLarge(BadHttp):
    """Request line and headers over the limit (RFC 6585 section 5)."""

    status, code = 431, "headers_too_large"


class ReceiveTimeout(BadHttp):
    """Head or body came too slowly (RFC 9110 section 15.5.9)."""

    status, code = 408, "receive_timeout"


def _render_refusal(error: Error, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    fields = {"message": error.message, "type": error.kind, "param": error.param, "code": error.code}
    body = json.dumps({"error": fields}).encode()
    lines = [b"%b: %b\r\n" % pair for pair in headers]
    lines.append(b"content-type: application/json\r\ncontent-length: %d\r\nconnection: close\r\n\r\n" % len(body))
    return b"".join([STATUS_LINE[error.status], *lines, body])


class _Phase(enum.Enum):
    """What the parser waits for."""

    IDLE = enum.auto()
    HEAD = enum.auto()
    BODY = enum.auto()


class _Line(asyncio.Transport):
    """The way out of a connection, which uvicorn takes for its transport: order, backlog, stalls and closing."""

    def __init__(self, transport: asyncio.Transport, loop: asyncio.AbstractEventLoop, edge: Edge) -> None:
        super().__init__()
        self.transport = transport
        self.on_close: Callable[[], None] = transport.close
        self.backlog_bytes = 0
        self._loop = loop
        self._edge = edge
        self._pending: list[bytes] = []
        self._is_paused = False
        self._is_closing = False
        self._stall: TimerHandle | None = None
        self._unsent_bytes = 0

    def push(self, chunk: bytes) -> None:
        """Write now, or keep for later while the transport is full; over the limit the connection is aborted."""
        if self._is_closing:
            return
        if not self._is_paused:
            self.transport.write(chunk)
            return
        self._pending.append(chunk)
        self.backlog_bytes += len(chunk)
        if self.backlog_bytes > self._edge.backlog_bytes:
            self.abort()

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Write for uvicorn, behind all that was pushed."""
        if not self._is_closing:
            self._flush()
            self.transport.write(data)

    def _flush(self) -> None:
        if self._pending:
            joined = b"".join(self._pending)
            self._pending.clear()
            self.backlog_bytes = 0
            self.transport.write(joined)

    def pause(self) -> None:
        self._is_paused = True
        self.watch()

    def resume(self) -> None:
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
        return self._is_closing or self.transport.is_closing()

    def pause_reading(self) -> None:
        self.transport.pause_reading()

    def resume_reading(self) -> None:
        self.transport.resume_reading()

    def get_extra_info(self, name: str, default: Any = None) -> Any:
        return self.transport.get_extra_info(name, default)


class Outlet:
    """Where one request's streamed answer goes out; found at `scope["extensions"]["lmi_chat.outlet"]`.

    Start and end of the response go through ASGI's `send`; the chunks between them through `write`.
    """

    __slots__ = ("_is_raw", "_line", "_on_gone", "cycle", "is_gone")

    def __init__(self, cycle: RequestResponseCycle, line: _Line) -> None:
        """Belong to the one answer of `cycle`, on the connection that is written through `line`."""
        self.is_gone = False  # the client cannot get this answer any more
        self.cycle = cycle
        self._line = line
        self._on_gone: Callable[[], object] | None = None
        self._is_raw = False

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
        return self._line.backlog_bytes

    def write(self, data: bytes) -> None:
        """Send `data` as one chunk (RFC 9112 section 7.1), or bare to HTTP/1.0; drop it when the client is gone.

        Never blocks. Raises RuntimeError outside of a started, incomplete response without Content-Length.
        """
        cycle = self.cycle
        if self.is_gone or not data:
            return
        if not cycle.response_started or cycle.response_complete:
            raise RuntimeError("write() belongs between the start and the end of a response.")
        if cycle.scope["method"] == "HEAD":
            return
        if cycle.chunked_encoding:
            self._line.push(b"%x\r\n%b\r\n" % (len(data), data))
        elif self._is_raw:
            self._line.push(data)
        else:
            raise RuntimeError("write() belongs to a response with a body and without Content-Length.")

    def lose(self) -> None:
        """Say that the client is gone, and wake what waits for it; the connection's to call."""
        self.is_gone = True
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


class _Protocol(HttpToolsProtocol):
    """The way in: counts, times and refuses what arrives; uvicorn makes requests of the rest."""

    edge: ClassVar[Edge]

    def __init__(
        self,
        config: Config,
        server_state: ServerState,
        app_state: dict[str, Any],
        _loop: asyncio.AbstractEventLoop | None = None,
    ) -> None:
        super().__init__(config, server_state, app_state, _loop)
        self._phase = _Phase.IDLE
        self._unframed_bytes = 0  # of a head or of a body's framing, since the parser last delivered something
        self._window_bytes = 0  # of the body, in the present window
        self._is_excused = False  # at the start of the present window the client had to wait for us
        self._is_feeding = False
        self._is_deaf = False  # input is read and thrown away
        self._held: tuple[RequestResponseCycle, ASGI3Application] | None = None
        self._outlet: Outlet | None = None  # of the request being answered
        self._refusal: Error | None = None  # waits for the answer before it
        self._receive_timer: TimerHandle | None = None
        self._linger_timer: TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._line = _Line(transport, self.loop, self.edge)
        self._line.on_close = self._hang_up
        super().connection_made(self._line)
        self._arm()

    def data_received(self, data: bytes) -> None:
        """Parse in pieces, to see in time that a head has no end; start no request before all of `data` is valid.

        Nothing is logged here, unlike in uvicorn: a line for each bad request is a way to fill the disk.
        """
        if self._is_deaf:
            return
        self._is_feeding = True
        view, step = memoryview(data), self.edge.header_bytes
        try:
            for start in range(0, len(data), step):
                self._feed(view[start : start + step])
        except BadHttp as error:
            self._refuse(error)
        finally:
            self._is_feeding = False
        held, self._held = self._held, None
        if held is not None:
            self._start_asgi_task(*held)
        if self._phase is not _Phase.IDLE and self._receive_timer is None and not self._is_deaf:
            self._arm()

    def _feed(self, piece: bytes | memoryview) -> None:
        self._unframed_bytes += len(piece)
        try:
            self.parser.feed_data(piece)
        except httptools.HttpParserUpgrade as stop:
            self._ignore_upgrade(piece[stop.args[0] :])
        except httptools.HttpParserError as error:
            cause = error.__context__  # what one of our callbacks raised
            raise cause if isinstance(cause, BadHttp) else BadHttp("The request is not valid HTTP.") from None
        if self._unframed_bytes > self.edge.header_bytes:
            raise self._too_large()

    def _ignore_upgrade(self, rest: bytes | memoryview) -> None:
        """Parse the head once more without Upgrade, which RFC 9110 section 7.8 lets us ignore.

        The parser takes the body for the new protocol; Java's HttpClient asks for h2c with each plain POST.
        """
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b\r\n" % (method, self.url, version)]
        lines += [b"%b:%b\r\n" % pair for pair in self.headers if pair[0] != b"upgrade"]
        self.parser = httptools.HttpRequestParser(self)
        self._unframed_bytes = 0
        self._feed(b"".join([*lines, b"\r\n"]))
        if rest:
            self._feed(rest)

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._phase = _Phase.HEAD
        self._window_bytes = 0
        self._unset_keepalive_if_required()

    def on_header(self, name: bytes, value: bytes) -> None:
        if self._phase is _Phase.BODY:
            return  # a trailer: RFC 9110 section 6.5.1 forbids to merge it into the headers
        if len(self.headers) >= self.edge.header_count:
            raise self._too_large()
        super().on_header(name, value)

    def on_headers_complete(self) -> None:
        self._check_head()
        if self.parser.should_upgrade():
            return
        was_paused = self.flow.read_paused
        super().on_headers_complete()
        if not was_paused:
            self.flow.resume_reading()  # uvicorn pauses for a pipelined request, and then does not see the client go
        self._phase = _Phase.BODY
        self._unframed_bytes = 0
        self._disarm()

    def _check_head(self) -> None:
        version, hosts = self.parser.get_http_version(), sum(name == b"host" for name, _ in self.headers)
        if version not in ("1.0", "1.1") or self.parser.get_method() == b"CONNECT":
            raise BadHttp("Only HTTP/1.1 and HTTP/1.0 are spoken here, and no CONNECT.")
        if hosts == 0 and version == "1.1":
            raise MissingHost("An HTTP/1.1 request needs a Host header.")
        if hosts > 1:
            raise BadHttp("A request has one Host header, not several.")
        if len(self.url) + sum(len(name) + len(value) + 4 for name, value in self.headers) > self.edge.header_bytes:
            raise self._too_large()
        if len(self.pipeline) >= PIPELINE_MAX:
            raise BadHttp(f"More than {PIPELINE_MAX} requests were sent ahead of their answers.")

    def _too_large(self) -> HeadersTooLarge:
        edge = self.edge
        return HeadersTooLarge(
            f"A request may have {edge.header_bytes} bytes of headers, on {edge.header_count} lines."
        )

    def on_body(self, body: bytes) -> None:
        self._unframed_bytes = 0
        self._window_bytes += len(body)
        super().on_body(body)

    def on_message_complete(self) -> None:
        if self.parser.should_upgrade():
            return
        self._phase = _Phase.IDLE
        self._unframed_bytes = 0
        self._disarm()
        super().on_message_complete()
        self.flow.resume_reading()  # a handler that does not read its body must still see the client go

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: ASGI3Application) -> None:
        if self._is_feeding:
            self._held = (cycle, app)
            return
        self._outlet = Outlet(cycle, self._line)
        cast("dict[str, Any]", cycle.scope)["extensions"] = {OUTLET: self._outlet}
        super()._start_asgi_task(cycle, self._outlet.wrap(app))

    def on_response_complete(self) -> None:
        self._outlet = None
        super().on_response_complete()
        if self._phase is not _Phase.IDLE:
            self._unset_keepalive_if_required()  # the next request is on its way; its own timer runs
        if self._refusal is not None:
            self._send_refusal(self._refusal)

    def _arm(self) -> None:
        self._is_excused = self._is_waiting_for_us()
        self._receive_timer = self.loop.call_later(self.edge.receive_s, self._check_receive)

    def _disarm(self) -> None:
        if self._receive_timer is not None:
            self._receive_timer.cancel()
            self._receive_timer = None

    def _check_receive(self) -> None:
        self._receive_timer = None
        if self._phase is _Phase.IDLE:  # a fresh connection that brought nothing
            self._line.close()
        elif self._phase is _Phase.BODY and self.cycle.response_started:
            return  # no 408 any more; the connection closes with the response
        elif self._is_excused or self._is_waiting_for_us() or self._window_bytes >= self.edge.receive_bytes:
            self._window_bytes = 0
            self._arm()
        else:
            self._refuse(ReceiveTimeout("The request came too slowly."))

    def _is_waiting_for_us(self) -> bool:
        """The client may not send: we do not read, or it waits for our 100 Continue."""
        return self.flow.read_paused or (self._phase is _Phase.BODY and self.cycle.waiting_for_100_continue)

    def _refuse(self, error: Error) -> None:
        """Answer `error` and close, after the answer under way; what has not started yet is trusted no more."""
        self._is_deaf = True
        self._disarm()
        self._held = None
        self.pipeline.clear()
        outlet = self._outlet
        if outlet is None:
            self._send_refusal(error)
        elif not outlet.cycle.more_body:
            self._refusal = error
        else:  # it is this request's own body that is broken
            self._outlet = None
            outlet.lose()
            if outlet.cycle.response_started:
                self._line.abort()
            else:
                self._send_refusal(error)

    def _send_refusal(self, error: Error) -> None:
        self._line.write(_render_refusal(error, self.server_state.default_headers))
        self._line.close()

    def _hang_up(self) -> None:
        """Close. With input unread the kernel would send RST, and the client lose the answer (RFC 9112 section 9.6)."""
        transport = self._line.transport
        is_unread = self._is_deaf or self._phase is not _Phase.IDLE or self.flow.read_paused
        self._is_deaf = True
        self._disarm()
        if not is_unread:
            transport.close()
            return
        if transport.can_write_eof():
            with contextlib.suppress(OSError):  # the client was faster
                transport.write_eof()
        self.flow.resume_reading()
        self._linger_timer = self.loop.call_later(self.edge.linger_s, transport.close)

    def eof_received(self) -> None:
        """The client is gone, or sends nothing more; which of both, TCP does not tell. The transport closes itself."""
        if self._outlet is None:
            self._line.watch()
        else:
            self._line.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self._line.lose()
        self._disarm()
        self._unset_keepalive_if_required()
        if self._linger_timer is not None:
            self._linger_timer.cancel()
        outlet, self._outlet = self._outlet, None
        super().connection_lost(exc)
        if outlet is not None:
            outlet.lose()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._line.pause()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._line.resume()


def protocol_class(edge: Edge) -> type[HttpToolsProtocol]:
    """The class for `uvicorn.Config(http=...)` that serves each connection within `edge`."""

    class Bounded(_Protocol):
        pass

    Bounded.edge = edge
    return Bounded
