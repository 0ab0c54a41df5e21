"""Admission: who may go to the engine now, who waits, and in which order. No HTTP, no engine.

Users take turns: of those who wait, each is admitted once before any of them is admitted again, so that one user's
flood does not starve another's single request. Within one user it is first come, first served.
"""

import asyncio
from collections import OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from lmi_chat.errors import Busy


@dataclass(slots=True, eq=False)
class _Wish:
    count: int
    admitted: "asyncio.Future[None]"


class Seats:
    """So many sequences may be in the engine at once, so many requests may wait beyond them."""

    def __init__(self, seats: int, queue: int) -> None:
        """`seats` in sequences, `queue` in requests."""
        self._seats, self._free, self._queue = seats, seats, queue
        self._waiting: OrderedDict[str, deque[_Wish]] = OrderedDict()
        self.queued = 0

    @asynccontextmanager
    async def take(self, user: str, count: int) -> AsyncIterator[None]:
        """Hold seats for `count` sequences (at most all there are), after waiting one's turn. Raises Busy."""
        count = min(count, self._seats)
        if self.queued or count > self._free:
            await self._wait(user, count)
        else:
            self._free -= count
        try:
            yield
        finally:
            self._give_back(count)

    async def _wait(self, user: str, count: int) -> None:
        if self.queued >= self._queue:
            text = f"all {self._seats} seats and {self._queue} places in the queue are taken"
            raise Busy(f"{text}; send the request again later")
        wish = _Wish(count, asyncio.get_running_loop().create_future())
        self._waiting.setdefault(user, deque()).append(wish)
        self.queued += 1
        try:
            await wish.admitted
        except asyncio.CancelledError:
            if wish.admitted.cancelled():
                self._remove(user, wish)
                self._admit()
            else:  # admitted and cancelled in the same moment
                self._give_back(count)
            raise

    def _give_back(self, count: int) -> None:
        self._free += count
        self._admit()

    def _admit(self) -> None:
        """Let in who is next, as long as there is room; a big request at the head is waited for."""
        while self._waiting:
            user, wishes = next(iter(self._waiting.items()))
            wish = wishes[0]
            if wish.admitted.cancelled():  # its task has not run yet to say so
                self._remove(user, wish)
                continue
            if wish.count > self._free:
                return
            self._remove(user, wish)
            if user in self._waiting:
                self._waiting.move_to_end(user)
            self._free -= wish.count
            wish.admitted.set_result(None)

    def _remove(self, user: str, wish: _Wish) -> None:
        wishes = self._waiting.get(user, deque())
        if wish in wishes:
            wishes.remove(wish)
            self.queued -= 1
        if not wishes:
            self._waiting.pop(user, None)
