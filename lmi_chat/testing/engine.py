"""Play a script in place of an engine, behind the same protocol: faults and orders that a real one shows too rarely."""

import asyncio
import contextlib
import struct
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lmi_chat.codec.json_text import dump
from lmi_chat.engine import Model
from lmi_chat.errors import Error
from lmi_chat.job import (
    CallPart,
    Delta,
    DeltaKind,
    Embedding,
    EmbeddingSpec,
    Finish,
    Finished,
    Job,
    PoolingParams,
    Reason,
    Sink,
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
    """Embed a prompt as four numbers: first token, length, dimensions asked for, whether it is normalised."""
    pooling = job.pooling or PoolingParams()
    numbers = (job.prompt_ids[0], len(job.prompt_ids), pooling.dimensions or 0, pooling.is_normalized is not False)
    vector = Embedding(0, "", [], values=struct.pack("<4f", *numbers))
    return [vector, Finished(prompt_tokens=len(job.prompt_ids), completion_tokens=0)]


@dataclass
class ScriptedEngine:
    """Plays `script` for each job, of a model called "tiny" or "lmi" with ByteTokenizer and 1,024 tokens of context.

    `jobs` are all that it was given, `running` counts those that run, `left_early` those that were taken off before
    their end. `space`: the model embeds. `uses_token_sink` False: every token is a delta.
    `is_dead` may be set.
    """

    script: Script = field(default_factory=lambda: said("Hello!"))
    max_running: int = 4
    space: EmbeddingSpec | None = None
    uses_token_sink: bool = True
    is_dead: bool = False
    running: int = 0
    left_early: int = 0
    last_step_at: float = field(default_factory=time.monotonic)
    jobs: list[Job] = field(default_factory=list)

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
            space=self.space,
            fingerprint="scripted",
        )

    @property
    def stepped_at(self) -> float:
        """Time of its last step: `last_step_at`, which stays as it is set."""
        return self.last_step_at

    async def stop(self) -> None:
        """Die: `is_dead` is true from now on."""
        self.is_dead = True

    async def check(self, job: Job) -> None:
        """Take any job."""

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
            )
        )
