"""Clients that register, use, update and remove adapters at random, and know what each answer may be of."""

import asyncio
import contextlib
import itertools
import random
from collections import defaultdict
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import pytest

from lmi_chat.adapters.registry import AdapterRegistry, Fetch
from lmi_chat.errors import AdapterExists, AdaptersFull, Error, NotFound

KINDS = ("register", "use", "use", "use", "update", "remove")
REFUSALS = (NotFound, AdapterExists, AdaptersFull)


class Clients:
    """Random clients of a registry whose sources are `weights`, each with marks for its registration or update.

    `use` answers with an adapter, and gives the weights that the answer is of. Versions of a name are numbered as they
    are fetched; an answer is of one that is no older than the last that was complete when its request began.
    """

    def __init__(self, weights: Sequence[str], use: Callable[[str], Awaitable[str]], fetch: Fetch, seed: int) -> None:
        self.registry: AdapterRegistry
        self._weights, self._use, self._fetch, self._seed = weights, use, fetch, seed
        self._marks = itertools.count()
        self._fetched: dict[str, tuple[str, int]] = {}
        self._versions: defaultdict[str, list[str]] = defaultdict(list)
        self._complete: defaultdict[str, int] = defaultdict(int)
        self._names: dict[str, str] = {}
        self.refused = self.answered = 0

    async def fetch(self, src: str, into: Path) -> None:
        """Fetch a source by the part before its mark."""
        weights, name = src.partition("#")[0], self._names[src]
        self._versions[name].append(weights)
        self._fetched[src] = name, len(self._versions[name]) - 1
        await self._fetch(weights, into)

    async def run(self, clients: int, steps: int, names: int) -> None:
        """Let all clients take their steps."""
        await asyncio.gather(*(self._client(number, steps, names) for number in range(clients)))

    async def _client(self, number: int, steps: int, names: int) -> None:
        rng = random.Random(f"{self._seed}/{number}")
        for _ in range(steps):
            name, kind = f"a{rng.randrange(names)}", rng.choice(KINDS)
            try:
                await (self._ask(rng, name) if kind == "use" else self._change(rng, name, kind))
            except REFUSALS:
                self.refused += 1
            except Error as error:
                pytest.fail(f"{kind} of {name}: {error!r}")

    async def _ask(self, rng: random.Random, name: str) -> None:
        oldest = self._complete[name]
        limit_s = rng.random() / 50 if rng.random() < 0.1 else None
        with contextlib.suppress(TimeoutError):
            weights = await asyncio.wait_for(self._use(name), limit_s)
            assert weights in self._versions[name][oldest:], "an answer of an adapter that was not asked for"
            self.answered += 1

    async def _change(self, rng: random.Random, name: str, kind: str) -> None:
        if kind == "remove":
            await self.registry.remove(name)
            return
        src = f"{rng.choice(self._weights)}#{next(self._marks)}"
        self._names[src] = name
        pin = rng.random() < 0.2
        change = self.registry.register if kind == "register" else self.registry.update
        await change(name, src=src, preload=pin or rng.random() < 0.7, pin=pin)
        self._complete[name] = max(self._complete[name], self._fetched[src][1])
