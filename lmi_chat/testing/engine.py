"""Play a script in place of an engine, behind the same protocol: faults and orders that a real one shows too rarely."""

import asyncio
import contextlib
import struct
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from lmi_chat.chat_template import MakePairEncoder
from lmi_chat.codec.json_text import dump
from lmi_chat.engine import AdapterLimits, Model
from lmi_chat.errors import Error, NotFound
from lmi_chat.job import (
    Adapter,
    CallPart,
    Delta,
    DeltaKind,
    Embedding,
    Finish,
    Finished,
    Job,
    PoolingParams,
    PoolingSpec,
    Reason,
    Sink,
    SpeechSpec,
    Times,
    Token,
    TokenLogprob,
    TokenSink,
)
from lmi_chat.testing.tokenizer import VOCABULARY_TOKENS, ByteTokenizer

Step = Delta | Finished | Error | float | BaseException
"""One step of a script: a delta of the answer, its end, an Error in place of the end, a number of seconds to wait.

Any other exception, as the first step, is raised when the job starts. A script without an end never ends.
"""
Script = Callable[[Job], Sequence[Step]]
"""A job → what the engine does for it."""


def token(character: str, logprob: float = -0.5) -> Token:
    """Build a token of a character with its log-probability."""
    return Token(TokenLogprob(ord(character) % 256, logprob, character.encode()))


@dataclass(frozen=True, slots=True)
class Part:
    """A part of an answer that is no content: reasoning, or the call of a tool with its arguments as `text`."""

    kind: DeltaKind
    text: str
    name: str = ""


def reasoned(text: str) -> Part:
    """Make a part of an answer that the model thinks, for `said`."""
    return Part("reasoning", text)


def called(name: str, arguments: str | Mapping[str, Any]) -> Part:
    """Make a part of an answer that calls a tool, for `said`; `arguments` as JSON text, complete or not."""
    return Part("call", arguments if isinstance(arguments, str) else dump(arguments).decode(), name)


def said(*parts: str | Part, gap_s: float = 0.0, reason: Reason = "stop") -> Script:
    """Write the script of an answer: a token per character, each after `gap_s` seconds, then the end.

    Parts are content, or made by `reasoned` and `called`; the name of a called tool is one token.
    """
    told = [Part("content", part) if isinstance(part, str) else part for part in parts]

    def script(job: Job) -> Sequence[Step]:
        deltas = [*_deltas(told, has_tokens=job.sampling.logprobs is not None)]
        if deltas:
            deltas[-1] = replace(deltas[-1], finish=Finish(reason))
        end = Finished(
            prompt_tokens=len(job.prompt_ids),
            completion_tokens=len(deltas),
            reasons=(reason,),
            times=Times(queue_s=0.25, prefill_s=0.5, decode_s=1.0),
            reasoning_tokens=sum(delta.kind == "reasoning" for delta in deltas),
            called=tuple(part.name for part in told if part.kind == "call"),
            media_tokens=job.media.tokens if job.media else {},
        )
        return [*(step for delta in deltas for step in (gap_s, delta)), end]

    return script


def _deltas(parts: Sequence[Part], *, has_tokens: bool) -> Iterator[Delta]:
    place = -1
    for part in parts:
        call: CallPart | None = None
        if part.kind == "call":
            place, name = place + 1, part.name[:1]
            first = CallPart(place, f"call_{place}", part.name)
            yield Delta(0, "", [*name.encode()], [token(name)] if has_tokens else [], kind="call", call=first)
            call = CallPart(place)
        for character in part.text:
            ids, tokens = list(character.encode())[:1], [token(character)] if has_tokens else []
            yield Delta(0, character, ids, tokens, kind=part.kind, call=call)


def embedded(job: Job) -> Sequence[Step]:
    """Embed a prompt as four numbers: first token, length, dimensions asked for, whether it is normalised.

    A model that embeds each token gives four for each, the token in place of the first one.
    """
    pooling, ids = job.pooling or PoolingParams(), job.prompt_ids
    is_by_token = pooling.task in {"token_embed", "token_classify"}
    numbers = (len(ids), pooling.dimensions or 0, pooling.is_normalized is not False)
    rows = [(token, *numbers) for token in (ids if is_by_token else ids[:1])]
    values = b"".join(struct.pack("<4f", *row) for row in rows)
    vector = Embedding(0, "", [], values=values, rows=len(rows) if is_by_token else None)
    return [vector, Finished(prompt_tokens=len(ids), completion_tokens=0)]


@dataclass
class ScriptedEngine:
    """Plays `script` for each job, of a model called "tiny" or "lmi" with ByteTokenizer and 1,024 tokens of context.

    `jobs` are all that it was given, `running` counts those that run, `left_early` those that were taken off before
    their end. `pooler`: the model pools; `pairs` writes two texts into one prompt; `speech`: it writes what is said.
    `uses_token_sink` False: every token is a delta.
    `adapters`: it loads adapters up to these bounds, and dies of what ends the real engine: a job whose adapter's
    folder is gone, and more adapters in a batch than pins leave places for. `loaded` (the least recently used first)
    and `pinned` are their ids, `used` counts their jobs, `loads` what was read, `widest` is the most that a batch had,
    `taken_off` counts weights that were unloaded under a job.
    `event_sources`: what its `kv_event_sources` returns. `is_dead` may be set.
    """

    script: Script = field(default_factory=lambda: said("Hello!"))
    max_running: int = 4
    pooler: PoolingSpec | None = None
    pairs: MakePairEncoder | None = None
    speech: SpeechSpec | None = None
    uses_token_sink: bool = True
    is_dead: bool = False
    running: int = 0
    left_early: int = 0
    last_step_at: float = field(default_factory=time.monotonic)
    jobs: list[Job] = field(default_factory=list)
    adapters: AdapterLimits | None = None
    loaded: dict[int, None] = field(default_factory=dict)
    pinned: set[int] = field(default_factory=set)
    used: Counter[int] = field(default_factory=Counter)
    loads: int = 0
    taken_off: int = 0
    widest: int = 0
    event_sources: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def model(self) -> Model:
        """The model that it serves."""
        return Model(
            name="tiny",
            names=frozenset({"tiny", "lmi"}),
            tokenizer=ByteTokenizer(),
            context_tokens=1024,
            vocabulary_tokens=VOCABULARY_TOKENS,
            max_running=self.max_running,
            pooler=self.pooler,
            adapters=self.adapters,
            pairs=self.pairs,
            speech=self.speech,
            fingerprint="scripted",
            version="scripted",
        )

    @property
    def stepped_at(self) -> float:
        """Time of its last step: `last_step_at`, which stays as it is set."""
        return self.last_step_at

    async def stop(self) -> None:
        """Die: `is_dead` is true from now on."""
        self.is_dead = True

    async def open(self) -> None:
        """Know of the model what is to be known."""

    async def check(self, job: Job) -> None:
        """Take any job."""

    async def add_adapter(self, adapter: Adapter) -> None:
        """Load an adapter, whose folder must exist. Raises NotFound."""
        if not await asyncio.to_thread(Path(adapter.path).is_dir):
            raise NotFound(f"adapter {adapter.name}: its folder has no adapter that can be read", param="src")
        self._load(adapter.id)

    def _load(self, number: int) -> None:
        """Have an adapter in memory, as the one that was used last; another goes where there are too many."""
        self.loads += number not in self.loaded
        self.loaded.pop(number, None)
        if self.adapters and len(self.loaded) >= self.adapters.max_cpu_loras:
            del self.loaded[next(other for other in self.loaded if other not in self.pinned)]
        self.loaded[number] = None

    async def remove_adapter(self, adapter: Adapter) -> None:
        """Unload an adapter; one that a job uses is loaded again for its next token."""
        await asyncio.sleep(0)
        self.pinned.discard(adapter.id)
        self.taken_off += self.used[adapter.id] > 0
        if not self.used[adapter.id]:
            self.loaded.pop(adapter.id, None)

    async def pin_adapter(self, adapter: Adapter) -> None:
        """Pin an adapter, which is loaded. Raises NotFound."""
        await asyncio.sleep(0)
        if adapter.id not in self.loaded:
            raise NotFound(f"adapter {adapter.name} is not loaded", param="pin")
        self.pinned.add(adapter.id)

    def kv_event_sources(self) -> Mapping[str, Mapping[str, Any]]:
        """Return what a test has put there."""
        return self.event_sources

    async def list_adapters(self) -> set[int]:
        """Collect the ids of the loaded adapters."""
        await asyncio.sleep(0)
        return {*self.loaded}

    @contextlib.contextmanager
    def _in_batch(self, adapter: Adapter | None) -> Iterator[None]:
        """Have a job's adapter in the batch."""
        if adapter is None or self.adapters is None:
            yield
            return
        self.used[adapter.id] += 1
        batch = self.pinned | {number for number, jobs in self.used.items() if jobs}
        self.widest = max(self.widest, len(batch))
        if not Path(adapter.path).is_dir() or (self.pinned and len(batch) > self.adapters.max_loras):
            self.is_dead = True
        self._load(adapter.id)
        try:
            yield
        finally:
            self.used[adapter.id] -= 1

    @contextlib.asynccontextmanager
    async def run(self, job: Job, sink: Sink, token_sink: TokenSink | None = None) -> AsyncIterator["Playing"]:
        """Play the script of `job` into `sink` and `token_sink`."""
        self.jobs.append(job)
        proof = embedded if job.pooling else said("ok")
        steps = self.script(job) if job.id != "canary" else proof(job)
        if steps and isinstance(steps[0], BaseException) and not isinstance(steps[0], Error):
            raise steps[0]
        playing = Playing(job, sink, token_sink if self.uses_token_sink else None)
        playing.task = asyncio.create_task(playing.play(steps))
        self.running += 1
        try:
            with self._in_batch(job.adapter):
                yield playing
        finally:
            self.running -= 1
            self.left_early += not playing.task.done()
            playing.task.cancel()


class Playing:
    """A job that runs."""

    def __init__(self, job: Job, sink: Sink, token_sink: TokenSink | None) -> None:
        """Begin before the first step."""
        self._job, self._sink = job, sink
        self._token_sink = token_sink if token_sink and not token_sink.is_folded and job.sampling.n == 1 else None
        self._is_first = True
        self._open = set(range(job.sampling.n))
        self.completion_tokens = self._reasoning_tokens = 0
        self._called: list[str] = []
        self.task: asyncio.Task[None]

    async def play(self, steps: Sequence[Step]) -> None:
        """Take one step after the other."""
        for step in steps:
            if isinstance(step, float | int):
                await asyncio.sleep(step)
            elif isinstance(step, Delta):
                self.completion_tokens += len(step.ids)
                self._open -= {step.index} if step.finish else set()
                self._note(step)
                self._send(step)
            elif isinstance(step, Finished | Error):
                self._sink(step)
        if not any(isinstance(step, Finished | Error) for step in steps):
            await asyncio.sleep(3600)

    def _note(self, delta: Delta) -> None:
        """Count what reasons, and keep the names of called tools, for an end by `cut`."""
        self._reasoning_tokens += len(delta.ids) if delta.kind == "reasoning" else 0
        self._called += [delta.call.name] if delta.call is not None and delta.call.name else []

    def _send(self, delta: Delta) -> None:
        """Send a plain token by `TokenSink.token`, looked up at each as the engine does; anything else as its Delta."""
        is_bare = not (delta.finish or self._is_first or delta.prompt)
        is_plain = is_bare and len(delta.ids) == 1 and delta.text and delta.kind == "content"
        has_top = any(token.top for token in delta.tokens)
        self._is_first = False
        if self._token_sink and is_plain and not has_top:
            logprob = delta.tokens[0].choice.logprob if delta.tokens else 0.0
            self._token_sink.token(delta.ids[0], dump(delta.text)[1:-1], logprob)
        else:
            self._sink(delta)

    def cut(self) -> None:
        """End now, with the tokens so far."""
        if self.task.done():
            return
        self.task.cancel()
        for index in self._open:
            self._sink(Delta(index, "", [], [], Finish("time_limit")))
        self._sink(
            Finished(
                prompt_tokens=len(self._job.prompt_ids),
                completion_tokens=self.completion_tokens,
                reasons=("time_limit",),
                reasoning_tokens=self._reasoning_tokens,
                called=tuple(self._called),
                media_tokens=self._job.media.tokens if self._job.media else {},
            )
        )
