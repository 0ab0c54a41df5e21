"""Keep the figures of each of the last seconds."""

from collections import Counter, deque

from lmi_chat.console.answers import COLUMNS, Row, SeriesAnswer

STEP_S = 1.0
ROWS_MOST = 900


class Series:
    """Rows of COLUMNS, one for each second, and the errors of that second by code."""

    def __init__(self) -> None:
        """Begin without any."""
        self._rows: deque[tuple[Row, Counter[str] | None]] = deque(maxlen=ROWS_MOST)

    def add(self, row: Row, errors: Counter[str]) -> None:
        """Add a second."""
        self._rows.append((row, errors or None))

    def last(self, seconds: int, now: float) -> SeriesAnswer:
        """The last `seconds` rows; without any they end `now`."""
        chosen = [self._rows[place] for place in range(max(0, len(self._rows) - seconds), len(self._rows))]
        errors: Counter[str] = Counter()
        for _, of_second in chosen:
            errors.update(of_second or {})
        return {
            "step_s": STEP_S,
            "end": (chosen[-1][0][0] if chosen else None) or now,
            "columns": [*COLUMNS],
            "rows": [[*row] for row, _ in chosen],
            "errors": dict(errors),
        }
