"""Write to one connection: order, backlog, stalls and closing, one write per turn of the event loop."""

import asyncio
import contextlib
import fcntl
import socket
import struct
import termios
from asyncio import TimerHandle
from collections.abc import Callable
from typing import Any

from lmi_chat.limits import ConnectionLimits

READ_WINDOWS = 10
"""A large answer is read in at most so many windows of `write_stall_s`."""


class WriteBatch:
    """Collects writes during one event-loop turn and flushes each connection once.

    All of the engine's waiting messages are taken in one turn, so a server that falls behind writes less often.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        self.loop = loop
        self._waiting: list[ConnectionWriter] = []

    def add(self, writer: "ConnectionWriter") -> None:
        """Let `writer` flush soon."""
        if not self._waiting:
            self.loop.call_soon(self._flush)
        self._waiting.append(writer)

    def _flush(self) -> None:
        waiting, self._waiting = self._waiting, []
        for writer in waiting:
            writer.flush()


class ConnectionWriter(asyncio.Transport):
    """Writes to a connection, as uvicorn's transport: order, backlog, stalls and closing."""

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
        self._written_bytes = 0  # in all
        self._due_bytes = 0  # what the client must take in each window
        self._mark_bytes = 0  # how many it must have taken at the end of the present window

    def push(self, chunk: bytes) -> None:
        """Write at the end of this turn, or later while the transport is full; abort the connection over the limit."""
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
        """Write for uvicorn, after all that was pushed."""
        if self._is_closing:
            return
        if self._pending:
            self._pending.append(bytes(data))
            self._flush()
        else:
            self._written_bytes += len(data)
            self.transport.write(data)

    def flush(self) -> None:
        """Write the backlog, unless the transport is full."""
        if not self._is_paused and not self._is_closing:
            self._flush()

    def _flush(self) -> None:
        if self._pending:
            pending, self._pending = self._pending, []
            joined = b"".join(pending) if len(pending) > 1 else pending[0]
            self.backlog_bytes = 0
            self._written_bytes += len(joined)
            self.transport.write(joined)

    def pause(self) -> None:
        """Note that the transport is full."""
        self._is_paused = True
        self.watch()

    def resume(self) -> None:
        """Note that the transport has room again, and write the backlog."""
        self._is_paused = False
        if not self._is_closing:
            self._unwatch()
            self._flush()

    def watch(self) -> None:
        """Cut the client off from now on if it takes too little in `write_stall_s`.

        That is less than `receive_bytes`, or than a tenth of what waits now, and not all that waits.
        """
        if self._stall is None:
            self._due_bytes = max(self._edge.receive_bytes, self._measure() // READ_WINDOWS)
            self._open_window()

    def _open_window(self) -> None:
        unsent_bytes = self._measure()
        self._mark_bytes = self._written_bytes - unsent_bytes + min(self._due_bytes, unsent_bytes)
        self._stall = self._loop.call_later(self._edge.write_stall_s, self._check_stall)

    def _unwatch(self) -> None:
        if self._stall is not None:
            self._stall.cancel()
            self._stall = None

    def _check_stall(self) -> None:
        self._stall = None
        if self._written_bytes - self._measure() >= self._mark_bytes:
            self._open_window()
        else:
            self.abort()

    def _measure(self) -> int:
        """Count the bytes not taken yet, the kernel's too: a slow reader's progress may show only there for a while."""
        size = self.transport.get_write_buffer_size()
        try:
            queue = fcntl.ioctl(self.transport.get_extra_info("socket").fileno(), termios.TIOCOUTQ, bytes(4))
        except (AttributeError, OSError, ValueError):  # no socket, or none that can tell
            return size
        return size + int(struct.unpack("i", queue)[0])

    def close(self) -> None:
        """Send the backlog, then close."""
        if not self._is_closing:
            self._flush()
            self._is_closing = True
            self.watch()  # unsent bytes would keep the socket open for as long as the client likes
            self.on_close()

    def abort(self) -> None:
        """Reset the connection: a broken answer must not look complete, nor the kernel keep unsent bytes."""
        self._is_closing = True
        self._pending.clear()
        raw = self.transport.get_extra_info("socket")
        if raw is not None:
            with contextlib.suppress(OSError):
                raw.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.transport.abort()

    def disconnect(self) -> None:
        """Note that the connection is lost: nothing is written or waited for any more."""
        self._is_closing = True
        self._pending.clear()
        self.backlog_bytes = 0
        self._unwatch()
        self.on_close = self.transport.close  # no cycle of references for the collector

    def is_closing(self) -> bool:
        """Whether nothing more is taken."""
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
