"""Note when the engine last took a step, from the statistics that vLLM's scheduler logs."""

import time
from typing import Any


class Heartbeat:
    """vLLM's stat logger and, called, its own factory."""

    def __init__(self) -> None:
        """Begin with no step seen."""
        self.stepped_at = time.monotonic()

    def __call__(self, config: object, engine_index: int = 0) -> "Heartbeat":  # noqa: ARG002 vLLM's factory signature
        """Return itself, as the factory of the one logger."""
        return self

    def record(self, scheduler_stats: Any, iteration_stats: Any, **_: object) -> None:  # noqa: ARG002 vLLM's signature
        """Note the time of a step."""
        if scheduler_stats is not None:
            self.stepped_at = time.monotonic()

    def log_engine_initialized(self) -> None:
        """Log nothing."""

    def log(self) -> None:
        """Nothing to log."""

    def record_sleep_state(self, *_: object) -> None:
        """Not used."""

    def record_admission_rejection(self, *_: object) -> None:
        """Not used."""
