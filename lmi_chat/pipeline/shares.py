"""Run the jobs of one request side by side, each as soon as the engine has room for it.

One job waits at a time, so that a request of a thousand sequences enters the engine by its share of the seats and
stands behind every other that holds fewer.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass

from lmi_chat.engine import Engine
from lmi_chat.errors import Error, TimedOut, unforeseen
from lmi_chat.job import Delta, Event, Finish, Finished, Job, Sink, TokenSink
from lmi_chat.pipeline.response import ResponseStream

Acquire = Callable[[Job], AbstractAsyncContextManager[None]]
"""Waits for the seats of a job and holds them."""


@dataclass(frozen=True, slots=True)
class Slot:
    """A request's place in the engine: the seats of its first job, and what waits for those of another."""

    engine: Engine
    seats: AsyncExitStack
    acquire: Acquire


class _Feeder:
    """Lets the jobs of one request begin, one after the other."""

    def __init__(self, slot: Slot, response: ResponseStream, jobs: Sequence[Job], token_sink: TokenSink | None) -> None:
        self._engine, self._acquire = slot.engine, slot.acquire
        self._response, self._jobs, self._token_sink = response, jobs, token_sink
        self._entering: asyncio.Task[None] | None = None
        self._cut_by: Error | None = None

    def cut(self, error: Error) -> None:
        """Let no further job begin: `error` says why."""
        self._cut_by = error
        if self._entering is not None:
            self._entering.cancel()

    async def feed(self, seats: AsyncExitStack) -> None:
        """Begin each job when it has its seats, the first with `seats`; return when all are over."""
        held = [seats]
        try:
            async with asyncio.TaskGroup() as group:
                for place, (job, sink) in enumerate(zip(self._jobs, self._response.sinks(), strict=True)):
                    held += [AsyncExitStack()] if place else []
                    if place and not await self._enter(job, held[-1]):
                        self._end_empty(job, sink)
                    else:
                        group.create_task(self._run(job, sink, held[-1]))
        finally:
            for each in held:  # also of a job that was ended before it ran
                await each.aclose()

    async def _enter(self, job: Job, seats: AsyncExitStack) -> bool:
        """Wait for the seats of a job; False when the answer is cut meanwhile, or when the job cannot begin."""
        if self._cut_by is not None:
            return False
        self._entering = asyncio.create_task(seats.enter_async_context(self._acquire(job)))
        try:
            await self._entering
        except asyncio.CancelledError:
            if self._was_cut():
                return False
            self._entering.cancel()
            raise
        except Error as error:
            self._response.put(error)
            return False
        finally:
            self._entering = None
        return True

    def _was_cut(self) -> bool:
        return self._cut_by is not None and self._entering is not None and self._entering.cancelled()

    async def _run(self, job: Job, sink: Sink, seats: AsyncExitStack) -> None:
        over = asyncio.Event()

        def put(event: Event) -> None:
            sink(event)
            if not isinstance(event, Delta):
                over.set()

        async with seats:
            try:
                async with self._engine.run(job, put, self._token_sink) as run:
                    self._response.note_run(job, run)
                    await over.wait()
            except Error as error:
                self._response.put(error)

    def _end_empty(self, job: Job, sink: Sink) -> None:
        """End a job that never began: a vector cannot be empty, a text can."""
        if job.pooling is not None:
            self._response.put(self._cut_by or TimedOut("the answer was cut"))
            return
        width, finish = job.width // job.copies, Finish("time_limit")
        for index in range(width):
            sink(Delta(index, "", [], finish=finish))
        sink(Finished(prompt_tokens=len(job.prompt_ids), completion_tokens=0, reasons=(finish.reason,) * width))


@contextlib.asynccontextmanager
async def running(
    slot: Slot, response: ResponseStream, jobs: Sequence[Job], token_sink: TokenSink | None
) -> AsyncIterator[None]:
    """Run all `jobs` into the sinks of `response` during this block.

    A job that fails is the answer's Error; what has not begun when the answer is cut ends empty.
    """
    feeder = _Feeder(slot, response, jobs, token_sink)
    task = asyncio.create_task(feeder.feed(slot.seats.pop_all()))

    def note(ended: asyncio.Task[None]) -> None:
        if not ended.cancelled() and isinstance(failure := ended.exception(), Exception):
            response.put(unforeseen(failure))

    task.add_done_callback(note)
    response.on_cut = feeder.cut
    try:
        yield
    finally:
        response.on_cut = None
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
