"""Count the bytes of all request bodies that are being read or parsed, up to a bound.

Where a new body finds no room, the one that has been coming for the longest is refused in its place: an honest client's
body is complete within seconds, so that clients which send slowly can keep nobody out.
"""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Self

from lmi_chat.errors import Busy
from lmi_chat.observability import refusals

BOUND = "body_bytes_in_flight"


class Body:
    """One request's body; counted from its first bytes until it is parsed."""

    __slots__ = ("_budget", "_is_refused", "_reader", "size")

    def __init__(self, budget: "BodyBudget") -> None:
        """Belong to the present task, which reads it."""
        self.size = 0
        self._budget = budget
        self._is_refused = False
        self._reader = asyncio.current_task()

    def __enter__(self) -> Self:
        """Be counted in the block, at most."""
        return self

    def __exit__(self, *_: object) -> None:
        """Be counted no longer."""
        self._budget.complete(self)
        self._budget.free(self)

    def add(self, size: int) -> None:
        """Count `size` more bytes. Raises Busy where there is no room."""
        self._budget.make_room(size, self)
        self.size += size

    def free(self) -> None:
        """Give the bytes back: the body is parsed, or is not needed any more."""
        self._budget.free(self)

    def refuse(self) -> None:
        """Wake the reader with a refusal."""
        self.free()
        self._is_refused = True
        if self._reader is not None:
            self._reader.cancel()

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Read the body in this block; it is complete at its end. Raises Busy when it is refused meanwhile."""
        try:
            yield
        except asyncio.CancelledError:
            if not self._is_refused or (self._reader is not None and self._reader.uncancel()):
                raise
            raise self._budget.refusal() from None
        finally:
            self._budget.complete(self)


class BodyBudget:
    """Counts the bytes of all bodies that are being read or parsed."""

    def __init__(self, most: int = 256 * 2**20) -> None:
        """Allow `most` bytes; not fewer than the largest body that is read at all."""
        self._most = most
        self.bytes_in_flight = 0
        self._coming: dict[Body, None] = {}  # by age

    def body(self) -> Body:
        """Count one body, at most to the end of a block."""
        body = Body(self)
        self._coming[body] = None
        return body

    def make_room(self, size: int, body: Body) -> None:
        """Count `size` bytes of `body`, which others may have to make room for. Raises Busy."""
        while self.bytes_in_flight + size > self._most:
            oldest = next((other for other in self._coming if other.size), None)
            if oldest is None or oldest is body:
                refusals.record(BOUND, self.refusal().message)
                raise self.refusal()
            refusals.record(BOUND, "the body that had been coming for the longest made room for another")
            self.complete(oldest)
            oldest.refuse()
        self.bytes_in_flight += size

    def complete(self, body: Body) -> None:
        """Note that `body` comes no longer: nobody waits for its client."""
        self._coming.pop(body, None)

    def free(self, body: Body) -> None:
        """Count `body` no longer."""
        self.bytes_in_flight -= body.size
        body.size = 0

    def refusal(self) -> Busy:
        """Say that there is no room."""
        return Busy(
            f"{self.bytes_in_flight} bytes of request bodies are being read and parsed, of at most {self._most} "
            f"({BOUND}); send the request again later"
        )
