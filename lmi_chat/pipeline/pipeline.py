"""Run every request: parse, admit, generate, render, frame. Slots, deadlines, cancelling; no HTTP, no vLLM.

    bytes → json_text.read → dialect → Job → engine.run(job) → Delta … Finished → render → framing → bytes

A whole answer takes the same path: its render gives one payload at the end. The slot and the engine's request belong to
one `async with`, so a client that goes, a deadline and a failure all leave by the same door.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from functools import partial

from lmi_chat.adapters.registry import AdapterRegistry
from lmi_chat.audio import wav
from lmi_chat.codec import framing
from lmi_chat.dialects import COUNTS, Deployment, ParsedRequest
from lmi_chat.dialects.chat.session import NEW
from lmi_chat.dialects.formatters import Formatters
from lmi_chat.engine import Engine, Model, Run
from lmi_chat.errors import (
    AdaptersOff,
    BadField,
    CutOff,
    Draining,
    EngineDown,
    Error,
    Loading,
    NotFound,
    Problem,
    TimedOut,
)
from lmi_chat.job import Adapter, Delta, Finished, Job, PoolingParams, SamplingParams, SpeechParams
from lmi_chat.limits import Limits, PipelineLimits
from lmi_chat.observability.access_log import RequestLog
from lmi_chat.observability.record import RequestRecord
from lmi_chat.pipeline import metering, parsing, records, shares
from lmi_chat.pipeline.admission import AdmissionQueue
from lmi_chat.pipeline.deadline import Deadline
from lmi_chat.pipeline.output import ResponseSink
from lmi_chat.pipeline.preparation import Preparation
from lmi_chat.pipeline.prepared_media import PreparedMedia
from lmi_chat.pipeline.rates import Rates
from lmi_chat.pipeline.request import InferenceRequest
from lmi_chat.pipeline.response import ResponseStream
from lmi_chat.storage.sessions import Sessions, Turn

INLINE_BYTES = 4 * 1024
"""Bodies up to this size are read on the event loop, in about 2 ms; 32 KiB would stop every stream for 26."""
GOES_ON = (b"previous_response_id", b"\\u00")
"""One of these stands in every body that goes on with a stored response, which is read from a file."""
STORED_AT_ONCE = 4
"""Requests that wait at once for what is stored: behind a slow disk nobody else waits with them."""
FILES_AT_ONCE = 2
"""Recordings that are decoded at once: each keeps a core busy."""
# A few more than run at once go to the engine, so that it need not wait for us when one ends.
SPARE_LEAST, SPARE_PART = 1, 8
# Of those that run at once, one user leaves so many to others.
RESERVED_PART = 64
CANARY, PROOF = "The capital of France is", SamplingParams(temperature=0.0, max_tokens=2, logprobs=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineConfig(PipelineLimits):
    """The deployment's limits, and its sessions, formatters and log."""

    output_formatter: str = ""
    sessions: Sessions | None = None
    limits: Limits = field(default_factory=Limits)
    formatters: Formatters = field(default_factory=Formatters)
    request_log: RequestLog = field(default_factory=RequestLog)
    rates: Rates = field(default_factory=Rates)
    cache_salt_by: str = "key"  # or user, or none
    shows_cached_tokens: bool = True
    warns_in_attributes: bool = False  # in the answer's Custom-Attributes, which the platform hands on
    metered_by: metering.Unit = "off"
    turns_by: str = "user"  # or prefix_aware_id


class Pipeline:
    """Runs all requests of one served model."""

    def __init__(self, config: PipelineConfig) -> None:
        """Begin closed: every request is refused with Loading until `open` is called."""
        self._config = config
        self._engine: Engine | None = None
        self._deployment: Deployment | None = None
        self._admission: AdmissionQueue | None = None
        self._adapters: AdapterRegistry | None = None
        self._active: dict[ResponseStream, RequestRecord] = {}
        self._large = ThreadPoolExecutor(1, "large-bodies")
        self._stored = ThreadPoolExecutor(STORED_AT_ONCE, "stored-responses")
        self._with_media, self._recordings = Preparation("requests with media"), Preparation("recordings")
        self._prepared_media = PreparedMedia()
        self._promised = 0
        self._is_over = False
        self._busy_since = 0.0
        self._closed_by: Error = Loading("the model is still loading; /ping says how far")
        self._idle = asyncio.Event()
        self._idle.set()

    @property
    def active(self) -> int:
        """Count the requests that hold a slot."""
        return len(self._active)

    def progress(self) -> Iterator[tuple[RequestRecord, int, int]]:
        """Go through the requests that hold a slot: each one's record, its sequences and their tokens so far."""
        for response, record in self._active.items():
            yield record, response.width, response.completion_tokens

    @property
    def waiting(self) -> int:
        """Count those of them that wait for admission."""
        return self._admission.queued if self._admission else 0

    @property
    def max_running(self) -> int:
        """The number of sequences that the engine runs at once. Raises Loading before `open`."""
        if self._engine is None:
            raise self._closed_by
        return self._engine.model.max_running

    @property
    def max_held(self) -> int:
        """The number of single-sequence requests that are never refused as too many. Raises Loading before `open`."""
        return self.max_running + self._config.queue

    @property
    def stalled_s(self) -> float:
        """Seconds since the engine's last step, where that is longer than allowed with requests pending; else 0."""
        if self._engine is None or not self._active:
            return 0.0
        idle_s = time.monotonic() - max(self._engine.stepped_at, self._busy_since)
        return idle_s if idle_s > self._config.stall_s else 0.0

    @property
    def is_open(self) -> bool:
        """Whether the model was loaded: what is known of it can be told, even in a drain."""
        return self._deployment is not None

    @property
    def formatters(self) -> Formatters:
        """The deployment's own formatters, with those of its adapters."""
        return self._config.formatters

    @property
    def request_log(self) -> RequestLog:
        """The log of finished requests."""
        return self._config.request_log

    @property
    def refusal(self) -> Error | None:
        """The Error that every request is refused with, or None when the pipeline is open."""
        if self._engine is None or self._deployment is None:
            return self._closed_by
        if self._engine.is_dead:
            return EngineDown("the engine is gone; this server is ending")
        return self._closed_by if isinstance(self._closed_by, Draining) else None

    def _check_open(self, request: InferenceRequest) -> None:
        """Raise the refusal; requests promised before a drain are still accepted while it lasts."""
        refusal = self.refusal
        if refusal and not (request.is_promised and isinstance(refusal, Draining) and not self._is_over):
            raise refusal

    @property
    def has_sessions(self) -> bool:
        """Whether sessions are on."""
        return self._config.sessions is not None

    @property
    def warns_in_attributes(self) -> bool:
        """Whether an answer's Custom-Attributes tell what its request is warned of."""
        return self._config.warns_in_attributes

    @property
    def has_rates(self) -> bool:
        """Whether what callers may use in a minute is bounded."""
        return self._config.rates.is_on

    @property
    def deployment(self) -> Deployment:
        """The deployment as dialects see it. Raises Loading before `open`."""
        if self._deployment is None:
            raise self._closed_by
        return self._deployment

    def kv_event_sources(self) -> Mapping[str, Mapping[str, object]]:
        """Return what publishes the engine's cache events, by data-parallel rank. Raises Loading before `open`."""
        if self._engine is None:
            raise self._closed_by
        return self._engine.kv_event_sources()

    @property
    def adapters(self) -> AdapterRegistry:
        """The registered adapters. Raises Loading before `open`, AdaptersOff where none can be loaded."""
        if self._deployment is None:
            raise self._closed_by
        if self._adapters is None:
            raise AdaptersOff("LoRA is off: this deployment loads no adapters")
        return self._adapters

    @property
    def adapter_count(self) -> int:
        """Count the registered adapters."""
        return self._adapters.count if self._adapters is not None else 0

    async def open(self, engine: Engine, deployment: Deployment, adapters: AdapterRegistry | None = None) -> None:
        """Generate a first token, or embed a first text, as a proof; then take requests. Raises the canary's Error."""
        job = _canary(engine.model, deployment)
        response = ResponseStream(_Silence(), framing.DOCUMENT, (job,))
        async with engine.run(job, response.put):
            await response.over()
        running = engine.model.max_running
        spare = max(SPARE_LEAST, running // SPARE_PART)
        share = running - max(1, running // RESERVED_PART) if running > 1 else None
        places = adapters.places if adapters is not None else None
        self._admission = AdmissionQueue(running + spare, self._config.queue, share, places)
        if adapters is not None:
            deployment = replace(deployment, knows_adapter=adapters.knows)
        self._engine, self._deployment, self._adapters = engine, deployment, adapters

    async def answer(self, request: InferenceRequest, out: ResponseSink) -> None:
        """Answer one request. Raises an Error when nothing was sent yet; after that errors are frames."""
        if framing.media_type(request.content_type) in framing.JSON_LINES:
            self._check_open(request)
            parsing.check_media(request)
            lines = records.split(request.body, self._config.limits.max_lines)
            if len(lines) > 1:
                await self._answer_records(request, lines, out)
                return
        await self._answer_one(request, out)

    async def _answer_records(self, request: InferenceRequest, lines: Sequence[bytes], out: ResponseSink) -> None:
        """Answer a body of several records; a drain lets all of them finish."""
        if not request.is_promised:
            request.body = b""  # its bytes count until the answer is complete: the lines are held
        request.record.model = self.deployment.model
        work = records.Records(
            request=request,
            lines=lines,
            answer_one=self._answer_one,
            request_log=self._config.request_log,
            at_once=self.max_running,
            seconds=request.deadline_s or self._config.deadline_s,
            is_tgi=self.deployment.is_tgi,
            admit=partial(self._config.rates.admit, request.owner),
        )
        with self.promise():
            await work.answer(out)

    async def _answer_one(self, request: InferenceRequest, out: ResponseSink) -> None:
        if not request.is_promised:
            self._config.rates.admit(request.owner)
        deadline = Deadline.after(request.deadline_s or self._config.deadline_s)
        with self._turn(request) as turn:
            parsed = await self._parse(request, turn, deadline)
            request.record.parsed_s = request.record.age_s
            if not request.is_promised:  # that is asked again when it finds no seat
                _free_body(request, parsed)
            if isinstance(parsed, bytes):
                whole = framing.whole(request.content_type, request.accept)
                await out.whole(parsed + whole.tail, whole.content_type)
            elif self.deployment.media is None:
                await self._respond_parsed(parsed, request, out, deadline)
            else:
                with self._prepared_media.counted(parsed.jobs, self.deployment.media.limits.prepared_bytes):
                    await self._respond_parsed(parsed, request, out, deadline)

    async def _respond_parsed(
        self, parsed: ParsedRequest, request: InferenceRequest, out: ResponseSink, deadline: Deadline
    ) -> None:
        if parsed.adapters:
            await self._respond_adapted(parsed, request, out, deadline)
        else:
            await self._respond(parsed, request, out, deadline)

    async def _respond_adapted(
        self, parsed: ParsedRequest, request: InferenceRequest, out: ResponseSink, deadline: Deadline
    ) -> None:
        """Respond with the adapters that a parsed request names, which stay as they are until its end."""
        async with contextlib.AsyncExitStack() as held:
            found: dict[str, Adapter | None] = {"": None}
            try:
                async with deadline.bound():
                    for name in {*parsed.adapters} - {""}:
                        found[name] = await self._held(name, parsed, held)
            except TimeoutError:
                raise TimedOut(f"the adapter's files were not there within {deadline.seconds:g} s") from None
            request.record.has_adapter = True
            named = zip(parsed.jobs, parsed.adapters, strict=True)
            parsed.jobs = tuple(replace(job, adapter=found[name]) for job, name in named)
            await self._respond(parsed, request, out, deadline)

    async def _held(self, name: str, parsed: ParsedRequest, held: contextlib.AsyncExitStack) -> Adapter:
        """Hold an adapter until `held` ends. Raises NotFound in the words of the request that names it."""
        try:
            return await held.enter_async_context(self.adapters.hold(name))
        except NotFound as error:
            if parsed.named is None:
                raise
            raise parsed.named.missing(name) from error

    def _framing(self, parsed: ParsedRequest, request: InferenceRequest) -> framing.Framing:
        """How the payloads of an answer are framed."""
        if not parsed.is_stream:
            return parsed.whole or framing.whole(request.content_type, request.accept)
        shape = framing.choose(request.accept, self._config.output_formatter, parsed.shape or request.route_shape)
        return framing.framing(shape, has_end=parsed.has_end, has_names=parsed.has_names)

    async def _respond(
        self, parsed: ParsedRequest, request: InferenceRequest, out: ResponseSink, deadline: Deadline
    ) -> None:
        """Run the jobs of a parsed request and send their answer."""
        if request.record.trace is not None:
            headers = request.record.trace.headers()
            parsed.jobs = tuple(replace(job, trace_headers=headers) for job in parsed.jobs)
        framed = self._framing(parsed, request)
        response = ResponseStream(
            parsed.render, framed, parsed.jobs, shows_cached_tokens=self._config.shows_cached_tokens
        )
        if not parsed.is_stream:
            response.bound_bytes(self._config.reply_bytes, request.warnings.append)
        try:
            async with deadline.bound():
                if (parsed.job.sampling.constraint or parsed.job.parsing) and self._engine is not None:
                    await self._engine.check(parsed.job)  # before a seat is taken: others need it meanwhile
                async with (
                    self._slot(parsed, request, response) as slot,
                    _running(slot, response, parsed) as run,
                ):
                    request.free_body()
                    if run is not None:
                        response.note_run(parsed.job, run)
                    await response.begun()
                    if parsed.is_stream:
                        metering.meter(request, parsed, self._config.metered_by)
                        self._config.request_log.begun(request.record)
                        await out.start(framed.content_type)
                        response.send_by(out.write, out.fail)
                        await response.over()
        except TimeoutError:
            response.put(TimedOut(f"the answer was not complete within {deadline.seconds:g} s"))
            if not response.is_sending:
                raise TimedOut(f"no answer within {deadline.seconds:g} s") from None
        finally:
            response.fill_record(request.record)
            if response.has_run:
                used = request.record.prompt_tokens + request.record.completion_tokens
                self._config.rates.charge(request.owner, used)
        if parsed.is_stream:
            await out.end()
        else:
            metering.meter(request, parsed, self._config.metered_by)
            await out.whole(response.document(), framed.content_type)

    @contextlib.contextmanager
    def _turn(self, request: InferenceRequest) -> Iterator[Turn | None]:
        """The request's turn in its session, which a chat begins and its answer ends. Raises BadField."""
        if not request.session_id or request.session_id == NEW or request.forced in COUNTS:
            yield None
            return
        if self._config.sessions is None:
            text = "session: sessions are off (option.enable_stateful_sessions)"
            raise BadField([Problem("session", text)])
        turn = Turn(self._config.sessions.get(request.session_id, request.owner))
        try:
            yield turn
        finally:
            turn.end()

    async def _parse(self, request: InferenceRequest, turn: Turn | None, deadline: Deadline) -> ParsedRequest | bytes:
        """Parse the body; all parsing ends here, before a slot is taken. Long work is done in a thread.

        That is a long body, a recording, and a turn of a session or after a stored response, whose prompt is the whole
        conversation.
        A request that needs no engine, opening or closing a session, gives its answer, a document.
        """
        self._check_open(request)
        if parsing.brings_file(request):
            return await self._parse_slowly(request, turn, deadline, self._recordings, FILES_AT_ONCE)
        media = self.deployment.media
        goes_on = (
            self.deployment.load is not None
            and request.forced in (None, "responses")
            and any(sign in request.body for sign in GOES_ON)
        )
        if media is not None and (turn or goes_on or self._config.formatters.can_read or media.may_be_in(request.body)):
            return await self._parse_slowly(request, turn, deadline, self._with_media, media.limits.at_once)
        is_small = len(request.body) <= INLINE_BYTES and request.forced != "chat_batch"  # that is parsed many times
        if is_small and turn is None and not goes_on and not self._config.formatters.can_read:
            return self._parse_body(request, turn)
        if goes_on and len(request.body) <= parsing.LARGE_BYTES:
            return await asyncio.get_running_loop().run_in_executor(self._stored, self._parse_body, request, turn)
        if len(request.body) <= parsing.LARGE_BYTES:
            return await asyncio.to_thread(self._parse_body, request, turn)
        return await asyncio.get_running_loop().run_in_executor(self._large, self._parse_body, request, turn)

    async def _parse_slowly(
        self,
        request: InferenceRequest,
        turn: Turn | None,
        deadline: Deadline,
        preparation: Preparation,
        at_once: int,
    ) -> ParsedRequest | bytes:
        """Parse a body in whose course media are fetched and decoded. Raises Busy, TimedOut."""
        work = partial(self._parse_body, request, turn)
        return await preparation.run(work, at_once=at_once, most_waiting=self._config.queue, deadline=deadline)

    def _parse_body(self, request: InferenceRequest, turn: Turn | None) -> ParsedRequest | bytes:
        config = self._config
        parsed = parsing.parse(request, turn, self.deployment, config.sessions, config.limits, config.formatters)
        if isinstance(parsed, ParsedRequest):
            parsing.salt(parsed, request.owner, config.cache_salt_by)
        return parsed

    @contextlib.asynccontextmanager
    async def _slot(
        self, parsed: ParsedRequest, request: InferenceRequest, response: ResponseStream
    ) -> AsyncIterator[shares.Slot]:
        """Count as running until the end; wait for the seats of the first job. Raises Busy."""
        self._check_open(request)
        if self._engine is None or self._admission is None:
            raise self._closed_by
        if not self._active:
            self._busy_since = time.monotonic()
        self._active[response] = request.record
        self._idle.clear()
        try:
            priority = parsed.job.priority if self._engine.model.has_priority else 0
            limit_s = (self._config.finish_before_s or None) if request.is_awaited else None
            began_s = request.record.age_s
            wait_s = None if limit_s is None else limit_s - began_s
            admission, first = self._admission, parsed.job
            flow = admission.flow(self._turn_taker(request, parsed))

            def acquire(job: Job, *, is_first: bool = False) -> contextlib.AbstractAsyncContextManager[None]:
                seats, limit = job.width // job.copies, wait_s if is_first else None
                if job.adapter is None:
                    return admission.acquire(flow, seats, priority, wait_s=limit, is_further=not is_first)
                number = job.adapter.id
                place = admission.acquire(flow, seats, priority, adapter=number, wait_s=limit, is_further=not is_first)
                return _loaded(self.adapters, job.adapter, place)

            async with contextlib.AsyncExitStack() as seats:
                await seats.enter_async_context(acquire(first, is_first=True))
                request.record.seated_s = request.record.age_s
                request.record.queue_s = request.record.seated_s - began_s
                with response.limited(limit_s, request.record):
                    yield shares.Slot(self._engine, seats, acquire)
        finally:
            del self._active[response]
            self._settle()

    def _turn_taker(self, request: InferenceRequest, parsed: ParsedRequest) -> str:
        """Who takes turns with others for this request; "" for nobody in particular."""
        is_by_prefix = self._config.turns_by == "prefix_aware_id" and request.prefix_id
        who = f"prefix {request.prefix_id}" if is_by_prefix else parsed.user
        return f"{request.owner}/{who}" if request.owner or who else ""

    def admit(self, owner: str) -> None:
        """Count a request of `owner` that is accepted now and answered later. Raises RateLimited."""
        self._config.rates.admit(owner)

    @contextlib.contextmanager
    def promise(self) -> Iterator[None]:
        """Let a drain wait for this block as for a running request; its requests are `is_promised`."""
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
        """Refuse new requests; wait up to `seconds` for the running ones, then end the rest with CutOff."""
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
        for response in list(self._active):
            response.put(error)


@contextlib.asynccontextmanager
async def _loaded(
    adapters: AdapterRegistry, adapter: Adapter, seats: contextlib.AbstractAsyncContextManager[None]
) -> AsyncIterator[None]:
    """Wait for seats, then for the weights of an adapter, and keep both in this block."""
    async with seats, adapters.loaded(adapter):
        yield


def _canary(model: Model, deployment: Deployment) -> Job:
    """A text, or for a model that only hears, a second of silence."""
    if model.speech is not None and model.speech.is_only:
        recording = model.speech.read(wav.silence(seconds=1), deployment.limits)
        speech = SpeechParams(recording=recording, place=0)
        return Job(id="canary", prompt_ids=[], prompt_text="", sampling=PROOF, speech=speech)
    ids = deployment.template.encode(CANARY, add_special_tokens=True)
    pooling = PoolingParams(task=model.pooler.task) if model.pooler else None
    return Job(id="canary", prompt_ids=ids, prompt_text=CANARY, sampling=PROOF, pooling=pooling)


def _free_body(request: InferenceRequest, parsed: ParsedRequest | bytes) -> None:
    """Keep the body of a parsed request no longer; what a recording has become in its place. Raises Busy."""
    speech = parsed.job.speech if isinstance(parsed, ParsedRequest) else None
    if speech is None:
        request.free_body()
    else:
        request.hold(speech.recording.nbytes)


def _running(
    slot: shares.Slot, response: ResponseStream, parsed: ParsedRequest
) -> contextlib.AbstractAsyncContextManager[Run | None]:
    """Run the jobs of a parsed request into the sinks of `response`; gives the run of a single one."""
    token_sink = response.token_sink(is_stream=parsed.is_stream)
    if len(parsed.jobs) > 1:
        return shares.running(slot, response, parsed.jobs, token_sink)
    (sink,) = response.sinks()
    return slot.engine.run(parsed.job, sink, token_sink)


class _Silence:
    """Renders nothing: nobody reads the canary's answer."""

    held_bytes = 0

    def delta(self, delta: Delta) -> Sequence[bytes]:  # noqa: ARG002
        return ()

    def done(self, done: Finished) -> Sequence[bytes]:  # noqa: ARG002
        return (b"",)

    def fail(self, error: Error) -> bytes:  # noqa: ARG002
        return b""


__all__ = ["InferenceRequest", "Pipeline", "PipelineConfig", "ResponseSink"]
