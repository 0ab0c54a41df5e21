"""Read one connection: count, time and refuse the bytes that arrive; no routes, no meaning of bodies.

Built on uvicorn's `HttpToolsProtocol`, whose cycle still writes the start and the end of each response (RFC 9112).
"""

import asyncio
import contextlib
import enum
from asyncio import TimerHandle
from collections.abc import Collection, Iterable
from functools import partial
from typing import Any, ClassVar, cast

import httptools
from uvicorn._types import ASGI3Application
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import ServerState

from lmi_chat.errors import Busy, Error
from lmi_chat.http.transport.body_stream import OUTLET, BodyStream
from lmi_chat.http.transport.connections import Connections
from lmi_chat.http.transport.refusals import (
    BadHttp,
    HeadersTooLarge,
    MissingHost,
    ReceiveTimeout,
    render_refusal,
)
from lmi_chat.http.transport.websocket import LATER, WebSocket
from lmi_chat.http.transport.writer import ConnectionWriter, WriteBatch
from lmi_chat.limits import ConnectionLimits, ServerLimits

PIPELINE_MAX = 16  # requests queued behind the one being answered
# A chunk costs as much work as a kilobyte of body: so many may be of any size, further ones hold so many bytes each.
FREE_CHUNKS, CHUNK_BYTES = 4096, 64


class _Phase(enum.Enum):
    """The part of a request that the parser waits for."""

    IDLE = enum.auto()
    HEAD = enum.auto()
    BODY = enum.auto()


class _Protocol(HttpToolsProtocol):
    """Counts, times and refuses the bytes that arrive; uvicorn makes requests of the rest."""

    edge: ClassVar[ConnectionLimits]
    burst: ClassVar[WriteBatch | None] = None  # of all connections
    connections_open: ClassVar[Connections]
    sockets: ClassVar[Collection[str]] = ()  # the paths of WebSockets

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
        self._body_bytes = 0
        self._chunks = 0  # of the body
        self._is_excused = False  # at the start of the present window the client had to wait for us
        self._is_feeding = False
        self._is_deaf = False  # input is read and thrown away
        self._held: tuple[RequestResponseCycle, ASGI3Application] | None = None
        self._body_stream: BodyStream | None = None  # of the request being answered
        self._socket: WebSocket | None = None  # what this connection has become
        self._refusal: Error | None = None  # waits for the answer before it
        self._receive_timer: TimerHandle | None = None
        self._linger_timer: TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        if self.burst is None or self.burst.loop is not self.loop:
            type(self).burst = WriteBatch(self.loop)
        self._writer = ConnectionWriter(transport, cast("WriteBatch", self.burst), self.edge)
        self._writer.on_close = self._hang_up
        super().connection_made(self._writer)
        if self.connections_open.add(self):
            self._arm()
        else:
            self._is_deaf = True
            self._writer.abort()

    @property
    def is_waiting_for_client(self) -> bool:
        """Whether nothing is being answered: the connection is idle, or its request is not complete."""
        if self._is_deaf:
            return False
        if self._socket is not None:
            return not self._socket.is_answering
        return self._body_stream is None or (self._phase is _Phase.BODY and not self.cycle.response_started)

    def make_room(self, *, at_once: bool) -> None:
        """End for a newer connection; a request that has begun to arrive is told why, unless it must be `at_once`."""
        if at_once:
            self._writer.abort()
        elif self._socket is not None:
            self._socket.close(LATER, "another connection takes its place (max_connections)")
        elif self._phase is _Phase.IDLE:
            self._writer.close()
        else:
            most = self.connections_open.most
            self._refuse(Busy(f"all {most} connections are in use (max_connections), and this request came slowly"))

    def data_received(self, data: bytes) -> None:
        """Parse in pieces, to see in time that a head has no end; start no request before all of `data` is valid.

        Nothing is logged here, unlike in uvicorn: a line for each bad request is a way to fill the disk.
        """
        if self._is_deaf:
            return
        if self._socket is not None:
            self._socket.data_received(data)
            return
        self._is_feeding = True
        view, step = memoryview(data), self.edge.header_bytes
        try:
            for start in range(0, len(data), step):
                self._feed(view[start : start + step])
        except Error as error:
            self._refuse(error)
        finally:
            self._is_feeding = False
        held, self._held = self._held, None
        if held is not None:
            self._start_asgi_task(*held)
        if self._phase is not _Phase.IDLE and self._receive_timer is None and not self._is_deaf:
            self._arm()

    def _feed(self, delta: bytes | memoryview) -> None:
        if self._socket is not None:
            self._socket.data_received(bytes(delta))
            return
        self._unframed_bytes += len(delta)
        try:
            self.parser.feed_data(delta)
        except httptools.HttpParserUpgrade as stop:
            rest = delta[stop.args[0] :]
            if self._is_socket():
                self._open_socket(rest)
            else:
                self._ignore_upgrade(rest)
        except httptools.HttpParserError as error:
            cause = error.__context__  # what one of our callbacks raised
            raise cause if isinstance(cause, Error) else BadHttp("The request is not valid HTTP.") from None
        if self._unframed_bytes > self.edge.header_bytes:
            raise self._too_large()

    def _ignore_upgrade(self, rest: bytes | memoryview) -> None:
        """Parse the head once more without Upgrade, which RFC 9110 section 7.8 lets us ignore.

        The parser takes the body for the new protocol; Java's HttpClient asks for h2c with each plain POST.
        """
        head = self._head(pair for pair in self.headers if pair[0] != b"upgrade")
        self.parser = httptools.HttpRequestParser(self)
        self._unframed_bytes = 0
        self._feed(head)
        if rest:
            self._feed(rest)

    def _head(self, headers: Iterable[tuple[bytes, bytes]]) -> bytes:
        method, version = self.parser.get_method(), self.parser.get_http_version().encode()
        lines = [b"%b %b HTTP/%b\r\n" % (method, self.url, version)]
        return b"".join([*lines, *(b"%b: %b\r\n" % pair for pair in headers), b"\r\n"])

    def _is_socket(self) -> bool:
        """Whether the request asks for a WebSocket where there is one; all other upgrades are ignored."""
        path = self.url.partition(b"?")[0].decode("latin-1")
        given = dict(self.headers)
        has_body = b"transfer-encoding" in given or given.get(b"content-length", b"0") != b"0"
        is_free = self._body_stream is None and not self.pipeline
        asks = self.parser.get_method() == b"GET" and given.get(b"upgrade", b"").lower() == b"websocket"
        return asks and path in self.sockets and is_free and not has_body

    def _open_socket(self, rest: bytes | memoryview) -> None:
        self.connections_open.check(self.url.partition(b"?")[0].decode("latin-1"))
        self._phase = _Phase.IDLE
        self._disarm()
        self._socket = socket = WebSocket(self._head(self.headers), self._writer, self.edge)
        socket.on_message = partial(self.connections_open.touch, self)
        task = self.loop.create_task(socket.serve(self.app, {**cast("dict[str, Any]", self.scope)}, self.url))
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        if rest:
            socket.data_received(bytes(rest))

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._phase = _Phase.HEAD
        self._window_bytes = self._body_bytes = self._chunks = 0
        self.connections_open.touch(self)
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
        self.connections_open.check(self.url.partition(b"?")[0].decode("latin-1"))
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
        codings = [value.strip().lower() for name, value in self.headers if name == b"transfer-encoding"]
        if len(codings) > 1 or (codings and version == "1.0"):
            raise BadHttp("A request has one Transfer-Encoding header at most, and none in HTTP/1.0.")
        if codings and codings != [b"chunked"]:
            raise BadHttp("Of all transfer codings only chunked is read here.")
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
        self._body_bytes += len(body)
        super().on_body(body)

    def on_chunk_header(self) -> None:
        self._chunks += 1
        if self._chunks > FREE_CHUNKS + self._body_bytes // CHUNK_BYTES:
            raise BadHttp(f"The body comes in too many small chunks: {CHUNK_BYTES} bytes in each, or more, are read.")

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
        self._body_stream = BodyStream(cycle, self._writer)
        cast("dict[str, Any]", cycle.scope)["extensions"] = {OUTLET: self._body_stream}
        super()._start_asgi_task(cycle, self._body_stream.wrap(app))

    def on_response_complete(self) -> None:
        self._body_stream = None
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
            self._writer.close()
        elif self._phase is _Phase.BODY and self.cycle.response_started:
            return  # no 408 any more; the connection closes with the response
        elif self._is_excused or self._is_waiting_for_us() or self._window_bytes >= self.edge.receive_bytes:
            self._window_bytes = 0
            self._arm()
        else:
            self._refuse(ReceiveTimeout("The request came too slowly."))

    def _is_waiting_for_us(self) -> bool:
        """Whether the client cannot send: we do not read, or it waits for our 100 Continue."""
        return self.flow.read_paused or (self._phase is _Phase.BODY and self.cycle.waiting_for_100_continue)

    def _refuse(self, error: Error) -> None:
        """Answer `error` and close, after the answer under way; later requests on this connection are dropped."""
        has_begun = self._phase is not _Phase.IDLE
        path = self.url.partition(b"?")[0].decode("latin-1") if has_begun else ""
        method = str(self.scope.get("method", "")) if has_begun else ""
        self.connections_open.record(self.client[0] if self.client else "", method, path, error)
        self._is_deaf = True
        self._disarm()
        self._held = None
        self.pipeline.clear()
        body_stream = self._body_stream
        if body_stream is None:
            self._send_refusal(error)
        elif not body_stream.cycle.more_body:
            self._refusal = error
        else:  # it is this request's own body that is broken
            self._body_stream = None
            body_stream.disconnect()
            if body_stream.cycle.response_started:
                self._writer.abort()
            else:
                self._send_refusal(error)

    def _send_refusal(self, error: Error) -> None:
        self._writer.write(render_refusal(error, self.server_state.default_headers))
        self._writer.close()

    def _hang_up(self) -> None:
        """Close. With input unread the kernel would send RST, and the client lose the answer (RFC 9112 section 9.6)."""
        transport = self._writer.transport
        has_socket = self._socket is not None  # whose client answers the close frame
        is_unread = self._is_deaf or self._phase is not _Phase.IDLE or self.flow.read_paused or has_socket
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
        if self._body_stream is None and self._socket is None:
            self._writer.watch()
        elif not self._is_deaf:
            self._writer.abort()

    def connection_lost(self, exc: Exception | None) -> None:
        self.connections_open.remove(self)
        self._writer.disconnect()
        self._disarm()
        self._unset_keepalive_if_required()
        if self._linger_timer is not None:
            self._linger_timer.cancel()
        body_stream, self._body_stream = self._body_stream, None
        if self._socket is not None:
            self._socket.disconnect()
        super().connection_lost(exc)
        if body_stream is not None:
            body_stream.disconnect()

    def shutdown(self) -> None:
        """Close when nothing is being answered any more."""
        if self._socket is not None:
            self._socket.end()
        else:
            super().shutdown()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._writer.pause()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._writer.resume()


def protocol_class(
    edge: ConnectionLimits, connections: Connections | None = None, sockets: Collection[str] = ()
) -> type[HttpToolsProtocol]:
    """Build the class for `uvicorn.Config(http=...)` that serves each connection within `edge`.

    `connections` bounds all of them together; None: as many as are usual. `sockets`: the paths that may be asked for
    as WebSockets.
    """

    class Bounded(_Protocol):
        pass

    Bounded.edge, Bounded.sockets = edge, frozenset(sockets)
    Bounded.connections_open = connections or Connections(ServerLimits().connections)
    return Bounded
