"""Decide which jobs go to the engine now, which wait, and in which order; no HTTP, no engine.

A seat is one sequence's place in the engine. A flow is a user, or one request of nobody in particular: whichever flow
holds the fewest seats is next, and among equals they take turns, so that neither one user's flood nor the thousand
sequences of one request starve another's single sequence. Within one flow it is first come, first served. Where
priorities count, they go before that.
"""

import asyncio
import itertools
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from lmi_chat.errors import Busy


@dataclass(slots=True, eq=False)
class _Wish:
    count: int
    priority: int
    admitted: "asyncio.Future[None]"


Flow = str | int
"""A user's name, or a number of its own for each request of nobody in particular."""


class AdmissionQueue:
    """Limits sequences in the engine and requests in the queue.

    One flow holds at most `share` seats, so that another's first sequence finds one free.
    """

    def __init__(self, seats: int, queue: int, share: int | None = None) -> None:
        """`seats` and `share` (None: all of them) in sequences, `queue` in requests."""
        self._admission, self._free, self._queue = seats, seats, queue
        self._share = seats if share is None else share
        self._held: Counter[Flow] = Counter()
        self._waiting: OrderedDict[Flow, deque[_Wish]] = OrderedDict()
        self.queued = 0
        self._numbers = itertools.count()

    def flow(self, user: str) -> Flow:
        """The flow of a request of `user`; "" is nobody in particular."""
        return user or next(self._numbers)

    @asynccontextmanager
    async def acquire(
        self, user: Flow, count: int, priority: int = 0, *, wait_s: float | None = None, is_further: bool = False
    ) -> AsyncIterator[None]:
        """Wait for seats for `count` sequences (at most all there are) and hold them in the block. Raises Busy.

        `user` is the flow. Of those who wait, a lower `priority` goes first; nobody waits for longer than `wait_s`.
        `is_further`: for a request that holds seats already, or has; the bound on the queue is not for it.
        """
        count = min(count, self._admission)
        if user not in self._waiting and self._may_enter(user, count) and not self._is_someone_next():
            self._seat(user, count)
        else:
            try:
                async with asyncio.timeout(wait_s):
                    await self._wait(user, count, priority, is_further=is_further)
            except TimeoutError:
                text = f"no seat came free within {max(0.0, wait_s or 0.0):.1f} s; send the request again later"
                raise Busy(text) from None
        try:
            yield
        finally:
            self._give_back(user, count)

    def _may_enter(self, user: Flow, count: int) -> bool:
        return count <= self._free and not self._is_over_share(user, count)

    def _is_over_share(self, user: Flow, count: int) -> bool:
        return self._held[user] > 0 and self._held[user] + count > self._share

    def _is_someone_next(self) -> bool:
        """Whether somebody waits for seats, not for a share: a newcomer must not pass."""
        return any(not self._is_over_share(user, wishes[0].count) for user, wishes in self._waiting.items())

    def _seat(self, user: Flow, count: int) -> None:
        self._free -= count
        self._held[user] += count

    def _give_back(self, user: Flow, count: int) -> None:
        self._free += count
        self._held[user] -= count
        if not self._held[user]:
            del self._held[user]
        self._admit()

    async def _wait(self, user: Flow, count: int, priority: int, *, is_further: bool) -> None:
        if self.queued >= self._queue and not is_further:
            text = f"all {self._admission} seats and {self._queue} places in the queue are taken"
            raise Busy(f"{text}; send the request again later")
        wish = _Wish(count, priority, asyncio.get_running_loop().create_future())
        own = self._waiting.setdefault(user, deque())
        behind = sum(priority < other.priority for other in own)  # they stand in order of priority: all at the end
        own.insert(len(own) - behind, wish)
        self.queued += 1
        try:
            await wish.admitted
        except asyncio.CancelledError:
            if wish.admitted.cancelled():
                self._remove(user, wish)
                self._admit()
            else:  # admitted and cancelled in the same moment
                self._give_back(user, count)
            raise

    def _admit(self) -> None:
        """Admit who is next, as long as there is room; a big request at the head is waited for."""
        while (user := self._next_user()) is not None:
            wish = self._waiting[user][0]
            if wish.admitted.cancelled():  # its task has not run yet to say so
                self._remove(user, wish)
                continue
            if wish.count > self._free:
                return
            self._remove(user, wish)
            if user in self._waiting:
                self._waiting.move_to_end(user)
            self._seat(user, wish.count)
            wish.admitted.set_result(None)

    def _next_user(self) -> Flow | None:
        """Choose, of those within their share, the lowest priority, then the fewest seats, then the first in turn."""
        users = (user for user, wishes in self._waiting.items() if not self._is_over_share(user, wishes[0].count))
        return min(users, key=lambda user: (self._waiting[user][0].priority, self._held[user]), default=None)

    def _remove(self, user: Flow, wish: _Wish) -> None:
        wishes = self._waiting.get(user, deque())
        if wish in wishes:
            wishes.remove(wish)
            self.queued -= 1
        if not wishes:
            self._waiting.pop(user, None)
