"""Keep the registered adapters: each version's files, and its weights on the engine as long as a request needs them.

The engine must not be left to itself here. A request whose files are gone ends it for everybody, as does a batch with
more adapters than there are places that no pin holds; weights that are taken off under a request are loaded again for
good; and new weights under an old path answer from what the prefix cache has of the old ones. So each version has a
folder and a number of its own, never given again; its files stay until nobody holds it; its weights are loaded before
a job begins, and the engine is never brought to choose which others go.
"""

import asyncio
import itertools
import logging
import shutil
import time
from collections import OrderedDict
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from lmi_chat.adapters import NAME
from lmi_chat.adapters.files import CODE
from lmi_chat.adapters.places import BatchPlaces
from lmi_chat.dialects.deployment import PLACEHOLDERS
from lmi_chat.dialects.formatters import Formatters
from lmi_chat.engine import Engine
from lmi_chat.errors import AdapterExists, AdaptersFull, AdaptersOff, BadField, Error, HookFailed, NotFound, Problem
from lmi_chat.job import Adapter
from lmi_chat.limits import RegistryLimits
from lmi_chat.text import echo

T = TypeVar("T")
Fetch = Callable[[str, Path], Awaitable[None]]
"""Puts the files of an adapter's source into a folder that exists and is empty. Raises NotFound, BadAdapter."""
Resolve = Callable[[str], Awaitable[str]]
"""Looks for an adapter of that name: its source, "" where there is none."""
FAILED_S, FAILED_MOST = 10.0, 1000
"""For so long, and of so many names, it is known that what was found could not be loaded."""
ERROR_BYTES = 1024
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterEntry:
    """A registered adapter as it is shown. `is_resolved`: it was looked for, and goes when another needs its place."""

    name: str
    src: str
    preload: bool = True
    pin: bool = False
    is_resolved: bool = False


@dataclass(slots=True, eq=False)
class _Version:
    """The files and weights of one registration or update.

    `holders` count the requests that need them, `jobs` those whose job runs; `place`: what a pinned one keeps.
    """

    adapter: Adapter
    code: Formatters | None = None
    holders: int = 0
    jobs: int = 0
    is_retired: bool = False
    is_pinned: bool = False
    loading: "asyncio.Task[None] | None" = None
    place: AsyncExitStack = field(default_factory=AsyncExitStack)


@dataclass(slots=True, eq=False)
class _Registered:
    entry: AdapterEntry
    version: _Version


class AdapterRegistry:
    """The adapters of one engine, and their files below `folder`, which is nobody else's.

    A change that has begun goes on when whoever asked for it is gone; of one name there is one at a time.
    """

    def __init__(
        self,
        engine: Engine,
        folder: Path,
        fetch: Fetch,
        *,
        resolve: Resolve | None = None,
        limits: RegistryLimits | None = None,
        formatters: Formatters | None = None,
    ) -> None:
        """Begin without adapters; `formatters` are told of those that have their own.

        Raises AdaptersOff where the engine takes none.
        """
        if engine.model.adapters is None:
            raise AdaptersOff("LoRA is off: this deployment loads no adapters")
        self._engine, self._bounds, self._limits = engine, engine.model.adapters, limits or RegistryLimits()
        self._folder, self._fetch, self._resolve = folder, fetch, resolve
        self._formatters = formatters or Formatters()
        self.places = BatchPlaces(self._bounds.max_loras, engine.model.max_running)
        self._registered: OrderedDict[str, _Registered] = OrderedDict()  # the least recently used first
        self._versions: dict[int, _Version] = {}  # all that have files
        self._loaded: OrderedDict[int, _Version] = OrderedDict()  # the least recently used first
        self._failed: OrderedDict[str, tuple[float, Error]] = OrderedDict()  # found, but not to be loaded, and when
        self._coming: set[str] = set()
        self._pinned: set[str] = set()
        self._changes: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._loads = asyncio.Lock()
        self._ids = itertools.count(1)
        self._tasks: set[asyncio.Task[Any]] = set()

    async def register(self, name: str, src: str, *, preload: bool = True, pin: bool = False) -> None:
        """Add an adapter. Its files are copied; with `preload` its weights are loaded now, else at its first use.

        `pin`: its weights keep a place of every batch. Raises AdapterExists, AdaptersFull, BadAdapter, NotFound,
        BadField.
        """
        entry = AdapterEntry(name=name, src=src, preload=preload, pin=pin)
        self._check_name(name)
        _check_flags(entry)
        await self._finish(self._register(entry))

    def _check_name(self, name: str) -> None:
        if not name or self._is_models(name):
            wanted = "name must be the adapter's own, not empty and not the model's"
            raise BadField([Problem("name", f"{wanted}, got {echo(name)}")])

    def _is_models(self, name: str) -> bool:
        """Whether requests mean the model by a name, or may."""
        return name in self._engine.model.names or name in PLACEHOLDERS

    async def _register(self, entry: AdapterEntry) -> None:
        async with self._change(entry.name):
            old = self._registered.get(entry.name)
            if old is None:
                await self._add(entry)
            elif old.entry.is_resolved:  # by whoever asked for it first: that hinders no registration
                await self._replace(old, entry)
            else:
                text = f"adapter {echo(entry.name)} is registered already; update it, or remove it first"
                raise AdapterExists(text, param="name")

    async def update(self, name: str, *, src: str = "", preload: bool | None = None, pin: bool | None = None) -> None:
        """Replace an adapter's files by those of `src` ("": of its source), for requests that begin from now on.

        Those that run end with the files that they began with. None: as it was. Raises as `register` does, or NotFound.
        """
        await self._finish(self._update(name, src, preload=preload, pin=pin))

    async def _update(self, name: str, src: str, *, preload: bool | None, pin: bool | None) -> None:
        async with self._change(name):
            old = self._get(name)
            entry = replace(
                old.entry,
                src=src or old.entry.src,
                preload=old.entry.preload if preload is None else preload,
                pin=old.entry.pin if pin is None else pin,
                is_resolved=False,
            )
            _check_flags(entry)
            await self._replace(old, entry)

    async def _replace(self, old: _Registered, entry: AdapterEntry) -> None:
        await self._put(entry)
        self._retire(old.version)

    async def remove(self, name: str) -> None:
        """Forget an adapter. Requests that run with it end; then its weights and its files go. Raises NotFound."""
        await self._finish(self._remove(name))

    async def _remove(self, name: str) -> None:
        async with self._change(name):
            self._drop(name)

    @property
    def count(self) -> int:
        """Count the registered adapters."""
        return len(self._registered)

    def has(self, name: str) -> bool:
        """Whether an adapter of that name is registered."""
        return name in self._registered

    def knows(self, name: str) -> bool:
        """Whether an adapter of that name is registered, or may be found."""
        return name in self._registered or (self._resolve is not None and NAME.fullmatch(name) is not None)

    def describe(self, name: str) -> AdapterEntry:
        """Return a registered adapter. Raises NotFound."""
        return self._get(name).entry

    def entries(self) -> Sequence[AdapterEntry]:
        """List all registered adapters by name."""
        return [self._registered[name].entry for name in sorted(self._registered)]

    def listed(self, limit: int = 100, token: str = "") -> tuple[Sequence[AdapterEntry], str]:
        """Return up to `limit` adapters by name after `token`, and the token of the next page, "" at the end."""
        names = sorted(name for name in self._registered if name > token)
        page = [self._registered[name].entry for name in names[:limit]]
        return page, page[-1].name if len(names) > limit else ""

    @asynccontextmanager
    async def hold(self, name: str) -> AsyncIterator[Adapter]:
        """Keep the present version of an adapter in this block: its files, and its weights once they are loaded.

        An unknown name is looked for. Raises NotFound; for a found one as `register` does.
        """
        if name not in self._registered:
            await self._finish(self._find(name))
        version = self._get(name).version
        self._registered.move_to_end(name)
        version.holders += 1
        try:
            yield version.adapter
        finally:
            version.holders -= 1
            self._end_if_idle(version)

    @asynccontextmanager
    async def loaded(self, adapter: Adapter) -> AsyncIterator[None]:
        """Have the weights of a held `adapter`, which has a place in the batch, on the engine in this block.

        Those who need the same weights wait for one load. Raises BadAdapter, NotFound.
        """
        version = self._versions[adapter.id]
        version.jobs += 1
        try:
            await self._load(version)
            yield
        finally:
            version.jobs -= 1
            self._unpin_if_idle(version)

    async def settle(self) -> None:
        """Wait until every change that has begun is complete, what was removed included, as far as no request runs."""
        while self._tasks:
            await asyncio.wait(self._tasks)

    def delete_files(self) -> None:
        """Delete all files; no request runs any more, and none begins."""
        shutil.rmtree(self._folder, ignore_errors=True)

    # Changes.

    def _begin(self, work: Coroutine[Any, Any, T]) -> "asyncio.Task[T]":
        task = asyncio.create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _finish(self, work: Coroutine[Any, Any, T]) -> T:
        """Do work that goes on when the caller is cancelled."""
        task = self._begin(work)
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            task.add_done_callback(_log_failure)
            raise

    @asynccontextmanager
    async def _change(self, name: str) -> AsyncIterator[None]:
        lock = self._changes.setdefault(name, asyncio.Lock())
        async with lock:
            yield

    def _get(self, name: str) -> _Registered:
        if found := self._registered.get(name):
            return found
        raise NotFound(f"adapter {echo(name)} is not registered here", param="adapter")

    async def _find(self, name: str) -> None:
        """Look for an unknown adapter where the deployment has others, and register it. Raises NotFound."""
        async with self._change(name):
            if name in self._registered or self._resolve is None or self._is_models(name):
                return
            self._check_failed(name)
            if src := await self._resolve(name):
                try:
                    await self._add(AdapterEntry(name=name, src=src, is_resolved=True))
                except Error as error:
                    self._note_failed(name, error)
                    raise

    def _check_failed(self, name: str) -> None:
        """Raise the error by which a found adapter could not be loaded a moment ago: its files may be large."""
        failed_s, error = self._failed.get(name, (-FAILED_S, None))
        if error is not None and time.monotonic() - failed_s < FAILED_S:
            raise error.shortened(ERROR_BYTES)

    def _note_failed(self, name: str, error: Error) -> None:
        self._failed[name] = (time.monotonic(), error)
        self._failed.move_to_end(name)
        while len(self._failed) > FAILED_MOST:
            self._failed.popitem(last=False)

    async def _add(self, entry: AdapterEntry) -> None:
        self._make_room()
        self._coming.add(entry.name)
        try:
            await self._put(entry)
        finally:
            self._coming.discard(entry.name)

    def _make_room(self) -> None:
        """Let the least recently used adapter go that was only found, if there are too many. Raises AdaptersFull."""
        if len(self._registered) + len(self._coming) < self._limits.adapters:
            return
        for name, registered in self._registered.items():
            if registered.entry.is_resolved and not self._is_changing(name):
                self._drop(name)
                return
        text = f"{self._limits.adapters} adapters are registered, as many as may be (option.max_adapters)"
        raise AdaptersFull(f"{text}; remove one first")

    def _is_changing(self, name: str) -> bool:
        lock = self._changes.get(name)
        return lock is not None and lock.locked()

    def _drop(self, name: str) -> None:
        self._retire(self._get(name).version)
        del self._registered[name]
        self._formatters.adapters.pop(name, None)
        self._pinned.discard(name)

    async def _put(self, entry: AdapterEntry) -> None:
        """Make a new version and let it be the present one."""
        had_pin = entry.name in self._pinned
        if entry.pin and not had_pin:
            self._take_pin(entry.name)
        version = await self._made(entry)
        try:
            if entry.preload:
                await self._preload(version, is_pinned=entry.pin)
        except BaseException:
            if not had_pin:
                self._pinned.discard(entry.name)
            self._retire(version)
            raise
        if not entry.pin:
            self._pinned.discard(entry.name)
        self._registered[entry.name] = _Registered(entry, version)
        if version.code is None:
            self._formatters.adapters.pop(entry.name, None)
        else:
            self._formatters.adapters[entry.name] = version.code

    def _take_pin(self, name: str) -> None:
        most = self._bounds.max_loras - 1
        if len(self._pinned) >= most:
            text = f"{len(self._pinned)} adapters are pinned, of at most {most}: max_loras less one for all others"
            raise AdaptersFull(text, param="pin")
        self._pinned.add(name)

    async def _made(self, entry: AdapterEntry) -> _Version:
        """Fetch the files of an entry into a folder of their own. Raises NotFound, BadAdapter."""
        number = next(self._ids)
        path = self._folder / str(number)
        version = _Version(Adapter(entry.name, number, str(path)))
        self._versions[number] = version
        try:
            await asyncio.to_thread(path.mkdir, parents=True)
            await self._fetch(entry.src, path)
            version.code = await self._code(entry, path / CODE)
        except BaseException:
            self._retire(version)
            raise
        return version

    async def _code(self, entry: AdapterEntry, path: Path) -> Formatters | None:
        """Load the formatters of an adapter that somebody registered: a request's name alone runs no code.

        Raises HookFailed.
        """
        load = self._formatters.load
        if load is None or entry.is_resolved or not await asyncio.to_thread(path.is_file):
            return None
        try:
            return await asyncio.to_thread(load, path.parent)
        except Exception as error:  # whatever its code raises
            raise HookFailed.of(f"the model.py of adapter {echo(entry.name)}", error) from error

    # Weights.

    async def _preload(self, version: _Version, *, is_pinned: bool) -> None:
        """Load the weights in a place of the batch, as a job does; a pin keeps it."""
        async with AsyncExitStack() as place:
            await place.enter_async_context(self.places.acquire(version.adapter.id, is_kept=is_pinned))
            async with self.loaded(version.adapter):
                if is_pinned:
                    version.is_pinned, version.place = True, place.pop_all()
                    await self._engine.pin_adapter(version.adapter)

    async def _load(self, version: _Version) -> None:
        """Load the weights unless they are; callers share one load."""
        if version.adapter.id in self._loaded:
            self._loaded.move_to_end(version.adapter.id)
            return
        if version.loading is None:
            version.loading = self._begin(self._add_weights(version))
        await asyncio.shield(version.loading)

    async def _add_weights(self, version: _Version) -> None:
        try:
            async with self._loads:
                await self._make_room_in_memory()
                await self._engine.add_adapter(version.adapter)
                self._loaded[version.adapter.id] = version
        finally:
            version.loading = None

    async def _make_room_in_memory(self) -> None:
        """Unload the least recently used weights that no job has, so that the engine never chooses."""
        while len(self._loaded) >= self._bounds.max_cpu_loras:
            idle = (version for version in self._loaded.values() if not version.jobs and not version.is_pinned)
            if (oldest := next(idle, None)) is None:
                return
            del self._loaded[oldest.adapter.id]
            await self._engine.remove_adapter(oldest.adapter)

    # Ends.

    def _retire(self, version: _Version) -> None:
        """Let a version end as soon as nobody holds it, and its pin before that; nobody takes it any more."""
        version.is_retired = True
        self._unpin_if_idle(version)
        self._end_if_idle(version)

    def _unpin_if_idle(self, version: _Version) -> None:
        if version.is_retired and version.is_pinned and version.holders and not version.jobs:
            self._begin(self._unpin(version)).add_done_callback(_log_failure)

    async def _unpin(self, version: _Version) -> None:
        """Give a pinned place up, which who holds the version may wait for itself; its next job loads it again."""
        async with self._loads:
            if version.jobs:
                return
            await self._unload(version)
        await version.place.aclose()

    def _end_if_idle(self, version: _Version) -> None:
        if version.is_retired and not version.holders:
            self._begin(self._end(version)).add_done_callback(_log_failure)

    async def _end(self, version: _Version) -> None:
        """Take the weights off the engine, then delete the files."""
        async with self._loads:
            await self._unload(version)
        await version.place.aclose()
        await asyncio.to_thread(shutil.rmtree, version.adapter.path, ignore_errors=True)
        self._versions.pop(version.adapter.id, None)

    async def _unload(self, version: _Version) -> None:
        """Take the weights of a version that has no job off the engine, and with them a pin."""
        self._loaded.pop(version.adapter.id, None)
        try:
            await self._engine.remove_adapter(version.adapter)
        except Error:
            log.exception("the weights of an adapter could not be unloaded")
        version.is_pinned = False


def _check_flags(entry: AdapterEntry) -> None:
    if entry.pin and not entry.preload:
        raise BadField(
            [Problem("pin", "pin must be false where preload is false: what is not loaded cannot be pinned")]
        )


def _log_failure(task: "asyncio.Task[Any]") -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        log.error("a change of the adapters failed", exc_info=error)
