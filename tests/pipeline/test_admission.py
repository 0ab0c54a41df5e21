"""Admission: bounds, turns, and nothing lost when a waiting request goes."""

import asyncio
import random

import pytest

from lmi_chat.errors import Busy
from lmi_chat.pipeline.admission import AdmissionQueue


class Crowd:
    """Requests that note when they are admitted and stay until they are told to go."""

    def __init__(self, seats: AdmissionQueue) -> None:
        self.seats, self.admitted = seats, list[str]()
        self.go: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def come(self, name: str, user: str = "", count: int = 1, priority: int = 0) -> None:
        self.go[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._stay(name, user, count, priority))
        await asyncio.sleep(0)

    async def _stay(self, name: str, user: str, count: int, priority: int) -> None:
        async with self.seats.acquire(self.seats.flow(user), count, priority):
            self.admitted.append(name)
            await self.go[name].wait()

    async def leave(self, name: str) -> None:
        self.go[name].set()
        await self.tasks[name]
        await asyncio.sleep(0)
        await asyncio.sleep(0)


async def test_users_take_turns() -> None:
    crowd = Crowd(AdmissionQueue(1, 100))
    for number in range(5):
        await crowd.come(f"a{number}", "a")
    await crowd.come("b0", "b")
    await crowd.come("b1", "b")
    await crowd.come("c0", "c")
    for _ in range(8):
        await crowd.leave(crowd.admitted[-1])
    assert crowd.admitted == ["a0", "a1", "b0", "c0", "a2", "b1", "a3", "a4"]


async def test_a_lower_priority_goes_first_and_among_equals_in_turn() -> None:
    crowd = Crowd(AdmissionQueue(1, 100))
    for name, user, priority in (
        ("first", "a", 0),
        ("flex", "a", 1),
        ("a0", "a", 0),
        ("a1", "a", 0),
        ("flex of b", "b", 1),
        ("b0", "b", 0),
        ("priority", "a", -1),
    ):
        await crowd.come(name, user, priority=priority)
    for _ in range(7):
        await crowd.leave(crowd.admitted[-1])
    assert crowd.admitted == ["first", "priority", "b0", "a0", "a1", "flex of b", "flex"]


async def test_one_request_of_another_user_passes_a_flood() -> None:
    crowd = Crowd(AdmissionQueue(4, 100))
    for number in range(64):
        await crowd.come(f"flood{number}", "flood")
    await crowd.come("single", "other")
    await crowd.leave("flood0")
    await crowd.leave("flood1")
    assert "single" in crowd.admitted[:6]
    for task in crowd.tasks.values():
        task.cancel()


async def test_a_named_user_leaves_seats_to_others() -> None:
    crowd = Crowd(AdmissionQueue(5, 100, share=3))
    for number in range(6):
        await crowd.come(f"flood{number}", "flood")
    assert crowd.admitted == ["flood0", "flood1", "flood2"]
    await crowd.come("single", "other")
    await crowd.come("nobody")
    assert crowd.admitted[3:] == ["single", "nobody"]
    await crowd.come("late", "third")
    await crowd.leave("flood0")
    assert crowd.admitted[5:] == ["late"], "the flood had its share, so the newcomer is next"
    await crowd.leave("flood1")
    assert crowd.admitted[6:] == ["flood3"]
    for task in crowd.tasks.values():
        task.cancel()


async def test_nobody_in_particular_has_no_share_and_a_big_request_passes_its_own() -> None:
    crowd = Crowd(AdmissionQueue(5, 100, share=3))
    for number in range(5):
        await crowd.come(f"n{number}")
    assert len(crowd.admitted) == 5
    for number in range(5):
        await crowd.leave(f"n{number}")
    await crowd.come("big", "someone", count=5)
    assert crowd.admitted[-1] == "big"
    await crowd.leave("big")


async def test_more_than_the_queue_is_refused() -> None:
    crowd = Crowd(AdmissionQueue(2, 1))
    for name in ("a", "b", "c"):
        await crowd.come(name)
    with pytest.raises(Busy, match="all 2 seats and 1 places in the queue are taken"):
        async with crowd.seats.acquire("", 1):
            pass
    await crowd.leave("a")
    assert crowd.admitted == ["a", "b", "c"]
    await crowd.leave("b")
    await crowd.leave("c")
    async with crowd.seats.acquire("", 2):
        assert crowd.seats.queued == 0


async def test_who_has_waited_long_enough_is_refused_and_leaves_its_place() -> None:
    crowd = Crowd(AdmissionQueue(1, 1))
    await crowd.come("a")
    with pytest.raises(Busy, match=r"no seat came free within 0\.0 s"):
        async with crowd.seats.acquire("", 1, wait_s=0.01):
            pass
    assert crowd.seats.queued == 0
    await crowd.come("b")
    await crowd.leave("a")
    assert crowd.admitted == ["a", "b"]
    await crowd.leave("b")
    async with crowd.seats.acquire("", 1, wait_s=0.0):  # a free one is never too late
        assert crowd.seats.queued == 0


async def test_a_big_request_waits_for_its_seats_and_is_not_passed() -> None:
    crowd = Crowd(AdmissionQueue(4, 10))
    await crowd.come("small", count=1)
    await crowd.come("big", count=4)
    await crowd.come("late", count=1)
    assert crowd.admitted == ["small"]
    await crowd.leave("small")
    assert crowd.admitted == ["small", "big"]
    await crowd.leave("big")
    await crowd.leave("late")
    async with crowd.seats.acquire("", 1000):
        pass


async def test_whoever_goes_while_waiting_leaves_nothing_behind() -> None:
    """Random arrivals, departures and cancellations; afterwards all seats are free again."""
    rng, crowd = random.Random(4), Crowd(AdmissionQueue(3, 20, share=2))
    for number in range(300):
        await crowd.come(f"r{number}", rng.choice("abc"), rng.randint(1, 3))
        for name, task in list(crowd.tasks.items()):
            action = rng.random()
            if action < 0.2:
                task.cancel()
            elif action < 0.5:
                crowd.go[name].set()
        if rng.random() < 0.3:
            await asyncio.sleep(0)
    for task in crowd.tasks.values():
        task.cancel()
    await asyncio.gather(*crowd.tasks.values(), return_exceptions=True)
    assert crowd.seats.queued == 0
    async with asyncio.timeout(1), crowd.seats.acquire("x", 3):
        pass
