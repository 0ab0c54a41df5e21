"""Run every request: parse, admit, generate, render, frame. Slots, deadlines, cancelling; no HTTP, no vLLM.

    bytes → wire.read → dialect → Job → engine.run(job) → Delta … Finished → render → framing → bytes

A whole answer is the same line: its render gives one payload at the end. The slot and the engine's request belong to
one `async with`, so a client that goes, a deadline and a failure all leave by the same door.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator, Sequence
from dataclasses import dataclass, field

from lmi_chat.codec import framing
from lmi_chat.dialects import Deployment, ParsedRequest
from lmi_chat.dialects.chat.session import NEW
from lmi_chat.dialects.formatters import Formatters
from lmi_chat.engine import Engine
from lmi_chat.errors import BadField, CutOff, Draining, EngineDown, Error, Loading, Problem, TimedOut
from lmi_chat.job import Delta, Finished, Job, PoolingParams, SamplingParams
from lmi_chat.limits import Limits, PipelineLimits
from lmi_chat.observability.access_log import RequestLog
from lmi_chat.pipeline import parsing
from lmi_chat.pipeline.admission import AdmissionQueue
from lmi_chat.pipeline.output import ResponseSink
from lmi_chat.pipeline.request import InferenceRequest
from lmi_chat.pipeline.response import ResponseStream
from lmi_chat.storage.sessions import Session, Sessions

INLINE_BYTES = 4 * 1024
"""Bodies up to this size are read on the event loop, in about 2 ms; 32 KiB would stop every stream for 26."""
# A few more than run at once go to the engine, so that it need not wait for us when one ends.
SPARE_LEAST, SPARE_PART = 1, 8
# Of those that run at once, one user leaves so many to others.
RESERVED_PART = 64
CANARY, PROOF = "The capital of France is", SamplingParams(temperature=0.0, max_tokens=2, logprobs=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineConfig(PipelineLimits):
    """What the deployment has decided: its limits, and what it hands to every request."""

    output_formatter: str = ""
    sessions: Sessions | None = None
    limits: Limits = field(default_factory=Limits)
    hooks: Formatters = field(default_factory=Formatters)
    request_log: RequestLog = field(default_factory=RequestLog)


class Pipeline:
    """All requests of one served model."""

    def __init__(self, policy: PipelineConfig) -> None:
        """Start closed: every request is told that the model is loading until `open` is called."""
        self._policy = policy
        self._engine: Engine | None = None
        self._deployment: Deployment | None = None
        self._admission: AdmissionQueue | None = None
        self._active: set[ResponseStream] = set()
        self._promised = 0
        self._is_over = False
        self._busy_since = 0.0
        self._closed_by: Error = Loading("the model is still loading; /ping says how far")
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def active(self) -> int:
        """Requests that hold a slot."""
        return len(self._active)

    @property
    def waiting(self) -> int:
        """Those of them that wait for a seat at the engine."""
        return self._admission.queued if self._admission else 0

    @property
    def max_running(self) -> int:
        """Sequences that the engine runs at once. Raises Loading before `open`."""
        if self._engine is None:
            raise self._closed_by
        return self._engine.model.max_running

    @property
    def stalled_s(self) -> float:
        """Seconds since the engine's last step, if work waits for longer than it may; else 0."""
        if self._engine is None or not self._active:
            return 0.0
        idle_s = time.monotonic() - max(self._engine.stepped_at, self._busy_since)
        return idle_s if idle_s > self._policy.stall_s else 0.0

    @property
    def request_log(self) -> RequestLog:
        """Where requests are told of."""
        return self._policy.request_log

    @property
    def refusal(self) -> Error | None:
        """Why no request is taken, or None when the line is open."""
        if self._engine is None or self._deployment is None:
            return self._closed_by
        if self._engine.is_dead:
            return EngineDown("the engine is gone; this server is ending")
        return self._closed_by if isinstance(self._closed_by, Draining) else None

    def _check_open(self, call: InferenceRequest) -> None:
        """Raises the refusal; what was promised before a drain is still taken while the drain lasts."""
        refusal = self.refusal
        if refusal and not (call.is_promised and isinstance(refusal, Draining) and not self._is_over):
            raise refusal

    @property
    def has_sessions(self) -> bool:
        """Whether conversations can be held here."""
        return self._policy.sessions is not None

    @property
    def deployment(self) -> Deployment:
        """The deployment as dialects see it. Raises Loading before `open`."""
        if self._deployment is None:
            raise self._closed_by
        return self._deployment

    async def open(self, engine: Engine, deployment: Deployment) -> None:
        """Generate a first token, or embed a first text, as a proof; then take requests. Raises the canary's Error."""
        ids = deployment.template.encode(CANARY, add_special_tokens=True)
        pooling = PoolingParams() if engine.model.space else None
        job = Job(id="canary", prompt_ids=ids, prompt_text=CANARY, sampling=PROOF, pooling=pooling)
        delivery = ResponseStream(_Silence(), framing.DOCUMENT, (job,))
        async with engine.run(job, delivery.put):
            await delivery.over()
        running = engine.model.max_running
        spare = max(SPARE_LEAST, running // SPARE_PART)
        share = running - max(1, running // RESERVED_PART) if running > 1 else None
        self._admission = AdmissionQueue(running + spare, self._policy.queue, share)
        self._engine, self._deployment = engine, deployment

    async def answer(self, call: InferenceRequest, out: ResponseSink) -> None:
        """Answer one request. Raises an Error when nothing was sent yet; after that errors are frames."""
        with self._turn(call) as session:
            task = await self._intake(call, session)
            if not call.is_promised:  # that is asked again when it finds no seat
                call.body = b""
            if isinstance(task, bytes):
                await out.whole(task, framing.DOCUMENT.content_type)
            else:
                await self._give(task, call, out)

    async def _give(self, task: ParsedRequest, call: InferenceRequest, out: ResponseSink) -> None:
        """Run a task's jobs and send what comes of them."""
        shape = framing.choose(call.accept, self._policy.output_formatter, task.shape or call.route_shape)
        framed = framing.framing(shape if task.is_stream else "document", has_end=task.has_end)
        delivery = ResponseStream(task.render, framed, task.jobs)
        seconds = call.deadline_s or self._policy.deadline_s
        try:
            async with asyncio.timeout(seconds):
                async with self._slot(task, call, delivery) as engine, contextlib.AsyncExitStack() as runs:
                    call.body = b""
                    token_sink = delivery.token_sink(is_stream=task.is_stream)
                    for job, sink in zip(task.jobs, delivery.sinks(), strict=True):
                        delivery.runs.append(await runs.enter_async_context(engine.run(job, sink, token_sink)))
                    await delivery.begun()
                    if task.is_stream:
                        await out.start(framed.content_type)
                        delivery.send_by(out.write, out.fail)
                        await delivery.over()
        except TimeoutError:
            delivery.put(TimedOut(f"the answer was not complete within {seconds:g} s"))
            if not delivery.is_sending:
                raise TimedOut(f"no answer within {seconds:g} s") from None
        finally:
            delivery.tell(call.record)
        if task.is_stream:
            await out.end()
        else:
            await out.whole(delivery.document(), framed.content_type)

    @contextlib.contextmanager
    def _turn(self, call: InferenceRequest) -> Iterator[Session | None]:
        """The session that the call belongs to, held for its answer. Raises BadField, Conflict."""
        if not call.session_id or call.session_id == NEW:
            yield None
            return
        if self._policy.sessions is None:
            text = "session: sessions are off (option.enable_stateful_sessions)"
            raise BadField([Problem("session", text)])
        session = self._policy.sessions.get(call.session_id)
        with session.turn():
            yield session

    async def _intake(self, call: InferenceRequest, session: Session | None) -> ParsedRequest | bytes:
        """Read the bytes. All parsing ends here, before a slot is taken; what is long is read off the event loop.

        That is a long body, and a session's turn, whose prompt is all that was said before.
        What needs no engine, opening or closing a session, is answered at once: its document.
        """
        self._check_open(call)
        if len(call.body) <= INLINE_BYTES and session is None and not self._policy.hooks.can_read:
            return self._parse(call, session)
        return await asyncio.to_thread(self._parse, call, session)

    def _parse(self, call: InferenceRequest, session: Session | None) -> ParsedRequest | bytes:
        policy = self._policy
        return parsing.parse(call, session, self.deployment, policy.sessions, policy.limits, policy.hooks)

    @contextlib.asynccontextmanager
    async def _slot(
        self, task: ParsedRequest, call: InferenceRequest, delivery: ResponseStream
    ) -> AsyncIterator[Engine]:
        """Count as running until the end; wait for one's turn at the engine. Raises Busy."""
        self._check_open(call)
        if self._engine is None or self._admission is None:
            raise self._closed_by
        if not self._active:
            self._busy_since = time.monotonic()
        self._active.add(delivery)
        self._idle.clear()
        try:
            priority = task.job.priority if self._engine.model.has_priority else 0
            limit_s = None if call.is_promised else self._policy.finish_before_s or None
            began_s = call.record.age_s
            wait_s = None if limit_s is None else limit_s - began_s
            async with self._admission.acquire(task.user, sum(job.width for job in task.jobs), priority, wait_s=wait_s):
                call.record.seated_s = call.record.age_s
                call.record.queue_s = call.record.seated_s - began_s
                with delivery.limited(limit_s, call.record):
                    yield self._engine
        finally:
            self._active.discard(delivery)
            self._settle()

    @contextlib.contextmanager
    def promise(self) -> Iterator[None]:
        """Work accepted for later: a drain waits for it as for what runs; its calls are `is_promised`."""
        self._promised += 1
        self._idle.clear()
        try:
            yield
        finally:
            self._promised -= 1
            self._settle()

    def _settle(self) -> None:
        if not self._active and not self._promised:
            self._idle.set()

    async def drain(self, seconds: float) -> None:
        """Take nothing more; wait up to `seconds` for what runs, then end the rest with an error of its own."""
        self._closed_by = Draining("the server is shutting down")
        try:
            async with asyncio.timeout(seconds):
                await self._idle.wait()
        except TimeoutError:
            self._is_over = True
            self.fail_all(CutOff("the server is shutting down and this answer was not complete in time"))
            await self._idle.wait()

    def fail_all(self, error: Error) -> None:
        """End every running answer with `error`."""
        for delivery in list(self._active):
            delivery.put(error)


class _Silence:
    """The canary's render: nobody reads it."""

    def delta(self, delta: Delta) -> Sequence[bytes]:  # noqa: ARG002
        return ()

    def done(self, done: Finished) -> Sequence[bytes]:  # noqa: ARG002
        return (b"",)

    def fail(self, error: Error) -> bytes:  # noqa: ARG002
        return b""


__all__ = ["InferenceRequest", "Pipeline", "PipelineConfig", "ResponseSink"]
