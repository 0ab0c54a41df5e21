"""Count the refusals of process-wide bounds, and log them: a line per bound at once, then one in LOG_EVERY_S."""

import logging
import time
from collections import Counter

from lmi_chat.observability.metrics import BOUND_REACHED

LOG_EVERY_S = 10.0
log = logging.getLogger(__name__)
_logged_at: dict[str, float] = {}
_unlogged: Counter[str] = Counter()


def record(bound: str, text: str) -> None:
    """Count that `bound`, the name of its setting, was reached, and log `text`, a sentence, unless it just was."""
    BOUND_REACHED.labels(bound).inc()
    _unlogged[bound] += 1
    now = time.monotonic()
    if now - _logged_at.get(bound, -LOG_EVERY_S) >= LOG_EVERY_S:
        _logged_at[bound] = now
        times = _unlogged.pop(bound)
        log.warning("%s: %s%s", bound, text, f" ({times} times since the last such line)" if times > 1 else "")
