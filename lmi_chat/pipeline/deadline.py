"""Decide when a request's time is over: one bound for its preparation, its wait and its answer."""

import asyncio
from typing import NamedTuple


class Deadline(NamedTuple):
    """A request had `seconds`, which end `at` a time of the event loop's clock."""

    seconds: float
    at: float

    @classmethod
    def after(cls, seconds: float) -> "Deadline":
        """The deadline of what begins now."""
        return cls(seconds, asyncio.get_running_loop().time() + seconds)

    def bound(self) -> asyncio.Timeout:
        """Bound a block by what is left. It raises TimeoutError."""
        return asyncio.timeout_at(self.at)
