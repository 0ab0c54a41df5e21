"""How the server is: what it is doing while it starts, and whether work may be sent. `/ping` prints it."""

import time
from dataclasses import dataclass, field

PHASES = (
    "reading the configuration",
    "fetching the model",
    "importing the engine",
    "starting the engine and loading the weights",
    "generating a first token",
    "ready",
)


@dataclass(slots=True)
class StartupProgress:
    """The start's phases with their times in seconds."""

    phase: str = PHASES[0]
    began: float = field(default_factory=time.monotonic)
    phase_began: float = field(default_factory=time.monotonic)
    done: dict[str, float] = field(default_factory=dict)

    def enter(self, phase: str) -> None:
        """Close the running phase and begin `phase`."""
        now = time.monotonic()
        self.done[self.phase] = now - self.phase_began
        self.phase, self.phase_began = phase, now

    @property
    def seconds(self) -> float:
        """Since the process began to start."""
        return time.monotonic() - self.began

    @property
    def progress(self) -> float:
        """Which part of the start is behind: 0 to 1, by phases."""
        return PHASES.index(self.phase) / (len(PHASES) - 1) if self.phase in PHASES else 0.0

    def report(self) -> dict[str, object]:
        """What `/ping` shows while the server is not ready."""
        return {"phase": self.phase, "progress": round(self.progress, 2), "seconds": round(self.seconds, 1)}
