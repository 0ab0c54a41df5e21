"""The line itself: admit → parse → run → render → frame. Slots, deadlines, cancellation stand here; no HTTP, no vLLM.

    bytes → wire.read → dialect → Job → engine.run(job) → Piece … Done → render → framing → bytes

A whole answer is the same line: its render gives one payload at the end. The slot and the engine's request belong to
one `async with`, so a client that goes, a deadline and a failure all leave by the same door.
"""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Protocol

from lmi_chat import dialects, frames, wire
from lmi_chat.bounds import Limits
from lmi_chat.dialects import Desk, Task
from lmi_chat.dialects.desk import Render
from lmi_chat.engine import Engine
from lmi_chat.errors import BadMedia, Draining, EngineDown, Error, Loading, TimedOut
from lmi_chat.frames import Framing, Shape
from lmi_chat.job import Done, Event, Job, Piece, Sampling, Sink
from lmi_chat.seats import Seats

INLINE_BYTES = 32 * 1024
# A few more than run at once go to the engine, so that it need not wait for us when one ends.
SPARE_LEAST, SPARE_PART = 1, 8
CANARY = "The capital of France is"


@dataclass(slots=True, kw_only=True)
class Call:
    """One request as a surface hands it in. `dialect` is filled in as soon as it is known, for an error's shape."""

    body: bytes
    id: str
    content_type: str = "application/json"
    content_encoding: str = ""
    accept: str = ""
    route_shape: Shape = "lines"
    forced: str | None = None
    dialect: str = ""
    warnings: list[str] = field(default_factory=list)


class Out(Protocol):
    """Where an answer goes: HTTP, DJL, a test."""

    async def whole(self, body: bytes, content_type: str) -> None:
        """Send one document."""

    async def start(self, content_type: str) -> None:
        """Begin a stream."""

    def write(self, data: bytes) -> None:
        """Send one frame of a stream; returns at once and never fails for a client that is gone."""

    async def end(self) -> None:
        """End the stream."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """What the deployment has decided about admission and time, in seconds."""

    queue: int = 256
    deadline_s: float = 480.0
    output_formatter: str = ""
    is_strict: bool = False
    finish_words: dict[str, str] | None = None
    chat_template: str | None = None
    limits: Limits = field(default_factory=Limits)


class Line:
    """All requests of one served model."""

    def __init__(self, policy: Policy) -> None:
        """Start closed: every request is told that the model is loading until `open` is called."""
        self._policy = policy
        self._engine: Engine | None = None
        self._desk: Desk | None = None
        self._seats: Seats | None = None
        self._active: set[Delivery] = set()
        self._closed_by: Error = Loading("the model is still loading; /ping says how far")
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def active(self) -> int:
        """Requests that hold a slot."""
        return len(self._active)

    @property
    def refusal(self) -> Error | None:
        """Why no request is taken, or None when the line is open."""
        if self._engine is None or self._desk is None:
            return self._closed_by
        if self._engine.is_dead:
            return EngineDown("the engine is gone; this server is ending")
        return self._closed_by if self._is_closed else None

    @property
    def _is_closed(self) -> bool:
        return isinstance(self._closed_by, Draining)

    @property
    def limits(self) -> Limits:
        """How much one request may ask for."""
        return self._policy.limits

    @property
    def desk(self) -> Desk:
        """The deployment as dialects see it. Raises Loading before `open`."""
        if self._desk is None:
            raise self._closed_by
        return self._desk

    async def open(self, engine: Engine, desk: Desk) -> None:
        """Generate a first token as a proof, then take requests. Raises the canary's Error."""
        ids = desk.template.encode(CANARY, add_special_tokens=True)
        sampling = Sampling(temperature=0.0, max_tokens=2, logprobs=1)
        job = Job(id="canary", prompt_ids=ids, prompt_text=CANARY, sampling=sampling)
        delivery = Delivery(_Silence(), frames.DOCUMENT, (job,))
        async with engine.run(job, delivery.put):
            await delivery.over()
        running = engine.model.max_running
        self._seats = Seats(running + max(SPARE_LEAST, running // SPARE_PART), self._policy.queue)
        self._engine, self._desk = engine, desk

    async def answer(self, call: Call, out: Out) -> None:
        """Answer one request. Raises an Error when nothing was sent yet; after that errors are frames."""
        task = await self._intake(call)
        shape = frames.choose(call.accept, self._policy.output_formatter, call.route_shape)
        framing = frames.framing(shape if task.is_stream else "document", has_end=task.has_end)
        delivery = Delivery(task.render, framing, task.jobs)
        try:
            async with asyncio.timeout(self._policy.deadline_s):
                async with self._slot(task, delivery) as engine, contextlib.AsyncExitStack() as runs:
                    for job, sink in zip(task.jobs, delivery.sinks(), strict=True):
                        await runs.enter_async_context(engine.run(job, sink))
                    await delivery.begun()
                    if task.is_stream:
                        await out.start(framing.content_type)
                        delivery.send_by(out.write)
                        await delivery.over()
        except TimeoutError:
            delivery.put(TimedOut(f"the answer was not complete within {self._policy.deadline_s:g} s"))
            if not delivery.is_sending:
                raise TimedOut(f"no answer within {self._policy.deadline_s:g} s") from None
        if task.is_stream:
            await out.end()
        else:
            await out.whole(delivery.document(), framing.content_type)

    async def _intake(self, call: Call) -> Task:
        """Bytes → Task. All parsing ends here, before a slot is taken; long bodies are read off the event loop."""
        if self.refusal:
            raise self.refusal
        if len(call.body) <= INLINE_BYTES:
            return self._parse(call)
        return await asyncio.to_thread(self._parse, call)

    def _parse(self, call: Call) -> Task:
        body = _read(call, self._policy.limits)
        call.dialect = dialects.choose(body, call.forced)
        task = dialects.parse(body, self.desk, call.id, call.dialect)
        call.warnings = task.unknown
        return task

    @contextlib.asynccontextmanager
    async def _slot(self, task: Task, delivery: "Delivery") -> AsyncIterator[Engine]:
        """Count as running until the end; wait for one's turn at the engine. Raises Busy."""
        if self.refusal or self._engine is None or self._seats is None:
            raise self.refusal or self._closed_by
        self._active.add(delivery)
        self._idle.clear()
        try:
            async with self._seats.take(task.user, sum(job.width for job in task.jobs)):
                yield self._engine
        finally:
            self._active.discard(delivery)
            if not self._active:
                self._idle.set()

    async def drain(self, seconds: float) -> None:
        """Take nothing more; wait up to `seconds` for what runs, then end the rest with an error of its own."""
        self._closed_by = Draining("the server is shutting down")
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            self.fail_all(Draining("the server is shutting down and this answer was not complete in time"))
            await self._idle.wait()

    def fail_all(self, error: Error) -> None:
        """End every running answer with `error`."""
        for delivery in list(self._active):
            delivery.put(error)


def _read(call: Call, limits: Limits) -> wire.Json:
    if call.content_encoding not in ("", "identity"):
        raise BadMedia("content-encoding must be absent or identity; send the body uncompressed")
    media, _, rest = call.content_type.partition(";")
    charset = rest.partition("charset=")[2].strip().strip('"').lower()
    if charset not in ("", "utf-8", "utf8"):
        raise BadMedia("the charset of content-type must be utf-8")
    match media.strip().lower():
        case "" | "application/json":
            return wire.read(call.body, depth=limits.max_json_depth, lengths={"messages": limits.max_messages})
        case "text/plain" if call.forced in (None, "standard"):
            return {"inputs": wire.text(call.body)}
        case _:
            raise BadMedia("content-type must be application/json or text/plain")


class _Silence:
    """The canary's render: nobody reads it."""

    def piece(self, piece: Piece) -> Sequence[bytes]:  # noqa: ARG002
        return ()

    def done(self, done: Done) -> Sequence[bytes]:  # noqa: ARG002
        return (b"",)

    def fail(self, error: Error) -> bytes:  # noqa: ARG002
        return b""


class Delivery:
    """Events in, frames out: where an engine's event becomes bytes, without a task switch.

    Frames wait here until the answer has begun on the wire; from then on each goes straight to `write`.
    """

    def __init__(self, render: Render, framing: Framing, jobs: Sequence[Job]) -> None:
        """Render the events of `jobs` by `render` and frame them by `framing`."""
        self._render, self._framing, self._jobs = render, framing, jobs
        self._dones: list[Done | None] = [None] * len(jobs)
        self._waiting: list[bytes] = []
        self._write: Callable[[bytes], None] = self._waiting.append
        self._begun = asyncio.Event()
        self._over = asyncio.Event()
        self._error: Error | None = None
        self.is_sending = False

    def sinks(self) -> list[Sink]:
        """One for each job. A single plain job's is `put` itself."""
        if len(self._jobs) == 1 and self._jobs[0].copies == 1:
            return [self.put]
        starts = itertools.accumulate((job.width for job in self._jobs), initial=0)
        places = range(len(self._jobs))
        return [partial(self._put_part, place, start) for place, start in zip(places, starts, strict=False)]

    def _put_part(self, place: int, start: int, event: Event) -> None:
        """An event of one job among several: sequences count through all of them, its end is a part of the end."""
        job = self._jobs[place]
        match event:
            case Piece():
                for copy in range(job.copies):
                    self.put(replace(event, index=start + event.index * job.copies + copy))
            case Done():
                self._dones[place] = replace(event, completion_tokens=event.completion_tokens * job.copies)
                dones = [done for done in self._dones if done is not None]
                if len(dones) == len(self._jobs):
                    self.put(_sum(dones))
            case Error():
                self.put(event)

    def put(self, event: Event) -> None:
        """Take one event; anything after the end is dropped."""
        if self._over.is_set():
            return
        match event:
            case Piece():
                payloads = self._render.piece(event)
            case Done():
                payloads = self._render.done(event)
                self._over.set()
            case Error():
                self._error = event
                payloads = (self._render.fail(event),) if self.is_sending or self._waiting else ()
                self._over.set()
        head, tail = self._framing.head, self._framing.tail
        for payload in payloads:
            self._write(head + payload + tail)
        if self._over.is_set() and self._error is None and self._framing.end:
            self._write(self._framing.end)
        if payloads or self._over.is_set():
            self._begun.set()

    async def begun(self) -> None:
        """Wait for the first frame. Raises the job's Error when it failed before one."""
        await self._begun.wait()
        if self._error is not None and not self._waiting:
            raise self._error

    def send_by(self, write: Callable[[bytes], None]) -> None:
        """The answer has begun on the wire: send what waits, then every frame as it comes."""
        self.is_sending = True
        for data in self._waiting:
            write(data)
        self._waiting.clear()
        self._write = write

    async def over(self) -> None:
        """Wait for the job's end. Raises its Error when nothing of it was sent."""
        await self._over.wait()
        if self._error is not None and not self.is_sending:
            raise self._error

    def document(self) -> bytes:
        """The whole answer."""
        return b"".join(self._waiting)


def _sum(dones: Sequence[Done]) -> Done:
    if len(dones) == 1:
        return dones[0]
    return Done(
        prompt_tokens=sum(done.prompt_tokens for done in dones),
        completion_tokens=sum(done.completion_tokens for done in dones),
        cached_tokens=sum(done.cached_tokens for done in dones),
        parts=tuple(dones),
    )
