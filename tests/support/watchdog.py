"""Watch a server's event loop: how much processor time one turn of it takes at most."""

import contextlib
import gc
import time
from collections.abc import Iterator
from dataclasses import dataclass

from tests.support.scripted import Service

TICK_S = 0.001


@dataclass
class Watchdog:
    """The longest hold of the loop, in seconds of its thread's processor time: a busy machine changes nothing."""

    longest_s: float = 0.0


@contextlib.contextmanager
def watched(service: Service) -> Iterator[Watchdog]:
    """Watch the loop of `service` during this block."""
    watchdog, is_over = Watchdog(), False

    async def watch() -> None:
        before = time.thread_time()

        def tick() -> None:
            nonlocal before
            now = time.thread_time()
            watchdog.longest_s = max(watchdog.longest_s, now - before)
            before = now
            if not is_over:
                service.loop.call_later(TICK_S, tick)

        tick()

    async def settle() -> None:
        """Let a tick come after all that was done."""

    gc.collect()
    gc.freeze()  # the tests' own objects, which a server has not, are none of the collector's business meanwhile
    service.do(watch())
    try:
        yield watchdog
    finally:
        gc.unfreeze()
        is_over = True
        time.sleep(5 * TICK_S)
        service.do(settle())
