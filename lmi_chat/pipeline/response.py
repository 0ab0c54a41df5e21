"""Turn the engine events of one request into response frames and send them."""

import asyncio
import contextlib
import itertools
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from enum import Enum
from functools import partial

from lmi_chat.codec.framing import Framing
from lmi_chat.dialects.task import Renderer, TokenRenderer
from lmi_chat.engine import Run
from lmi_chat.errors import Error, HookFailed, TimedOut, TooLarge
from lmi_chat.job import Delta, Event, Finish, Finished, Job, Reason, Sink, Times, TokenSink
from lmi_chat.observability import refusals
from lmi_chat.observability.record import RequestRecord

BOUND = "max_reply_bytes"


class State(Enum):
    """The state of an answer: whether anything of it was sent, and whether its jobs have ended.

    A stream goes WAITING → SENDING → OVER; one whose jobs end before it could begin, WAITING → READY → OVER. A whole
    answer goes WAITING → READY and is fetched as a document.
    """

    WAITING = (False, False)
    READY = (False, True)
    SENDING = (True, False)
    OVER = (True, True)

    def __init__(self, has_begun: bool, has_ended: bool) -> None:  # noqa: FBT001 the members' own values
        """`has_begun`: on the wire; frames wait before. `has_ended`: later events and tokens are dropped."""
        self.has_begun, self.has_ended = has_begun, has_ended


class ResponseStream:
    """Turns an engine's events into frames, without a task switch.

    Frames wait here until the answer has begun on the wire; from then on each goes straight to `write`. Where frames
    and tokens go follows from the state alone and is set in one place, `_enter`, so that no token has to ask for it.
    """

    def __init__(
        self, render: Renderer, framing: Framing, jobs: Sequence[Job], *, shows_cached_tokens: bool = True
    ) -> None:
        """Render the events of `jobs` by `render` and frame them by `framing`."""
        self._shows_cached_tokens = shows_cached_tokens
        self._render, self._framing, self._jobs = render, framing, jobs
        self._frame = framing.frame
        self._dones: list[Finished | None] = [None] * len(jobs)
        self._waiting: list[bytes] = []
        self._begun = asyncio.Event()
        self._over = asyncio.Event()
        self._send: Callable[[bytes], None]
        self._send_failure: Callable[[Error, bytes], None]
        self._done: Finished | None = None
        self._error: Error | None = None
        self._quick: TokenRenderer
        self._token_sink: TokenSink | None = None
        self._runs: list[tuple[Job, Run]] = []
        self._most_bytes = 0  # that the renderer may hold; 0: any number
        self._is_full = False
        self._on_full: Callable[[str], None]
        self.on_cut: Callable[[Error], None] | None = None  # called when the answer is cut: no further job begins
        self._enter(State.WAITING)

    def sinks(self) -> list[Sink]:
        """Return a sink for each job; a single job's is `put` itself."""
        if len(self._jobs) == 1 and self._jobs[0].copies == 1:
            return [self.put]
        starts = itertools.accumulate((job.width for job in self._jobs), initial=0)
        places = range(len(self._jobs))
        return [partial(self._put_part, place, start) for place, start in zip(places, starts, strict=False)]

    @property
    def is_sending(self) -> bool:
        """Whether a part of the answer was sent: an error is a frame from now on."""
        return self.state.has_begun

    def _enter(self, state: State) -> None:
        """Set where frames and tokens go, by the state; nothing else does."""
        self.state = state
        write: Callable[[bytes], None] = self._add
        token: Callable[[int, bytes, float], None] = self._put_token
        if state is State.SENDING:
            write = self._send
            if self._token_sink is not None and self._quick.ends is not None:
                token = _between(self._quick.ends, self._framing, write)
        elif state.has_ended:
            write, token = _drop, _drop_token
        self._write = write
        if self._token_sink is not None:
            self._token_sink.token = token
        if state.has_ended:
            self._begun.set()
            self._over.set()

    def _add(self, data: bytes) -> None:
        """Hold a frame until the answer may begin on the wire."""
        self._waiting.append(data)
        self._begun.set()

    def token_sink(self, *, is_stream: bool) -> TokenSink | None:
        """Return the TokenSink for each job; None: the answer needs every Delta, as one does that is taken apart."""
        if not is_stream:
            return TokenSink(self._put_token, is_folded=True)
        first = self._jobs[0]
        if len(self._jobs) > 1 or first.copies > 1 or first.parsing is not None:
            return None
        if not isinstance(self._render, TokenRenderer) or not self._render.is_quick:
            return None
        self._quick, self._token_sink = self._render, TokenSink(self._put_token)
        return self._token_sink

    def _put_token(self, token_id: int, spelled: bytes, logprob: float) -> None:
        """Take a token in mid-answer, as `put` does a Delta."""
        self._write(self._frame(self._quick.token(token_id, spelled, logprob)))

    def _put_part(self, place: int, start: int, event: Event) -> None:
        """Take an event of one job among several: sequences count through all, its end is a part of the end."""
        job = self._jobs[place]
        match event:
            case Delta():
                for copy in range(job.copies):
                    self.put(replace(event, index=start + event.index * job.copies + copy))
            case Finished():
                self._dones[place] = replace(
                    event,
                    completion_tokens=event.completion_tokens * job.copies,
                    reasoning_tokens=event.reasoning_tokens * job.copies,
                    called=event.called * job.copies,
                )
                if None not in self._dones:
                    self.put(_sum([done for done in self._dones if done is not None]))
            case Error():
                self.put(event)

    def put(self, event: Event) -> None:
        """Take one event; anything after the end is dropped."""
        if self.state.has_ended:
            return
        if self._is_full:
            event = _as_length(event)
        try:
            payloads = self._payloads(event)
        except HookFailed as error:
            event, payloads = error, self._payloads(error)
        for payload in payloads:
            self._write(self._frame(payload))
        if self._most_bytes and self._render.held_bytes > self._most_bytes:
            self._fill()
        if not isinstance(event, Delta):
            if self._error is None and self._framing.end:
                self._write(self._framing.end)
            self._enter(State.OVER if self.state.has_begun else State.READY)

    def _payloads(self, event: Event) -> Sequence[bytes]:
        match event:
            case Delta():
                return self._render.delta(event)
            case Finished():
                payloads = self._render.done(event if self._shows_cached_tokens else replace(event, cached_tokens=0))
                self._done = event
                return payloads
            case Error():
                self._error = event
                if self.state.has_begun:
                    self._send_error(event)
                return ()

    def note_run(self, job: Job, run: Run) -> None:
        """Remember a job on the engine, to cut it and to count its tokens."""
        self._runs.append((job, run))

    @property
    def completion_tokens(self) -> int:
        """Count the tokens that it has so far, of all sequences."""
        return sum(run.completion_tokens * job.copies for job, run in self._runs)

    @property
    def width(self) -> int:
        """Count its sequences."""
        return sum(job.width for job in self._jobs)

    @property
    def has_run(self) -> bool:
        """Whether any job has been on the engine."""
        return bool(self._runs)

    async def begun(self) -> None:
        """Wait for the first frame. Raises the job's Error when it failed before one."""
        await self._begun.wait()
        if self._error is not None and not self._waiting:
            raise self._error

    def send_by(self, write: Callable[[bytes], None], fail: Callable[[Error, bytes], None]) -> None:
        """Send the waiting frames, then every frame as it comes, by `write`, and an error by `fail`."""
        for data in self._waiting:
            write(data)
        self._waiting.clear()
        self._send, self._send_failure = write, fail
        self._enter(State.OVER if self.state.has_ended else State.SENDING)
        if self._error is not None:
            self._send_error(self._error)

    def _send_error(self, error: Error) -> None:
        self._send_failure(error, self._frame(self._render.fail(error)))

    async def over(self) -> None:
        """Wait for the job's end. Raises its Error when nothing of it was sent."""
        await self._over.wait()
        if self._error is not None and not self.state.has_begun:
            raise self._error

    def bound_bytes(self, most: int, on_full: Callable[[str], None]) -> None:
        """Cut a whole answer that holds more than `most` bytes, and tell `on_full` so."""
        self._most_bytes, self._on_full = most, on_full

    def _fill(self) -> None:
        """End a whole answer with what there is, as at a limit of tokens: it holds as many bytes as it may."""
        text = (
            f"the answer has reached {self._most_bytes} bytes and is cut (option.{BOUND}); a stream has no such bound"
        )
        self._most_bytes, self._is_full = 0, True
        refusals.record(BOUND, text)
        self._on_full(text)
        # Not within the call that brings an output: the engine is not done with it.
        asyncio.get_running_loop().call_soon(self._cut, TooLarge(text))

    @contextlib.contextmanager
    def limited(self, limit_s: float | None, record: RequestRecord) -> Iterator[None]:
        """Cut the answer at `limit_s` after the request's arrival, with the text that it has then; None: never."""
        if limit_s is None:
            yield
            return
        error = TimedOut(f"no token was generated within {limit_s:g} s")
        timer = asyncio.get_running_loop().call_later(max(0.0, limit_s - record.age_s), self._cut, error)
        try:
            yield
        finally:
            timer.cancel()

    def _cut(self, error: Error) -> None:
        """Cut the answer now, or end it with `error` if it has no token."""
        if not any(run.completion_tokens for _, run in self._runs):
            self.put(error)
            return
        if self.on_cut is not None:
            self.on_cut(error)
        for _, run in self._runs:
            run.cut()

    def fill_record(self, record: RequestRecord) -> None:
        """Record the outcome of the request, for the log."""
        done = self._done
        record.width = self.width
        record.sampling = self._jobs[0].sampling if self._jobs[0].pooling is None else None
        record.completion_tokens = self.completion_tokens
        if self._error is not None:
            record.fail(self._error, has_begun=self.state.has_begun)
        if done is None:
            return
        if self._jobs[0].speech is not None:  # the engine makes the tokens of its prompts
            record.prompt_tokens += done.prompt_tokens
        record.completion_tokens, record.cached_tokens = done.completion_tokens, done.cached_tokens
        record.reasons, record.reasoning_tokens, record.called = done.reasons, done.reasoning_tokens, done.called
        if done.times is not None:
            record.queue_s = (record.queue_s or 0.0) + done.times.queue_s
            record.prefill_s, record.decode_s = done.times.prefill_s, done.times.decode_s
            record.ttft_s = record.seated_s + done.times.queue_s + done.times.prefill_s

    def document(self) -> bytes:
        """Return the whole answer."""
        return b"".join(self._waiting)


def _as_length(event: Event) -> Event:
    """A cut as the limit of length that it is."""
    if isinstance(event, Delta) and event.finish is not None and event.finish.reason == "time_limit":
        return replace(event, finish=Finish("length"))
    if isinstance(event, Finished):
        reasons: tuple[Reason, ...] = tuple("length" if reason == "time_limit" else reason for reason in event.reasons)
        return replace(event, reasons=reasons)
    return event


def _drop(data: bytes) -> None:
    """The answer is over."""


def _drop_token(token_id: int, spelled: bytes, logprob: float) -> None:
    """The answer is over."""


def _between(
    ends: tuple[bytes, bytes], framing: Framing, write: Callable[[bytes], None]
) -> Callable[[int, bytes, float], None]:
    """Build the fastest function for a token: it writes the text between constant bytes."""
    head, _, tail = framing.frame(ends[0] + b"\0" + ends[1]).partition(b"\0")

    def token(_token_id: int, spelled: bytes, _logprob: float) -> None:
        write(head + spelled + tail)

    return token


def _sum(dones: Sequence[Finished]) -> Finished:
    if len(dones) == 1:
        return dones[0]
    return Finished(
        prompt_tokens=sum(done.prompt_tokens for done in dones),
        completion_tokens=sum(done.completion_tokens for done in dones),
        cached_tokens=sum(done.cached_tokens for done in dones),
        parts=tuple(dones),
        reasons=tuple(reason for done in dones for reason in done.reasons),
        times=_slowest([done.times for done in dones if done.times is not None]),
        reasoning_tokens=sum(done.reasoning_tokens for done in dones),
        called=tuple(name for done in dones for name in done.called),
        media_tokens=sum((Counter(done.media_tokens) for done in dones), Counter()),
    )


def _slowest(times: Sequence[Times]) -> Times | None:
    """Return the slowest of jobs that run side by side, for each of the three times."""
    if not times:
        return None
    return Times(
        max(each.queue_s for each in times), max(each.prefill_s for each in times), max(each.decode_s for each in times)
    )
