"""Hold the open connections of one server below a bound: the one that waits longest for its client makes room.

What is being answered is never closed for a newcomer. Where nothing else is open, a newcomer is still read as far as
its head, and refused there unless it asks for one of the paths that are always answered.
"""

import resource
from collections.abc import Collection
from typing import Protocol

from lmi_chat.errors import Busy, Error
from lmi_chat.observability import refusals
from lmi_chat.observability.access_log import RequestLog
from lmi_chat.text import one_line

BOUND = "max_connections"
PATH_BYTES = 200  # of a path in the log
SPARE, SPARE_PART = 32, 4
"""So many connections more than allowed, and at most such a part of those, are read as far as their head."""
RESERVED, RESERVED_PART = 24, 4
"""Descriptors that are left to all else in this process: so many, or such a part of all."""


class Connection(Protocol):
    """What can be asked to make room."""

    @property
    def is_waiting_for_client(self) -> bool:
        """Whether nothing of it is being answered."""

    def make_room(self, *, at_once: bool) -> None:
        """End, unless `at_once` with an answer where one is owed."""


class Connections:
    """The open connections of one server, by the time of their last request."""

    def __init__(self, most: int, always: Collection[str] = (), log: RequestLog | None = None) -> None:
        """Allow `most`; the paths `always` are answered beyond that. `log` hears of what the transport refuses."""
        self.most, self.always = most, frozenset(always)
        self.spare = max(1, min(SPARE, most // SPARE_PART))
        self._log = log
        self._open: dict[Connection, None] = {}
        self._leaving: set[Connection] = set()  # have made room, and are not closed yet

    def add(self, connection: Connection) -> bool:
        """Take a new connection, in place of the oldest that waits for its client. False: there is no room at all."""
        if len(self._open) >= self.most:
            oldest = next((other for other in self._open if other.is_waiting_for_client), None)
            if oldest is not None:
                refusals.record(BOUND, f"{self.most} connections are open; one that waited for its client made room")
                del self._open[oldest]
                self._leaving.add(oldest)
                oldest.make_room(at_once=len(self._leaving) > self.spare)
            elif len(self._open) >= self.most + self.spare:
                refusals.record(BOUND, f"{len(self._open)} connections are open and in use; a new one was closed")
                return False
        self._open[connection] = None
        return True

    def touch(self, connection: Connection) -> None:
        """Note that a connection has brought a request."""
        if connection in self._open:
            del self._open[connection]
            self._open[connection] = None

    def remove(self, connection: Connection) -> None:
        """Note that a connection is closed."""
        self._open.pop(connection, None)
        self._leaving.discard(connection)

    def record(self, peer: str, method: str, path: str, error: Error) -> None:
        """Log a request that is refused before the application hears of it."""
        if self._log is not None:
            path = one_line(path, PATH_BYTES)
            self._log.audit(peer=peer, method=method, path=path, status=error.status, owner="", refusal=error)

    def check(self, path: str) -> None:
        """Raise Busy where more connections are in use than allowed, unless `path` is always answered."""
        if len(self._open) > self.most and path not in self.always:
            refusals.record(BOUND, f"a request was refused: {len(self._open)} connections are open and in use")
            raise Busy(f"more than {self.most} connections are in use ({BOUND}); send the request again later")


def most_connections(wished: int) -> int:
    """Raise this process's limit of descriptors as far as it may be, and give what it leaves of `wished`."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    if hard == resource.RLIM_INFINITY:
        return wished
    room = hard - max(RESERVED, hard // RESERVED_PART)
    return max(1, min(wished, max(room - SPARE, room * SPARE_PART // (SPARE_PART + 1))))
