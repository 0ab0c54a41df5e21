"""The registry: versions of their own, weights before use, files until the last holder, and nothing that is left."""

import asyncio
import contextlib
import random
from collections import Counter
from collections.abc import Sequence
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path

import pytest

from lmi_chat.adapters.registry import AdapterRegistry, Resolve
from lmi_chat.engine import AdapterLimits
from lmi_chat.errors import AdapterExists, AdaptersFull, AdaptersOff, BadAdapter, BadField, NotFound
from lmi_chat.job import Adapter, Job
from lmi_chat.limits import RegistryLimits
from lmi_chat.pipeline.admission import AdmissionQueue
from lmi_chat.testing.engine import ScriptedEngine, Step, said
from tests.support.adapter_clients import Clients

pytestmark = pytest.mark.processes

BOUNDS = AdapterLimits(max_loras=2, max_cpu_loras=3, max_rank=8)


async def fetch(src: str, into: Path) -> None:
    """The folder of a source; there is none at "nowhere"."""
    await asyncio.sleep(0)
    if src == "nowhere":
        raise NotFound("src: nothing is there", param="src")
    await asyncio.to_thread((into / "weights").write_text, src)


def exists(path: Path | str) -> bool:
    return Path(path).exists()


class House:
    """A registry on an engine that dies of what ends the real one."""

    def __init__(self, folder: Path, *, most: int = 100, resolve: Resolve | None = None) -> None:
        self.engine = ScriptedEngine(script=answer, adapters=BOUNDS, max_running=8)
        self.folder = folder
        limits = RegistryLimits(adapters=most)
        self.registry = AdapterRegistry(self.engine, folder, fetch, resolve=resolve, limits=limits)
        self.queue = AdmissionQueue(9, 1000, places=self.registry.places)

    async def use(self, name: str, *, seconds: float = 0.0) -> str:
        """Run a job with an adapter, and return what it answered: the source of its weights."""
        async with self.registry.hold(name) as adapter:
            return await self.run(adapter, seconds)

    async def run(self, adapter: Adapter, seconds: float = 0.0) -> str:
        over, told = asyncio.Event(), list[str]()

        def sink(event: object) -> None:
            told.append(getattr(event, "text", ""))
            if not hasattr(event, "index"):
                over.set()

        async with (
            self.queue.acquire(self.queue.flow(""), 1, adapter=adapter.id),
            self.registry.loaded(adapter),
            self.engine.run(Job(id="j", prompt_ids=[1], prompt_text="", adapter=adapter), sink),
        ):
            await over.wait()
            await asyncio.sleep(seconds)
        assert not self.engine.is_dead
        return "".join(told)

    async def check_clean(self) -> None:
        """Nothing is left that is not registered: no weights, no files."""
        await self.registry.settle()
        assert not self.engine.taken_off
        entries, _ = self.registry.listed(10_000)
        versions = {}
        for entry in entries:
            async with self.registry.hold(entry.name) as adapter:
                versions[adapter.id] = entry
        assert {*self.engine.loaded} <= versions.keys()
        assert {path.name for path in self.folder.iterdir()} == {str(number) for number in versions}
        assert self.engine.pinned == {number for number, entry in versions.items() if entry.pin}


def answer(job: Job) -> Sequence[Step]:
    """Say what the weights are, as they stand in the adapter's folder."""
    assert job.adapter is not None
    return said((Path(job.adapter.path) / "weights").read_text())(job)


@pytest.fixture
def house(tmp_path: Path) -> House:
    return House(tmp_path)


async def test_an_adapter_is_loaded_when_it_is_registered_and_used_by_its_own_copy(house: House) -> None:
    await house.registry.register("a", "one")
    assert house.engine.loads == 1
    assert [await house.use("a") for _ in range(3)] == ["one"] * 3
    assert house.engine.loads == 1
    assert house.registry.describe("a").src == "one"
    await house.check_clean()


async def test_without_preload_the_first_uses_share_one_load(house: House) -> None:
    await house.registry.register("a", "one", preload=False)
    assert house.engine.loads == 0
    assert await asyncio.gather(*(house.use("a") for _ in range(5))) == ["one"] * 5
    assert house.engine.loads == 1


async def test_an_update_is_another_version_and_whoever_began_ends_with_the_old_one(house: House) -> None:
    await house.registry.register("a", "one")
    async with house.registry.hold("a") as old:
        files = old.path
        await house.registry.update("a", src="two")
        async with house.registry.hold("a") as new:
            assert old.id != new.id
            assert old.path != new.path
            assert [await house.run(new), await house.run(old)] == ["two", "one"]
        await house.registry.settle()
        assert exists(files)
    await house.registry.settle()
    assert not exists(files)
    await house.check_clean()
    with pytest.raises(NotFound):
        await house.registry.update("b", src="two")


async def test_removal_drains_first_and_then_takes_weights_and_files(house: House) -> None:
    await house.registry.register("a", "one")
    async with house.registry.hold("a") as adapter:
        files = adapter.path
        await house.registry.remove("a")
        await house.registry.settle()
        with pytest.raises(NotFound, match='adapter "a" is not registered here'):
            await house.use("a")
        assert await house.run(adapter) == "one"
        assert exists(files)
    await house.registry.settle()
    assert not house.engine.loaded
    assert not exists(files)
    with pytest.raises(NotFound):
        await house.registry.remove("a")
    await house.registry.register("a", "again")
    async with house.registry.hold("a") as other:
        assert other.id > adapter.id
    await house.check_clean()


async def test_more_adapters_than_memory_has_room_for_go_and_come_back(house: House) -> None:
    for number in range(6):
        await house.registry.register(f"a{number}", f"src{number}")
        assert len(house.engine.loaded) <= BOUNDS.max_cpu_loras
    loads = house.engine.loads
    assert await house.use("a5") == "src5"
    assert house.engine.loads == loads  # it was the last to be loaded
    for _ in range(2):
        assert [await house.use(f"a{number}") for number in range(6)] == [f"src{number}" for number in range(6)]
    assert house.engine.loads > loads
    await house.check_clean()


async def test_pins_leave_a_place_to_the_others(house: House) -> None:
    await house.registry.register("pinned", "p", pin=True)
    with pytest.raises(AdaptersFull, match="1 adapters are pinned, of at most 1") as caught:
        await house.registry.register("second", "q", pin=True)
    assert caught.value.status == 507
    for number in range(5):
        await house.registry.register(f"a{number}", f"src{number}")
    names = ["pinned", *(f"a{number}" for number in range(5))]
    sources = ["p", *(f"src{number}" for number in range(5))]
    assert await asyncio.gather(*(house.use(name, seconds=0.01) for name in names * 3)) == sources * 3
    assert house.engine.widest == BOUNDS.max_loras
    assert len(house.engine.pinned) == 1
    await house.registry.update("pinned", pin=False)
    await house.registry.register("second", "q", pin=True)
    await house.check_clean()
    await house.registry.remove("second")
    await house.registry.update("a0", pin=True)
    await house.check_clean()


async def test_what_cannot_be_is_refused_and_leaves_nothing(house: House) -> None:
    await house.registry.register("a", "one")
    for expected, name, src, flags in (
        (AdapterExists, "a", "two", {}),
        (NotFound, "b", "nowhere", {}),
        (BadField, "b", "two", {"preload": False, "pin": True}),
        (BadField, "tiny", "two", {}),
        (BadField, "", "two", {}),
    ):
        with pytest.raises(expected):
            await house.registry.register(name, src, **flags)
    with pytest.raises(NotFound):
        await house.registry.update("a", src="nowhere")
    assert await house.use("a") == "one"
    await house.check_clean()
    with pytest.raises(AdaptersOff):
        AdapterRegistry(ScriptedEngine(), house.folder, fetch)


async def test_a_refusal_of_the_engine_leaves_nothing(house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    async def refuse(adapter: Adapter) -> None:
        raise BadAdapter(f"adapter {adapter.name} does not fit")

    with monkeypatch.context() as patch:
        patch.setattr(house.engine, "add_adapter", refuse)
        for pin in (False, True):
            with pytest.raises(BadAdapter):
                await house.registry.register("a", "one", pin=pin)
        await house.registry.register("late", "two", preload=False)
        with pytest.raises(BadAdapter):
            await house.use("late")
    await house.check_clean()
    await house.registry.register("a", "one", pin=True)
    assert await house.use("late") == "two"
    await house.check_clean()


async def test_the_number_of_adapters_is_bounded(tmp_path: Path) -> None:
    house = House(tmp_path, most=2)
    await house.registry.register("a", "one")
    await house.registry.register("b", "two")
    with pytest.raises(AdaptersFull, match="2 adapters are registered, as many as may be"):
        await house.registry.register("c", "three")
    await house.registry.update("a", src="four")
    await house.registry.remove("b")
    await house.registry.register("c", "three")
    await house.check_clean()


async def test_unknown_names_are_looked_for_once_and_the_least_recently_used_go(tmp_path: Path) -> None:
    asked: Counter[str] = Counter()

    async def resolve(name: str) -> str:
        asked[name] += 1
        await asyncio.sleep(0)
        return "" if name.startswith("no") else f"found {name}"

    house = House(tmp_path, most=3, resolve=resolve)
    await house.registry.register("own", "one")
    assert await asyncio.gather(*(house.use("x") for _ in range(4))) == ["found x"] * 4
    assert asked == {"x": 1}
    with pytest.raises(NotFound):
        await house.use("none")
    with pytest.raises(NotFound):
        await house.use("tiny")  # requests mean the model by it
    await house.use("y")
    await house.use("x")
    assert await house.use("z") == "found z"
    assert [entry.name for entry in house.registry.listed()[0]] == ["own", "x", "z"]
    assert await house.use("y") == "found y"
    assert asked["y"] == 2
    await house.registry.register("y", "two")  # in the place of what was found so
    with pytest.raises(AdapterExists):
        await house.registry.register("y", "three")
    assert (await house.use("y"), asked["y"]) == ("two", 2)
    await house.check_clean()


async def test_pages_follow_each_other(house: House) -> None:
    for number in range(5):
        await house.registry.register(f"a{number}", "one", preload=False)
    names, token = list[str](), ""
    for expected in (2, 2, 1):
        page, token = house.registry.listed(2, token)
        assert len(page) == expected
        names += [entry.name for entry in page]
    assert (names, token) == ([f"a{number}" for number in range(5)], "")


async def test_a_change_goes_on_when_who_asked_for_it_is_gone(house: House) -> None:
    asking = asyncio.create_task(house.registry.register("a", "one"))
    await asyncio.sleep(0)
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await house.registry.settle()
    assert await house.use("a") == "one"
    using = asyncio.create_task(house.use("a", seconds=60))
    await asyncio.sleep(0.01)
    await house.registry.remove("a")
    using.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await using
    await house.check_clean()
    assert not house.engine.loaded


async def test_the_end_deletes_all_files(house: House) -> None:
    await house.registry.register("a", "one")
    house.registry.delete_files()
    assert not exists(house.folder)


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_sixteen_clients_do(tmp_path: Path, seed: int) -> None:
    house = House(tmp_path)
    house.engine.adapters = replace(BOUNDS, max_cpu_loras=2 + seed % 2)
    clients = Clients([f"src{number}" for number in range(40)], house.use, fetch, seed)
    house.registry = AdapterRegistry(house.engine, tmp_path, clients.fetch)
    house.queue = AdmissionQueue(9, 1000, places=house.registry.places)
    clients.registry = house.registry
    await clients.run(16, 60, 6)
    assert clients.answered > 100
    assert clients.refused > 100
    assert house.engine.widest <= BOUNDS.max_loras
    await house.check_clean()
    for entry in house.registry.listed(100)[0]:
        await house.registry.remove(entry.name)
    await house.check_clean()
    assert not house.engine.loaded


@pytest.mark.parametrize("is_pinned", [True, False])
async def test_a_pin_that_was_taken_off_holds_nobody_up(house: House, *, is_pinned: bool) -> None:
    """Whoever holds the old version may wait for another adapter's place itself, as a request of two adapters does."""
    for name in ("a", "b"):
        await house.registry.register(name, f"old {name}", pin=name == "a")
    async with house.registry.hold("a") as old, asyncio.timeout(5):
        running = asyncio.create_task(house.run(old, seconds=0.05))
        await house.registry.update("a", src="new", pin=is_pinned)
        await house.registry.register("c", "other", pin=not is_pinned)
        assert await house.use("b") == "old b"
        assert await running == "old a"
        assert [await house.run(old), await house.use("a"), await house.use("c")] == ["old a", "new", "other"]
    assert house.engine.widest <= BOUNDS.max_loras
    await house.check_clean()


@pytest.mark.parametrize("seed", range(3))
async def test_requests_of_two_adapters_end_whatever_is_pinned_meanwhile(house: House, seed: int) -> None:
    rng, names = random.Random(seed), [f"a{number}" for number in range(5)]

    async def use(*asked: str) -> None:
        async with AsyncExitStack() as held:
            found = [await held.enter_async_context(house.registry.hold(name)) for name in asked]
            await asyncio.sleep(rng.random() / 200)
            for adapter in (found[0], found[1], found[0]):
                answered = await house.run(adapter, rng.random() / 200)
                assert answered.startswith(adapter.name)

    async def step() -> None:
        name, other = rng.sample(names, 2)
        src, pin = f"{name} {rng.random()}", rng.random() < 0.4
        match rng.choice(["register", "use", "use", "update", "remove"]):
            case "register":
                await house.registry.register(name, src, pin=pin)
            case "update":
                await house.registry.update(name, src=src, preload=True, pin=pin)
            case "remove":
                await house.registry.remove(name)
            case _:
                await use(name, other)

    async def client() -> None:
        for _ in range(40):
            with contextlib.suppress(NotFound, AdapterExists, AdaptersFull):
                await step()

    async with asyncio.timeout(30):
        await asyncio.gather(*(client() for _ in range(16)))
    assert house.engine.widest <= BOUNDS.max_loras
    await house.check_clean()
