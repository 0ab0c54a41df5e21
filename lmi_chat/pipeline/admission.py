"""Decide which jobs go to the engine now, which wait, and in which order; no HTTP, no engine.

A seat is one sequence's place in the engine. A flow is a user, or one request of nobody in particular: whichever flow
holds the fewest seats is next, and among equals they take turns, so that neither one user's flood nor the thousand
sequences of one request starve another's single sequence. Within one flow it is first come, first served. Where
priorities count, they go before that. Where adapters are served, whichever has the fewest seats is next among them and
the model alone, and within it the flow; a job of an adapter waits for the adapter's place in the engine's batch too.
"""

import asyncio
import itertools
from collections import Counter, OrderedDict, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from lmi_chat.adapters.places import BatchPlaces
from lmi_chat.errors import Busy


@dataclass(slots=True, eq=False)
class _Wish:
    user: "Flow"
    adapter: int
    count: int
    priority: int
    admitted: "asyncio.Future[None]" = field(init=False)
    is_waiting: bool = False
    is_wanted: bool = False  # it counts among those who wait for its adapter's place


Flow = str | int
"""A user's name, or a number of its own for each request of nobody in particular."""


class AdmissionQueue:
    """Limits sequences in the engine and requests in the queue.

    One flow holds at most `share` seats, so that another's first sequence finds one free.
    """

    def __init__(self, seats: int, queue: int, share: int | None = None, places: BatchPlaces | None = None) -> None:
        """`seats` and `share` (None: all of them) in sequences, `queue` in requests; `places`: of adapters, if any."""
        self._admission, self._free, self._queue = seats, seats, queue
        self._places = places
        if places is not None:
            places.on_change = self._admit
        self._share = seats if share is None else share
        self._held: Counter[Flow] = Counter()
        self._held_by_adapter: Counter[int] = Counter()  # 0: the model alone; counted where there are places
        self._waiting: OrderedDict[tuple[Flow, int], deque[_Wish]] = OrderedDict()  # by flow and adapter
        self._adapted: Counter[Flow] = Counter()  # waiting wishes that are for an adapter
        self.queued = 0
        self._numbers = itertools.count()

    def flow(self, user: str) -> Flow:
        """The flow of a request of `user`; "" is nobody in particular."""
        return user or next(self._numbers)

    @asynccontextmanager
    async def acquire(
        self,
        user: Flow,
        count: int,
        priority: int = 0,
        *,
        adapter: int = 0,
        wait_s: float | None = None,
        is_further: bool = False,
    ) -> AsyncIterator[None]:
        """Wait for seats for `count` sequences (at most all there are) and hold them in the block. Raises Busy.

        `user` is the flow, `adapter` the number of the job's adapter, whose place is held too; 0: the model alone. Of
        those who wait, a lower `priority` goes first; nobody waits for longer than `wait_s`. `is_further`: for a
        request that holds seats already, or has; the bound on the queue is not for it.
        """
        wish = _Wish(user, adapter, min(count, self._admission), priority)
        if (user, adapter) not in self._waiting and self._may_enter(wish) and not self._is_someone_next():
            self._seat(wish)
            self._weigh(user)
        else:
            try:
                async with asyncio.timeout(wait_s):
                    await self._wait(wish, is_further=is_further)
            except TimeoutError:
                text = f"no seat came free within {max(0.0, wait_s or 0.0):.1f} s; send the request again later"
                raise Busy(text) from None
        try:
            yield
        finally:
            self._give_back(wish)

    def _may_enter(self, wish: _Wish) -> bool:
        return wish.count <= self._free and self._is_able(wish)

    def _is_able(self, wish: _Wish) -> bool:
        """Whether it is seats alone that a wish waits for, not its flow's share or a place for its adapter."""
        if not self._has_share(wish):
            return False
        return not wish.adapter or self._places is None or self._places.may_enter(wish.adapter)

    def _has_share(self, wish: _Wish) -> bool:
        return not self._held[wish.user] or self._held[wish.user] + wish.count <= self._share

    def _is_someone_next(self) -> bool:
        """Whether somebody waits for seats alone: a newcomer must not pass."""
        return any(self._is_able(wishes[0]) for wishes in self._waiting.values())

    def _seat(self, wish: _Wish) -> None:
        self._free -= wish.count
        self._held[wish.user] += wish.count
        if self._places is not None:
            self._held_by_adapter[wish.adapter] += wish.count
            if wish.adapter:
                self._places.enter(wish.adapter)

    def _give_back(self, wish: _Wish) -> None:
        self._free += wish.count
        self._held[wish.user] -= wish.count
        if not self._held[wish.user]:
            del self._held[wish.user]
        self._weigh(wish.user)
        if self._places is not None:
            self._held_by_adapter[wish.adapter] -= wish.count
            if not self._held_by_adapter[wish.adapter]:
                del self._held_by_adapter[wish.adapter]
            if wish.adapter:
                self._places.leave(wish.adapter)  # which admits, too
                return
        self._admit()

    async def _wait(self, wish: _Wish, *, is_further: bool) -> None:
        if self.queued >= self._queue and not is_further:
            text = f"all {self._admission} seats and {self._queue} places in the queue are taken"
            raise Busy(f"{text}; send the request again later")
        wish.admitted = asyncio.get_running_loop().create_future()
        own = self._waiting.setdefault((wish.user, wish.adapter), deque())
        behind = sum(wish.priority < other.priority for other in own)  # they stand in order of priority: all at the end
        own.insert(len(own) - behind, wish)
        self.queued += 1
        wish.is_waiting = True
        if wish.adapter:
            self._adapted[wish.user] += 1
        self._want(wish)
        try:
            await wish.admitted
        except asyncio.CancelledError:
            if wish.admitted.cancelled():
                self._remove(wish)
                self._admit()
            else:  # admitted and cancelled in the same moment
                self._give_back(wish)
            raise

    def _weigh(self, user: Flow) -> None:
        """Let those of a flow, whose seats have changed, wait for places or not: whom its share keeps must not."""
        if user in self._adapted:
            for wish in [wish for (flow, _), wishes in self._waiting.items() if flow == user for wish in wishes]:
                self._want(wish)

    def _want(self, wish: _Wish) -> None:
        """Let a wish count among those who wait for its adapter's place, if it does: others may have to make room."""
        is_wanted = wish.is_waiting and self._has_share(wish)
        if not wish.adapter or self._places is None or is_wanted == wish.is_wanted:
            return
        wish.is_wanted = is_wanted
        if is_wanted:
            self._places.want(wish.adapter)
        else:
            self._places.unwant(wish.adapter)

    def _admit(self) -> None:
        """Admit who is next, as long as there is room; a big request at the head is waited for."""
        while (key := self._next()) is not None:
            wish = self._waiting[key][0]
            if wish.admitted.cancelled():  # its task has not run yet to say so
                self._remove(wish)
                continue
            if wish.count > self._free:
                return
            self._seat(wish)
            self._remove(wish)
            if key in self._waiting:
                self._waiting.move_to_end(key)
            wish.admitted.set_result(None)
            self._weigh(wish.user)

    def _next(self) -> "tuple[Flow, int] | None":
        """Choose, of those who wait for seats alone, by priority, fewest seats of adapter and of flow, and turn."""
        able = (key for key, wishes in self._waiting.items() if self._is_able(wishes[0]))
        return min(able, key=self._rank, default=None)

    def _rank(self, key: "tuple[Flow, int]") -> tuple[int, int, int]:
        user, adapter = key
        return self._waiting[key][0].priority, self._held_by_adapter[adapter], self._held[user]

    def _remove(self, wish: _Wish) -> None:
        """Let a wish wait no longer. Others may be admitted meanwhile, in the place that was kept for it."""
        if not wish.is_waiting:
            return
        key = wish.user, wish.adapter
        self._waiting[key].remove(wish)
        if not self._waiting[key]:
            del self._waiting[key]
        self.queued -= 1
        wish.is_waiting = False
        if wish.adapter:
            self._adapted[wish.user] -= 1
            if not self._adapted[wish.user]:
                del self._adapted[wish.user]
        self._want(wish)
