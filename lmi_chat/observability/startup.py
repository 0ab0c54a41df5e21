"""Track the phases of the start and their times, for `/ping`."""

import time
from dataclasses import dataclass, field

READING = "reading the configuration"
FETCHING = "fetching the model"
IMPORTING = "importing the engine"
STARTING = "starting the engine and loading the weights"
FIRST_TOKEN, FIRST_EMBEDDING = "generating a first token", "embedding a first text"
READY = "ready"
ORDER = {READING: 0, FETCHING: 1, IMPORTING: 2, STARTING: 3, FIRST_TOKEN: 4, FIRST_EMBEDDING: 4, READY: 5}


@dataclass(slots=True)
class StartupProgress:
    """The start's phases with their times in seconds."""

    phase: str = READING
    began: float = field(default_factory=time.monotonic)
    phase_began: float = field(default_factory=time.monotonic)
    done: dict[str, float] = field(default_factory=dict)
    share: float = 0.0
    """How much of the running phase is done, where that is known: 0 to 1."""

    def enter(self, phase: str) -> None:
        """Close the running phase and begin `phase`."""
        now = time.monotonic()
        self.done[self.phase] = now - self.phase_began
        self.phase, self.phase_began, self.share = phase, now, 0.0

    def reach(self, share: float) -> None:
        """Note how much of the running phase is done."""
        self.share = min(max(share, self.share), 1.0)

    @property
    def seconds(self) -> float:
        """Seconds since the process began to start."""
        return time.monotonic() - self.began

    @property
    def phase_s(self) -> float:
        """Seconds since the running phase began."""
        return time.monotonic() - self.phase_began

    @property
    def progress(self) -> float:
        """The part of the start that is done: 0 to 1, by phases."""
        return min((ORDER[self.phase] + self.share) / ORDER[READY], 1.0)
