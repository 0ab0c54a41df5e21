"""Record each request at its end, and once a second the figures of all: the memory behind the console's routes."""

import asyncio
import contextlib
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

from lmi_chat.console.answers import ConfigRow
from lmi_chat.console.engine_figures import EngineFigures
from lmi_chat.console.gaps import RunningGaps
from lmi_chat.console.quantiles import quantile
from lmi_chat.console.recent import RecentRequests
from lmi_chat.console.series import STEP_S, Series
from lmi_chat.errors import Error
from lmi_chat.observability.loop_hold import LOOP_HOLD
from lmi_chat.observability.record import RequestRecord

API = "/console/api"
"""Where the routes are that show all this."""
TIMES_MOST = 4096
"""Of one second, so many times to first tokens and gaps are kept."""


class Served(Protocol):
    """What takes the requests that the console shows."""

    @property
    def active(self) -> int:
        """Requests that run or wait to."""

    @property
    def waiting(self) -> int:
        """Those of them that wait."""

    def progress(self) -> Iterable[tuple[RequestRecord, int, int]]:
        """Go through them: record, sequences, tokens so far."""


class Console:
    """The last requests, the figures of the last minutes, and the settings as they are shown.

    It is a RequestLog's listener. All calls come from the event loop.
    """

    def __init__(self, most: int, settings: Sequence[ConfigRow] = ()) -> None:
        """Keep `most` requests."""
        self.recent, self.series, self.settings = RecentRequests(most), Series(), settings
        self._gaps, self._engine = RunningGaps(), EngineFigures()
        self._first_s: list[float] = []
        self._between_s: list[float] = []
        self._errors: Counter[str] = Counter()
        self._ended = self._ended_tokens = self._seen_tokens = 0
        self._looked_at = time.monotonic()

    def begin(self, record: RequestRecord) -> None:
        """Hear of a stream's first frame."""
        if record.begun_s is not None and len(self._first_s) < TIMES_MOST:
            self._first_s.append(record.begun_s)

    def end(self, record: RequestRecord, total_s: float) -> None:
        """Hear of a request that ended after `total_s` seconds."""
        gaps = self._gaps.take(record)
        if gaps[0] is not None and len(self._between_s) < TIMES_MOST:
            self._between_s.append(gaps[0])
        if record.begun_s is None and record.ttft_s is not None and len(self._first_s) < TIMES_MOST:
            self._first_s.append(record.ttft_s)
        self._ended += 1
        self._ended_tokens += record.completion_tokens
        if record.error is not None:
            self._errors[record.error] += 1
        self.recent.add(record, total_s, gaps)

    def refuse(self, error: Error, *, method: str, path: str) -> None:
        """Hear of a request that was refused before it had a record; a page that has no key yet is not counted."""
        if path.startswith(API):
            return
        record = RequestRecord()
        record.fail(error)
        record.message = f"{method} {path}: {error.message}"
        self.end(record, 0.0)

    @contextlib.contextmanager
    def watching(self, served: Served) -> Iterator[None]:
        """Take the figures of `served` once a second, on the running loop, during this block."""
        loop = asyncio.get_running_loop()
        self._looked_at = loop.time()
        timer: asyncio.TimerHandle

        def tick() -> None:
            nonlocal timer
            timer = loop.call_later(STEP_S, tick)
            self.look(served, loop.time())

        timer = loop.call_later(STEP_S, tick)
        try:
            yield
        finally:
            timer.cancel()

    def look(self, served: Served, now: float) -> None:
        """Add a row of the time since the last one; `now` is the loop's time."""
        elapsed_s, self._looked_at = max(now - self._looked_at, 0.001), now
        # a request that has ended, and is not heard of yet, is missing for a moment
        tokens = max(self._ended_tokens + self._gaps.look(now, served.progress()), self._seen_tokens)
        cache, half_gap, most_gap = self._engine.read()
        between_s, first_s = sorted(self._between_s), sorted(self._first_s)
        row = (
            round(time.time(), 3),
            served.active - served.waiting,
            served.waiting,
            (tokens - self._seen_tokens) / elapsed_s,
            cache,
            quantile(first_s, 0.5),
            quantile(first_s, 0.99),
            half_gap if half_gap is not None else quantile(between_s, 0.5),
            most_gap if most_gap is not None else quantile(between_s, 0.99),
            self._ended / elapsed_s,
            self._errors.total() / elapsed_s,
            LOOP_HOLD.take_shown(),
        )
        self.series.add(row, self._errors)
        self._seen_tokens, self._ended, self._errors = tokens, 0, Counter()
        self._first_s.clear()
        self._between_s.clear()
