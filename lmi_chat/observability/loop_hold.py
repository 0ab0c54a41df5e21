"""Note the longest hold of the event loop, for Prometheus and the console: a timer tells by its lateness."""

import asyncio
import contextlib
from collections.abc import Iterator

TICK_S = 0.05


class LoopHold:
    """The longest time for which nothing else had its turn on a loop; up to TICK_S of each hold is not seen."""

    def __init__(self) -> None:
        """Begin without a loop."""
        self._longest_s = self._shown_s = 0.0

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Watch the running loop during this block."""
        loop = asyncio.get_running_loop()

        timer: asyncio.TimerHandle

        def tick(due: float) -> None:
            nonlocal timer
            now = loop.time()
            late_s = now - due
            self._longest_s, self._shown_s = max(self._longest_s, late_s), max(self._shown_s, late_s)
            timer = loop.call_at(now + TICK_S, tick, now + TICK_S)

        timer = loop.call_later(TICK_S, tick, loop.time() + TICK_S)
        try:
            yield
        finally:
            timer.cancel()

    def take(self) -> float:
        """The longest hold since the last call, in seconds; for Prometheus."""
        longest_s, self._longest_s = self._longest_s, 0.0
        return longest_s

    def take_shown(self) -> float:
        """The same for the console, which asks at times of its own."""
        longest_s, self._shown_s = self._shown_s, 0.0
        return longest_s


LOOP_HOLD = LoopHold()
"""That of this process's server."""
