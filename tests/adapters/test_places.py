"""Places in a batch: never more adapters than there are, fair turns, and nothing lost when a waiting job goes."""

import asyncio
import random
from contextlib import AsyncExitStack

import pytest

from lmi_chat.adapters.places import BatchPlaces
from lmi_chat.pipeline.admission import AdmissionQueue


class Jobs:
    """Jobs that note when they begin, and run until they are told to end."""

    def __init__(self, queue: AdmissionQueue) -> None:
        self.queue, self.began = queue, list[str]()
        self.ends: dict[str, asyncio.Event] = {}
        self.tasks: dict[str, asyncio.Task[None]] = {}

    async def come(self, name: str, adapter: int, user: str = "", count: int = 1) -> None:
        self.ends[name] = asyncio.Event()
        self.tasks[name] = asyncio.create_task(self._run(name, adapter, user, count))
        await asyncio.sleep(0)

    async def _run(self, name: str, adapter: int, user: str, count: int) -> None:
        async with self.queue.acquire(self.queue.flow(user), count, adapter=adapter):
            self.began.append(name)
            await self.ends[name].wait()

    async def end(self, name: str) -> None:
        self.ends[name].set()
        await self.tasks[name]
        for _ in range(3):
            await asyncio.sleep(0)


def jobs(seats: int, places: int, turn: int = 4, share: int | None = None) -> tuple[Jobs, BatchPlaces]:
    own = BatchPlaces(places, turn)
    return Jobs(AdmissionQueue(seats, 1000, share, own)), own


async def test_a_flood_on_the_only_place_does_not_starve_anothers_job() -> None:
    crowd, _ = jobs(seats=2, places=1)
    for number in range(20):
        await crowd.come(f"flood{number}", 1)
    await crowd.come("other", 2)
    await crowd.come("base", 0)
    assert crowd.began == ["flood0", "flood1"]
    await crowd.end("flood0")
    assert crowd.began[2:] == ["base"]  # the model alone needs no place
    await crowd.end("flood1")
    assert crowd.began[3:] == ["other"]  # before eighteen that came earlier
    await crowd.end("base")
    await crowd.end("other")
    assert crowd.began[4:] == ["flood2", "flood3"]


async def test_a_turn_ends_with_what_waited_when_it_began() -> None:
    crowd, _ = jobs(seats=1, places=1, turn=3)
    await crowd.come("a0", 1)
    for number in range(5):
        await crowd.come(f"b{number}", 2)
    for number in range(1, 3):
        await crowd.come(f"a{number}", 1)
    for _ in range(8):
        await crowd.end(crowd.began[-1])
    assert crowd.began == ["a0", "b0", "b1", "b2", "a1", "a2", "b3", "b4"]


async def test_a_flood_takes_its_share_of_the_seats_alone() -> None:
    crowd, _ = jobs(seats=4, places=3)
    for number in range(10):
        await crowd.come(f"flood{number}", 1)
    await crowd.come("other", 2)
    await crowd.end("flood0")
    assert crowd.began[-1] == "other"


async def test_a_pinned_adapter_keeps_its_place() -> None:
    crowd, places = jobs(seats=4, places=2)
    async with AsyncExitStack() as pin:
        await pin.enter_async_context(places.acquire(1, is_kept=True))
        await crowd.come("a", 2)
        await crowd.come("b", 3)
        await crowd.come("pinned", 1)
        assert crowd.began == ["a", "pinned"]
        await crowd.end("pinned")
        assert crowd.began == ["a", "pinned"]
        await crowd.end("a")
        assert crowd.began == ["a", "pinned", "b"]
        await crowd.come("c", 2)
        assert crowd.began == ["a", "pinned", "b"]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert crowd.began == ["a", "pinned", "b", "c"]


async def test_a_pin_waits_for_a_place_before_jobs_that_came_later() -> None:
    crowd, places = jobs(seats=4, places=1)
    await crowd.come("a", 1)
    async with AsyncExitStack() as pin:
        waiting = asyncio.create_task(pin.enter_async_context(places.acquire(2, is_kept=True)))
        await asyncio.sleep(0)
        await crowd.come("later", 3)
        await crowd.come("same", 1)
        assert not waiting.done()
        await crowd.end("a")
        assert waiting.done()
        assert crowd.began == ["a"]


@pytest.mark.parametrize("seed", range(16))
async def test_whatever_comes_and_goes(seed: int) -> None:
    """Of the odd ones the half is of three users, who have a share each."""
    rng = random.Random(seed)
    crowd, places = jobs(seats=5, places=1 + seed % 3, turn=2, share=3 if seed % 2 else None)
    adapter_of: dict[str, int] = {}
    for number in range(400):
        name, running = f"{number}", [each for each in crowd.began if not crowd.tasks[each].done()]
        choice = rng.random()
        if choice < 0.5:
            adapter_of[name] = rng.randrange(7)
            user = str(rng.randrange(3)) if seed % 2 and rng.random() < 0.5 else ""
            await crowd.come(name, adapter_of[name], user, rng.randrange(1, 3) if seed % 2 else 1)
        elif choice < 0.85 and running:
            await crowd.end(rng.choice(running))
        elif waiting := [each for each, task in crowd.tasks.items() if not task.done() and each not in running]:
            crowd.tasks[rng.choice(waiting)].cancel()
            for _ in range(3):
                await asyncio.sleep(0)
        running = [each for each in crowd.began if not crowd.tasks[each].done()]
        assert len({adapter_of[each] for each in running} - {0}) <= 1 + seed % 3
        assert len(running) <= 5
    while running := [each for each in crowd.began if not crowd.tasks[each].done()]:
        await crowd.end(running[0])
    assert all(task.done() for task in crowd.tasks.values())  # nobody was forgotten
    assert crowd.queue.queued == 0
    assert all(places.may_enter(adapter) for adapter in range(100, 103))


async def test_who_waits_for_its_share_keeps_no_place_from_others() -> None:
    """A user has all the seats that one may have, and waits with an adapter; another's adapter finds a place."""
    places = BatchPlaces(1, 4)
    queue = AdmissionQueue(4, 1000, share=2, places=places)
    began: list[str] = []
    ends = asyncio.Event()

    async def run(name: str, user: str, adapter: int) -> None:
        async with queue.acquire(user, 1, adapter=adapter):
            began.append(name)
            if user == "big":
                await ends.wait()

    tasks = [asyncio.create_task(run(f"{number}", "big", adapter)) for number, adapter in enumerate((0, 0, 1, 1))]
    await asyncio.sleep(0)
    for adapter in (2, 3, 2):
        await asyncio.wait_for(run(f"other {adapter}", "small", adapter), 5)
    assert began == ["0", "1", "other 2", "other 3", "other 2"]
    ends.set()
    await asyncio.gather(*tasks)
    assert began[5:] == ["2", "3"]
    assert queue.queued == 0


async def test_the_last_that_waits_for_a_place_kept_for_it_may_go() -> None:
    crowd, places = jobs(seats=1, places=1)
    for name, adapter in (("first", 0), ("a0", 1), ("base", 0), ("a1", 1), ("a2", 1), ("later", 2)):
        await crowd.come(name, adapter)
    await crowd.end("first")
    await crowd.end("a0")
    assert crowd.began == ["first", "a0", "base"]  # the place is kept for a1 and a2
    for name in ("a1", "a2"):
        crowd.tasks[name].cancel()
        with pytest.raises(asyncio.CancelledError):
            await crowd.tasks[name]
    assert places.may_enter(2)
    await crowd.end("base")
    await crowd.end("later")
    await crowd.come("last", 1)
    assert crowd.began[3:] == ["later", "last"]
