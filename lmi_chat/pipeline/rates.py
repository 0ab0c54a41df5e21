"""Count the requests and tokens of each API key, and refuse those beyond its rate.

A key may use a minute's worth at once; what it uses comes back evenly over a minute. Tokens are counted when an answer
ends, so that one answer may overdraw, and the next request waits for that.
"""

import math
import time
from dataclasses import dataclass

from lmi_chat.errors import RateLimited
from lmi_chat.limits import RateLimits
from lmi_chat.observability import refusals

MINUTE_S = 60.0


@dataclass(slots=True)
class _Budget:
    """What is left of one minute's `most`, as of the time `at`."""

    most: int
    left: float
    at: float

    def refill(self, now: float) -> None:
        self.left = min(float(self.most), self.left + (now - self.at) * self.most / MINUTE_S)
        self.at = now

    def wait_s(self, wanted: float) -> float:
        """Seconds until `wanted` are left; 0 when they are."""
        return max(0.0, (wanted - self.left) * MINUTE_S / self.most)


class Rates:
    """The rates of all keys of one server; without keys, of all requests together. `is_on`: one is bounded."""

    def __init__(self, limits: RateLimits | None = None) -> None:
        """Allow each key `limits`; None: any number."""
        limits = limits or RateLimits()
        self._most = {"requests": limits.requests, "tokens": limits.tokens}
        self.is_on = any(self._most.values())
        self._budgets: dict[tuple[str, str], _Budget] = {}

    def admit(self, owner: str) -> None:
        """Count a request of `owner`. Raises RateLimited, which says when to come back."""
        if not self.is_on:
            return
        for kind in self._most:
            budget = self._budget(owner, kind)
            if budget is not None and (wait_s := budget.wait_s(1)):
                bound = f"{kind}_per_minute"
                whose = f"the key {owner} has" if owner else "all requests together have"
                text = f"{whose} used the {budget.most} {kind} of a minute ({bound})"
                error = RateLimited(f"{text}; send the request again in {math.ceil(wait_s)} s")
                error.retry_after_s = math.ceil(wait_s)
                refusals.record(bound, error.message)
                raise error
        if (budget := self._budget(owner, "requests")) is not None:
            budget.left -= 1

    def charge(self, owner: str, tokens: int) -> None:
        """Count the tokens of a request of `owner`, prompt and answer, at its end."""
        if self.is_on and (budget := self._budget(owner, "tokens")) is not None:
            budget.left -= tokens

    def _budget(self, owner: str, kind: str) -> _Budget | None:
        most = self._most[kind]
        if not most:
            return None
        now = time.monotonic()
        budget = self._budgets.setdefault((owner, kind), _Budget(most, most, now))
        budget.refill(now)
        return budget
