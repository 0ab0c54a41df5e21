"""Show the progress of long work on a terminal or in a log."""

import contextlib
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any, TextIO


class Progress:
    """Shows progress as one bar on a terminal, elsewhere as a line with seconds for each finished phase.

    `phases` are the names of its parts, each with the share of the bar that it takes (its usual seconds).
    """

    def __init__(self, stream: TextIO, phases: Mapping[str, float]) -> None:
        self._stream = stream
        self._phases = phases
        self._bar: Any = None
        self._done = 0.0
        self._weight = 0.0

    @property
    def has_bar(self) -> bool:
        """Whether the bar is shown now."""
        return self._bar is not None

    def print_status(self, sentence: str) -> None:
        """Write one sentence on its own line."""
        self._stream.write(sentence + "\n")
        self._stream.flush()

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Show the bar while the block runs, where the stream is a terminal."""
        if not self._stream.isatty():
            yield
            return
        from tqdm import tqdm

        look = "  {desc:<9}{percentage:3.0f}% |{bar:40}| {elapsed}"
        ended = threading.Event()
        with tqdm(total=sum(self._phases.values()), file=self._stream, bar_format=look) as self._bar:
            clock = threading.Thread(target=self._tick, args=(ended,), daemon=True)
            clock.start()
            try:
                yield
            finally:
                ended.set()
                clock.join()

    @contextlib.contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Count the block as the phase `name`."""
        begun = time.monotonic()
        self._weight = self._phases[name]
        if self._bar is not None:
            self._bar.set_description_str(name)
        yield
        self.reach(1)
        self._done += self._weight
        if self._bar is None:
            self.print_status(f"  {name:<9}{time.monotonic() - begun:3.0f} s")

    def reach(self, share: float) -> None:
        """Set how much of the phase is done, from 0 to 1."""
        if self._bar is not None:
            self._bar.n = self._done + self._weight * min(share, 1)
            self._bar.refresh()

    def _tick(self, ended: threading.Event) -> None:
        while not ended.wait(0.5):
            self._bar.refresh()
