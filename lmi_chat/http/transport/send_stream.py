"""Stream an answer under a server that is not ours, over ASGI's own `send` and `receive`."""

import asyncio
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from lmi_chat.http.transport.body_stream import OUTLET, BodyStream
from lmi_chat.http.transport.websocket import FrameStream
from lmi_chat.limits import ConnectionLimits


class SendStream:
    """Takes the place of BodyStream under another protocol class: the same interface, one more task.

    What is written waits in a bounded buffer until the server's `send` takes it. A client that leaves, by `receive`'s
    word or by `send`'s, that lets the buffer run over or takes nothing for `write_stall_s`, is gone.
    """

    def __init__(self, receive: Receive, send: Send, edge: ConnectionLimits | None = None) -> None:
        """Belong to the one request whose `receive` and `send` these are; `edge` None: the usual limits."""
        self.is_gone = False  # the client cannot get this answer any more
        self.backlog_bytes = 0
        self._receive, self._send, self._edge = receive, send, edge or ConnectionLimits()
        self._on_gone: Callable[[], object] | None = None
        self._pending: list[bytes] = []
        self._is_sending = False  # the server's `send` has data and has not come back yet
        self._has_room = asyncio.Event()  # nothing waits: an ASGI message may go out behind what was written
        self._has_room.set()
        self._left = asyncio.Event()
        self._is_started = self._is_complete = False
        self._failure: Exception | None = None  # of the server's `send`
        self._writer: asyncio.Task[None] | None = None
        self._watch: asyncio.Task[None] | None = None

    @property
    def on_gone(self) -> Callable[[], object] | None:
        """Called once, when the client is gone before the response is complete; at once if it is already."""
        return self._on_gone

    @on_gone.setter
    def on_gone(self, callback: Callable[[], object] | None) -> None:
        self._on_gone = callback
        if self.is_gone:
            self._call_on_gone()

    def write(self, data: bytes) -> None:
        """Send `data` soon; drop it when the client is gone.

        Never blocks. Raises RuntimeError outside of a started, incomplete response.
        """
        if self.is_gone or not data:
            return
        if not self._is_started or self._is_complete:
            raise RuntimeError("write() belongs between the start and the end of a response.")
        self._pending.append(data)
        self.backlog_bytes += len(data)
        if self._is_sending and self.backlog_bytes > self._edge.backlog_bytes:
            self.disconnect()
        elif self._has_room.is_set():
            self._has_room.clear()
            self._writer = asyncio.create_task(self._write())

    async def _write(self) -> None:
        """Send the buffer, in as few messages as the server's pace allows."""
        while self._pending:
            data, self._pending, self.backlog_bytes = b"".join(self._pending), [], 0
            self._is_sending = True
            await self._put({"type": "http.response.body", "body": data, "more_body": True})
            self._is_sending = False
        self._has_room.set()

    async def _put(self, message: Message) -> None:
        try:
            async with asyncio.timeout(self._edge.write_stall_s):
                await self._send(message)
        except OSError:  # ASGI's word for a client that is gone; TimeoutError is one too
            self.disconnect()
        except Exception as error:  # noqa: BLE001 the server's own; the application's task raises it
            self._failure = error
            self.disconnect()

    def disconnect(self) -> None:
        """Note that the client is gone and wake who waits for it; nothing is lost of a complete response."""
        if self.is_gone or self._is_complete:
            return
        self.is_gone = True
        self._pending.clear()
        self.backlog_bytes = 0
        self._left.set()
        self._has_room.set()
        self._call_on_gone()

    def _call_on_gone(self) -> None:
        callback, self._on_gone = self._on_gone, None
        if callback is not None:
            callback()

    async def receive(self) -> Message:
        """Receive from the server; once the body is complete, wait here for the client to leave."""
        if self._watch is not None:
            await self._left.wait()
            return {"type": "http.disconnect"}
        message = await self._receive()
        if message["type"] == "http.disconnect":
            self.disconnect()
        elif not message.get("more_body", False):
            self._watch = asyncio.create_task(self._listen())
        return message

    async def _listen(self) -> None:
        while (await self._receive())["type"] != "http.disconnect":
            pass
        self.disconnect()
        self._left.set()

    async def send(self, message: Message) -> None:
        """Send to the server, after all that was written."""
        await self._has_room.wait()
        if self.is_gone:
            return
        if message["type"] == "http.response.start":
            self._is_started = True
        elif message["type"] == "http.response.body" and not message.get("more_body", False):
            self._is_complete = True
        await self._put(message)

    async def serve(self, app: ASGIApp, scope: Scope) -> None:
        """Answer one request by `app`, which finds this where a BodyStream would be. Raises what `send` did.

        A client that is gone cancels `app`, which is no error: the response then ends without its last message, and
        the server shows by its own means that it is incomplete.
        """
        given = scope.get("extensions")
        scope["extensions"] = {**(given or {}), OUTLET: self}
        try:
            await app(scope, self.receive, self.send)
        except asyncio.CancelledError:
            if not self.is_gone:
                raise
        finally:
            self._on_gone = None
            scope["extensions"] = given or {}
            await self._end()
        if self._failure is not None:
            raise self._failure

    async def _end(self) -> None:
        tasks = [task for task in (self._writer, self._watch) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


AnyBodyStream = BodyStream | SendStream | FrameStream
