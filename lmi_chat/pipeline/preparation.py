"""Run the slow work of requests with media or a recording, a few at once, in threads of their own.

Slow hosts and long recordings so take threads from nobody else, and those that wait are bounded in number and time.
"""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from lmi_chat.errors import Busy, TimedOut
from lmi_chat.pipeline.deadline import Deadline

Result = TypeVar("Result")


class Preparation:
    """Requests of one sort that are being prepared; `what` names them in a refusal."""

    def __init__(self, what: str) -> None:
        """Begin with none, and no thread."""
        self._what = what
        self._threads: ThreadPoolExecutor | None = None
        self._count = 0

    async def run(self, work: Callable[[], Result], *, at_once: int, most_waiting: int, deadline: Deadline) -> Result:
        """Do the work of one request in a thread; `at_once` is the same in all calls. Raises Busy, TimedOut."""
        if self._threads is None:
            self._threads = ThreadPoolExecutor(at_once, self._what.replace(" ", "-"))
        if self._count >= at_once + most_waiting:
            raise Busy(f"{self._count} {self._what} are being prepared (option.job_queue_size)")
        self._count += 1
        try:
            async with deadline.bound():
                return await asyncio.get_running_loop().run_in_executor(self._threads, work)
        except TimeoutError:
            raise TimedOut(f"no answer within {deadline.seconds:g} s") from None
        finally:
            self._count -= 1
