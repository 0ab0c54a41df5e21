"""Carry one WebSocket (RFC 6455): whole messages in, frames out, within the limits of its connection."""

import asyncio
import logging
import time
from asyncio import TimerHandle
from collections import deque
from collections.abc import Callable
from typing import Any, NamedTuple

from websockets.exceptions import PayloadTooBig
from websockets.frames import Frame, Opcode
from websockets.http11 import Request
from websockets.protocol import OPEN
from websockets.server import ServerProtocol

from lmi_chat.errors import Error, TooLarge
from lmi_chat.http.transport.refusals import BadHttp, render_refusal
from lmi_chat.http.transport.writer import ConnectionWriter
from lmi_chat.limits import ConnectionLimits

SOCKET = "lmi_chat.socket"
"""Where a scope's extensions have it."""
AHEAD_BYTES = 64 * 1024
"""So much is read of what a client sends ahead of its answer; the rest waits in the connection."""
TURN_S, PIECE_BYTES = 0.005, 4096
GOING_AWAY, BROKEN_RULE, LARGE, FAILED, LATER = 1001, 1008, 1009, 1011, 1013
"""Close codes (RFC 6455 section 7.4.1, and 1013 of the registry that it founded)."""
log = logging.getLogger(__name__)


class Message(NamedTuple):
    """What a client sent in one frame, or in several that belong together."""

    data: bytes
    is_text: bool


class WebSocket:
    """One WebSocket; `head` is the request that asks for it. Pings are answered as they come."""

    def __init__(self, head: bytes, writer: ConnectionWriter, edge: ConnectionLimits) -> None:
        """Read and write by `writer` from `accept` on."""
        self.is_gone = False  # nothing that is sent arrives any more
        self.is_answering = False
        self.on_gone: Callable[[], object] | None = None  # called once, when the client goes
        self.on_message: Callable[[], object] | None = None
        self._head, self._writer, self._edge = head, writer, edge
        self._conn: ServerProtocol | None = None
        self._early = bytearray()  # what came before it was accepted
        self._messages: deque[Message] = deque()
        self._inbox = bytearray()  # what is not parsed yet
        self._is_parsing = False
        self._parts = bytearray()  # the frames of a message that is not complete
        self._is_text = False
        self._stirred = asyncio.Event()
        self._failure: Error | None = None
        self._is_ending = self._is_ahead = False
        self._count: Callable[[int], None] | None = None
        self._counted = 0
        self._timer: TimerHandle | None = None
        self._window_bytes = 0
        self._is_late = False  # the message that comes had begun before the present window
        self._loop = asyncio.get_running_loop()
        self._alive_at = self._loop.time()

    # By the application.

    def accept(self, most_bytes: int) -> bool:
        """Answer the handshake; messages of up to `most_bytes` are taken. False: it was none, and is answered so."""
        conn = ServerProtocol(max_size=most_bytes, logger=log)
        conn.receive_data(self._head)
        request = next((event for event in conn.events_received() if isinstance(event, Request)), None)
        if request is None:
            self.refuse(render_refusal(BadHttp("The request is no WebSocket's handshake."), []))
            return False
        response = conn.accept(request)
        if response.status_code != 101:  # noqa: PLR2004
            response.headers["Connection"] = "close"
        conn.send_response(response)
        self._conn = conn
        self._flush()
        if response.status_code != 101:  # noqa: PLR2004
            self._writer.close()
            return False
        self._arm()
        if early := bytes(self._early):
            self._early.clear()
            self.data_received(early)
        return True

    async def stirred(self) -> bool:
        """Wait for a message to begin. False: there will be none any more."""
        while not (self._messages or self._pending_bytes or self._failure):
            if self.is_gone or self._is_ending:
                return False
            self._stirred.clear()
            await self._stirred.wait()
        return not self.is_gone

    async def receive(self, count: Callable[[int], None]) -> Message | None:
        """Wait for the rest of a message, whose bytes `count` hears of; None: the client is gone.

        Raises TooLarge, and what `count` raises.
        """
        self._counted = len(self._messages[0].data) if self._messages else self._pending_bytes
        count(self._counted)
        self._count = count
        try:
            while not self._messages:
                if self._failure is not None:
                    raise self._failure
                if self.is_gone or self._is_ending:
                    return None
                self._stirred.clear()
                await self._stirred.wait()
            return self._messages.popleft()
        finally:
            self._count = None
            self._alive_at = self._loop.time()

    def write(self, data: bytes, *, is_text: bool) -> None:
        """Send one message; never blocks. It is dropped when the client is gone."""
        if self.is_gone or self._writer.is_closing():
            return
        frame = Frame(Opcode.TEXT if is_text else Opcode.BINARY, data)
        self._writer.push(frame.serialize(mask=False))

    async def gone(self) -> None:
        """Wait for the client to go."""
        while not self.is_gone:
            self._stirred.clear()
            await self._stirred.wait()

    def answered(self) -> None:
        """Note that an answer is complete: what waits in the connection is read."""
        self.is_answering = False
        self._alive_at = self._loop.time()
        self._is_ahead = False
        self._read_on()

    def close(self, code: int = GOING_AWAY, reason: str = "") -> None:
        """Say why no more messages are taken, and close."""
        if self._conn is not None and self._conn.state is OPEN:
            self._conn.send_close(code, reason)
        self._flush()
        self._leave()
        self._writer.close()

    def refuse(self, response: bytes) -> None:
        """Answer the handshake by `response`, of HTTP."""
        self._writer.write(response)
        self._writer.close()

    @property
    def backlog_bytes(self) -> int:
        """Bytes written here that the transport has not taken yet."""
        return self._writer.backlog_bytes

    # By the connection.

    async def serve(self, app: Any, scope: dict[str, Any], url: bytes) -> None:
        """Run `app` on it, by the scope of the HTTP request that asks for `url`; what it raises closes the socket."""
        path, _, query = url.partition(b"?")
        own = {"type": "websocket", "path": path.decode("latin-1"), "raw_path": path, "query_string": query}
        code, reason = GOING_AWAY, ""
        try:
            await app({**scope, **own, "subprotocols": [], "extensions": {SOCKET: self}}, _no_message, _no_message)
        except asyncio.CancelledError:
            if not self.is_gone:
                raise
        except Exception:
            log.exception("a WebSocket's application failed")
            code, reason = FAILED, "internal error"
        finally:
            self.close(code, reason)

    def data_received(self, data: bytes) -> None:
        """Take what has come."""
        if self._conn is None:
            self._early += data
            if len(self._early) > AHEAD_BYTES:
                self._writer.abort()
            return
        self._inbox += data
        if not self._is_parsing:
            self._parse()

    def end(self) -> None:
        """Close after the present answer."""
        self._is_ending = True
        self._stirred.set()

    def disconnect(self) -> None:
        """Note that the connection is lost."""
        self._leave()

    @property
    def _pending_bytes(self) -> int:
        """Bytes of a message that is not complete."""
        buffered = len(self._conn.reader.buffer) if self._conn is not None else 0
        return buffered + len(self._parts)

    def _parse(self) -> None:
        """Parse what has come, in turns of TURN_S: a buffer may hold ten thousand frames."""
        self._is_parsing, until = False, time.monotonic() + TURN_S
        while self._inbox and not self.is_gone:
            if time.monotonic() > until:
                self._is_parsing = True
                self._writer.pause_reading()
                self._loop.call_soon(self._parse)
                return
            piece = bytes(self._inbox[:PIECE_BYTES])
            del self._inbox[:PIECE_BYTES]
            self._take(piece)
        self._read_on()

    def _read_on(self) -> None:
        if not self._is_ahead and not self._is_parsing and not self.is_gone:
            self._writer.resume_reading()

    def _take(self, data: bytes) -> None:
        conn = self._conn
        if conn is None or self.is_gone or self._failure is not None:
            return
        self._window_bytes += len(data)
        conn.receive_data(data)
        for event in conn.events_received():
            if isinstance(event, Frame):
                self._take_frame(event)
        if isinstance(conn.parser_exc, PayloadTooBig):
            most = conn.max_message_size
            self._failure = TooLarge(f"the message has more than {most} bytes; at most {most} are read")
            self._stirred.set()  # what is read next says so, before the close frame that waits
            return
        self._flush()
        if conn.state is not OPEN:
            self._leave()
            self._writer.close()
            return
        self._hear()

    def _hear(self) -> None:
        """Count what has come, wake who waits for it, and read no further ahead than is allowed."""
        pending = self._pending_bytes
        if not self._messages:
            self._tell(pending)
        if pending or self._messages:
            self._stirred.set()
        ahead = pending + sum(len(message.data) for message in self._messages)
        if self.is_answering and ahead > AHEAD_BYTES and not self._is_ahead:
            self._is_ahead = True
            self._writer.pause_reading()

    def _tell(self, pending: int) -> None:
        more = pending - self._counted
        if self._count is None or more <= 0:
            return
        self._counted = pending
        try:
            self._count(more)
        except Error as error:
            self._failure = error
            self._stirred.set()

    def _take_frame(self, frame: Frame) -> None:
        self._alive_at = self._loop.time()
        if frame.opcode in (Opcode.PING, Opcode.PONG, Opcode.CLOSE):
            return  # the library has written what answers them
        if frame.opcode is not Opcode.CONT:
            self._is_text = frame.opcode is Opcode.TEXT
        if frame.fin and not self._parts:
            self._complete(bytes(frame.data))
            return
        self._parts += frame.data
        if frame.fin:
            whole = bytes(self._parts)
            self._parts.clear()
            self._complete(whole)

    def _complete(self, data: bytes) -> None:
        self._tell(len(data))
        self._messages.append(Message(data, self._is_text))
        self._is_late = False
        if self.on_message is not None:
            self.on_message()

    def _flush(self) -> None:
        if self._conn is not None:
            for data in self._conn.data_to_send():
                if data:  # else the end, which `close` brings
                    self._writer.push(data)

    def _leave(self) -> None:
        self.is_gone = True
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._stirred.set()
        callback, self.on_gone, self.on_message = self.on_gone, None, None
        if callback is not None:
            callback()

    def _arm(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._window_bytes = 0
        wait = min(self._edge.receive_s, self._edge.keep_alive_s)
        self._timer = self._loop.call_later(wait, self._check)

    def _check(self) -> None:
        """Close where a message comes too slowly, or nothing comes at all, be it a ping."""
        is_coming = bool(self._pending_bytes) and not self.is_answering
        if is_coming and self._is_late and self._window_bytes < self._edge.receive_bytes:
            self.close(BROKEN_RULE, "the message came too slowly")
        elif not is_coming and not self.is_answering and self._idle_s >= self._edge.keep_alive_s:
            self.close(GOING_AWAY, f"nothing came for {self._edge.keep_alive_s:g} s")
        else:
            self._is_late = is_coming
            self._arm()

    @property
    def _idle_s(self) -> float:
        return self._loop.time() - self._alive_at


async def _no_message(*_: object) -> Any:
    """Stand where ASGI has messages: a WebSocket is read and written by the object in its scope's extensions."""
    raise RuntimeError("a WebSocket has no ASGI messages here")


class FrameStream:
    """Writes one request's streamed answer as messages of a WebSocket; takes the place of a BodyStream."""

    __slots__ = ("_is_text", "_socket")

    def __init__(self, socket: WebSocket, *, is_text: bool) -> None:
        """Write text or binary frames, as the request came."""
        self._socket, self._is_text = socket, is_text

    @property
    def is_gone(self) -> bool:
        """Whether the client cannot get this answer any more."""
        return self._socket.is_gone

    @property
    def on_gone(self) -> Callable[[], object] | None:
        """Called once, when the client goes before the response is complete; at once if it is gone already."""
        return self._socket.on_gone

    @on_gone.setter
    def on_gone(self, callback: Callable[[], object] | None) -> None:
        self._socket.on_gone = callback
        if self._socket.is_gone and callback is not None:
            callback()

    @property
    def backlog_bytes(self) -> int:
        """Bytes written here that the transport has not taken yet."""
        return self._socket.backlog_bytes

    def write(self, data: bytes) -> None:
        """Send one message."""
        if data:
            self._socket.write(data, is_text=self._is_text)
