"""Decide which adapters the engine's batch has places for now, and which wait for one, in fair turns.

A batch has places for `max_loras` different adapters. The engine passes over a request for which there is none, as long
as the others' adapters have requests: one adapter's flood would starve another. It also counts a pinned adapter's place
as free, and a batch that then has one adapter too many ends it. So the places are given out here: an adapter has one
while it has jobs, a pinned one for good. Where others wait, an adapter gives its place up once it has begun what waited
when it got the place, `turn` jobs at most.
"""

import asyncio
import itertools
from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass


@dataclass(slots=True)
class _Place:
    """An adapter's place: `jobs` that run, jobs that it may begin `left` before it makes room, pins that keep it."""

    jobs: int = 0
    left: int = 0
    pins: int = 0


class BatchPlaces:
    """The places of the engine's batch, by the number of an adapter's version."""

    def __init__(self, count: int, turn: int) -> None:
        """Give out `count` places, in turns of `turn` jobs."""
        self._count, self._turn = count, turn
        self._places: dict[int, _Place] = {}  # the longest held first
        self._wanted: Counter[int] = Counter()  # waiting jobs
        self._line: dict[int, None] = {}  # adapters that wait for a place, in the order of their turns
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []
        self.on_change: Callable[[], None] = _ignore

    def may_enter(self, adapter: int) -> bool:
        """Whether a job of `adapter` may begin now. Asked of each that waits: nothing here grows with their number."""
        if (place := self._places.get(adapter)) is not None:
            return place.left > 0 or place.pins > 0 or not self._must_go(adapter)
        free = self._count - len(self._places)
        if adapter in self._line:
            return adapter in itertools.islice(self._line, free)
        return free > len(self._line)

    def _must_go(self, adapter: int) -> bool:
        """Whether an adapter makes room: so many go, the longest held first, as there are others that wait."""
        done = [number for number, place in self._places.items() if not place.pins and place.left <= 0]
        return adapter in done[: len(self._line)]

    def enter(self, adapter: int) -> None:
        """Begin a job of `adapter`, which may enter; if it waited, it counts as wanted until now."""
        place = self._places.get(adapter)
        if place is None:
            place = self._places[adapter] = _Place(left=min(self._turn, max(1, self._wanted[adapter])))
            self._line.pop(adapter, None)
        place.jobs += 1
        place.left -= 1

    def leave(self, adapter: int) -> None:
        """End a job of `adapter`."""
        self._places[adapter].jobs -= 1
        self._free_if_over(adapter)
        self.change()

    def _free_if_over(self, adapter: int) -> bool:
        """Give up a place without jobs, unless more are about to begin in the same turn; True where it is free now."""
        place = self._places.get(adapter)
        if place is None or place.jobs or place.pins or (place.left > 0 and self._wanted[adapter]):
            return False
        del self._places[adapter]
        if self._wanted[adapter]:
            self._line[adapter] = None  # behind all who wait
        return True

    def want(self, adapter: int) -> None:
        """Note that a job of `adapter` waits."""
        self._wanted[adapter] += 1
        if adapter not in self._places:
            self._line.setdefault(adapter)

    def unwant(self, adapter: int) -> None:
        """Note that a job of `adapter` waits no longer."""
        self._wanted[adapter] -= 1
        if not self._wanted[adapter]:
            del self._wanted[adapter]
            self._line.pop(adapter, None)
            if self._free_if_over(adapter):
                self.change()

    @asynccontextmanager
    async def acquire(self, adapter: int, *, is_kept: bool = False) -> AsyncIterator[None]:
        """Wait for a place for `adapter`, and have it in this block; `is_kept`: whoever else waits."""
        await self._wait(adapter)
        if is_kept:
            self._places[adapter].pins += 1
        try:
            yield
        finally:
            self._places[adapter].pins -= is_kept
            self.leave(adapter)

    async def _wait(self, adapter: int) -> None:
        if self.may_enter(adapter):
            self.enter(adapter)
            return
        waiter = (adapter, asyncio.get_running_loop().create_future())
        self._waiting.append(waiter)
        self.want(adapter)
        try:
            await waiter[1]
        except asyncio.CancelledError:
            if waiter[1].done() and not waiter[1].cancelled():
                self.leave(adapter)
            raise
        finally:
            if waiter in self._waiting:
                self._waiting.remove(waiter)
                self.unwant(adapter)
                self.change()

    def change(self) -> None:
        """Let all begin that may now."""
        for waiter in [*self._waiting]:
            adapter, admitted = waiter
            if not admitted.done() and self.may_enter(adapter):
                self.enter(adapter)
                self._waiting.remove(waiter)
                self.unwant(adapter)
                admitted.set_result(None)
        self.on_change()


def _ignore() -> None:
    """Nobody else waits."""
