"""Note the gaps between the tokens of running requests, by looking at their counts once a second."""

from array import array
from collections.abc import Iterable
from statistics import median

from lmi_chat.observability.record import RequestRecord

SECONDS_MOST = 240
"""Of one request, so many of the last looks are kept."""


class _Gaps:
    """The gaps of one request: of each look that found new tokens, the mean time between two of one sequence."""

    __slots__ = ("at", "means", "tokens")

    def __init__(self, at: float, tokens: int) -> None:
        self.at, self.tokens = at, tokens
        self.means = array("f")

    def look(self, now: float, tokens: int, width: int) -> None:
        if not self.tokens:  # until the first token there is no gap
            self.at, self.tokens = now, tokens
        elif tokens > self.tokens:
            if len(self.means) == SECONDS_MOST:
                del self.means[0]
            self.means.append((now - self.at) * width / (tokens - self.tokens))
            self.at, self.tokens = now, tokens


class RunningGaps:
    """The gaps of all requests that run."""

    def __init__(self) -> None:
        """Begin with none."""
        self._of: dict[int, _Gaps] = {}  # by the identity of the record

    def look(self, now: float, running: Iterable[tuple[RequestRecord, int, int]]) -> int:
        """Look at each running request: its record, sequences and tokens so far. Gives the tokens of all."""
        found: dict[int, _Gaps] = {}
        total = 0
        for record, width, tokens in running:
            gaps = self._of.get(id(record))
            if gaps is None:
                gaps = _Gaps(now, tokens)
            else:
                gaps.look(now, tokens, width)
            found[id(record)] = gaps
            total += tokens
        self._of = found
        return total

    def take(self, record: RequestRecord) -> tuple[float | None, float | None]:
        """The median gap of a request that has ended, and its longest; one that was short has a mean alone."""
        gaps = self._of.pop(id(record), None)
        if gaps is not None and gaps.means:
            return median(gaps.means), max(gaps.means)
        count = record.completion_tokens / record.width - 1
        return (record.decode_s / count if record.decode_s is not None and count > 0 else None), None
