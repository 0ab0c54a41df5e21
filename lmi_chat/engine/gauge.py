"""The scheduler's figures, for the health of the engine."""

from typing import Any


class Gauge:
    """vLLM's scheduler figures, taken where it logs them."""

    def __init__(self) -> None:
        """Nothing seen yet."""
        self.running = self.waiting = self.steps = 0

    def __call__(self, config: object, engine_index: int = 0) -> "Gauge":  # noqa: ARG002 vLLM's factory signature
        """Be the factory of the one logger."""
        return self

    def record(self, scheduler_stats: Any, iteration_stats: Any, **_: object) -> None:  # noqa: ARG002 vLLM's signature
        """Keep the newest figures."""
        if scheduler_stats is not None:
            self.running, self.waiting = scheduler_stats.num_running_reqs, scheduler_stats.num_waiting_reqs
            self.steps += 1

    def log_engine_initialized(self) -> None:
        """Nothing to log."""

    def log(self) -> None:
        """Nothing to log."""

    def record_sleep_state(self, *_: object) -> None:
        """Not used."""

    def record_admission_rejection(self, *_: object) -> None:
        """Not used."""
