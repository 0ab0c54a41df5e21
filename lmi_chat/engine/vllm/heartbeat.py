"""Note when the engine last took a step, from the statistics that vLLM's scheduler logs.

Of several engines (data parallelism) each has steps of its own: one that stands still with requests is not made up for
by the others.
"""

import time
from collections.abc import Mapping
from typing import Any


class Heartbeat:
    """vLLM's stat logger and, called, its own factory."""

    def __init__(self) -> None:
        """Begin with no step seen."""
        self._latest = time.monotonic()
        self._times: dict[int, float] = {}
        self._numbers: Mapping[bytes, int] = {}
        self._unfinished: Mapping[bytes, int] = {}

    def __call__(self, config: object, engine_index: int = 0) -> "Heartbeat":  # noqa: ARG002 vLLM's factory signature
        """Return itself, as the factory of the one logger."""
        return self

    def watch(self, numbers: Mapping[bytes, int], unfinished: Mapping[bytes, int]) -> None:
        """Watch several engines: their numbers, and how many requests each has; `begin` is told of each first one."""
        self._numbers, self._unfinished = numbers, unfinished

    def begin(self, engine: bytes) -> None:
        """Note that an engine without requests is given one: it has stood still by right."""
        self._times[self._numbers[engine]] = time.monotonic()

    def step(self, number: int) -> None:
        """Note a step of the engine with this number."""
        self._latest = self._times[number] = time.monotonic()

    @property
    def stepped_at(self) -> float:
        """Time of the last step; where several engines are watched, of the one with requests whose last is oldest."""
        busy = [self._numbers[engine] for engine, count in self._unfinished.items() if count > 0]
        return min((self._times.get(number, self._latest) for number in busy), default=self._latest)

    def record(
        self,
        scheduler_stats: Any,
        iteration_stats: Any,  # noqa: ARG002 vLLM's signature
        engine_idx: int = 0,
        **_: object,
    ) -> None:
        """Note the time of a step."""
        if scheduler_stats is not None:
            self.step(engine_idx)

    def log_engine_initialized(self) -> None:
        """Log nothing."""

    def log(self) -> None:
        """Nothing to log."""

    def record_sleep_state(self, *_: object) -> None:
        """Not used."""

    def record_admission_rejection(self, *_: object) -> None:
        """Not used."""
