"""An engine that plays a script behind the real seam, and a real HTTP server around it: for faults that a real engine
shows too rarely. Never in place of the real one where that can run."""

import asyncio
import contextlib
import struct
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import uvicorn
import uvloop

from lmi_chat.async_requests import AsyncRequests
from lmi_chat.codec.json_text import dump
from lmi_chat.engine import Model
from lmi_chat.errors import Error
from lmi_chat.http import app
from lmi_chat.http.state import AppState
from lmi_chat.http.transport.limits import ConnectionLimits
from lmi_chat.http.transport.protocol import protocol_class
from lmi_chat.job import (
    Delta,
    Embedding,
    EmbeddingSpec,
    Finish,
    Finished,
    Job,
    Sink,
    Times,
    Token,
    TokenLogprob,
    TokenSink,
)
from lmi_chat.observability.startup import StartupProgress
from lmi_chat.pipeline.pipeline import Pipeline, PipelineConfig
from lmi_chat.storage.completions import Completions
from tests.support.fakes import VOCABULARY_TOKENS, ByteTokenizer, desk

Step = Delta | Finished | Error | float | BaseException
"""A number waits for so many seconds; an exception that is no Error of ours is raised when the job is entered."""
Script = Callable[[Job], Sequence[Step]]


def token(character: str, logprob: float = -0.5) -> Token:
    return Token(TokenLogprob(ord(character) % 256, logprob, character.encode()))


def said(text: str, *, gap_s: float = 0.0) -> Script:
    """One piece per character, then the end."""

    def script(job: Job) -> Sequence[Step]:
        has_tokens = job.sampling.logprobs is not None
        steps: list[Step] = []
        for place, character in enumerate(text):
            finish = Finish("stop") if place == len(text) - 1 else None
            ids = list(character.encode())[:1]
            steps += [gap_s, Delta(0, character, ids, [token(character)] if has_tokens else [], finish)]
        times = Times(queue_s=0.25, prefill_s=0.5, decode_s=1.0)
        count = len(job.prompt_ids)
        return [*steps, Finished(prompt_tokens=count, completion_tokens=len(text), reasons=("stop",), times=times)]

    return script


def embedded(job: Job) -> Sequence[Step]:
    """Four numbers: the prompt's first token and length, the dimensions asked for, whether it is normalised."""
    pooling = job.pooling
    assert pooling
    numbers = (job.prompt_ids[0], len(job.prompt_ids), pooling.dimensions or 0, pooling.is_normalized is not False)
    vector = Embedding(0, "", [], values=struct.pack("<4f", *numbers))
    return [vector, Finished(prompt_tokens=len(job.prompt_ids), completion_tokens=0)]


@dataclass
class Scripted:
    """Plays `script` for each job; counts what runs and what was taken off before its end."""

    script: Script = field(default_factory=lambda: said("Hello!"))
    max_running: int = 4
    space: EmbeddingSpec | None = None
    uses_lane: bool = True
    is_dead: bool = False
    running: int = 0
    left_early: int = 0
    last_step_at: float = field(default_factory=time.monotonic)
    jobs: list[Job] = field(default_factory=list)

    @property
    def model(self) -> Model:
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
        return self.last_step_at

    async def stop(self) -> None:
        self.is_dead = True

    @contextlib.asynccontextmanager
    async def run(self, job: Job, sink: Sink, lane: TokenSink | None = None) -> AsyncIterator["Playing"]:
        self.jobs.append(job)
        proof = embedded if job.pooling else said("ok")
        steps = self.script(job) if job.id != "canary" else proof(job)
        if steps and isinstance(steps[0], BaseException) and not isinstance(steps[0], Error):
            raise steps[0]
        playing = Playing(job, sink, lane if self.uses_lane else None)
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

    def __init__(self, job: Job, sink: Sink, lane: TokenSink | None) -> None:
        self._job, self._sink = job, sink
        self._token = lane.token if lane and not lane.is_folded and job.sampling.n == 1 else None
        self._is_first = True
        self._open = set(range(job.sampling.n))
        self.completion_tokens = 0
        self.task: asyncio.Task[None]

    async def play(self, steps: Sequence[Step]) -> None:
        for step in steps:
            if isinstance(step, float):
                await asyncio.sleep(step)
            elif isinstance(step, Delta):
                self.completion_tokens += len(step.ids)
                self._open -= {step.index} if step.finish else set()
                self._give(step)
            elif isinstance(step, Finished | Error):
                self._sink(step)
        if not any(isinstance(step, Finished | Error) for step in steps):
            await asyncio.sleep(3600)

    def _give(self, piece: Delta) -> None:
        """A plain token in mid-sequence by the lane, as the engine does; else the piece."""
        is_plain = len(piece.ids) == 1 and piece.text and not (piece.finish or self._is_first or piece.prompt)
        has_top = any(token.top for token in piece.tokens)
        self._is_first = False
        if self._token and is_plain and not has_top:
            logprob = piece.tokens[0].choice.logprob if piece.tokens else 0.0
            self._token(piece.ids[0], dump(piece.text)[1:-1], logprob)
        else:
            self._sink(piece)

    def cut(self) -> None:
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
            )
        )


@dataclass
class Service:
    """A running HTTP server in a thread of its own."""

    port: int
    line: Pipeline
    engine: Scripted
    health: StartupProgress
    loop: asyncio.AbstractEventLoop

    def do(self, work: Any) -> Any:
        """Run a coroutine on the server's loop."""
        return asyncio.run_coroutine_threadsafe(work, self.loop).result(10)


@contextlib.contextmanager
def serving(
    engine: Scripted | None = None,
    *,
    policy: PipelineConfig | None = None,
    is_open: bool = True,
    max_body_bytes: int = 2**20,
    store: Completions | None = None,
    spool: Callable[[Pipeline], AsyncRequests] | None = None,
    **desk_changes: Any,
) -> Iterator[Service]:
    """An HTTP server with the real protocol class around a scripted engine."""
    engine, policy = engine or Scripted(), policy or PipelineConfig()
    house = AppState(line=Pipeline(policy), health=StartupProgress(), max_body_bytes=max_body_bytes, store=store)
    house.spool = spool(house.line) if spool else None
    house.is_tgi = desk_changes.get("is_tgi", False)
    desk_changes = {"save": store.save if store else None} | desk_changes
    edge = ConnectionLimits(receive_s=2.0, write_stall_s=1.0)
    config = uvicorn.Config(
        app.build(house),
        host="127.0.0.1",
        port=0,
        http=protocol_class(edge),
        ws="none",
        lifespan="off",
        log_config=None,
        access_log=False,
    )
    server = uvicorn.Server(config)
    loop = uvloop.new_event_loop()

    async def serve() -> None:
        if is_open:
            await house.line.open(engine, desk(limits=policy.limits, space=engine.space, **desk_changes))
        await server._serve()

    thread = threading.Thread(target=lambda: loop.run_until_complete(serve()), daemon=True)
    thread.start()
    while not server.started:
        threading.Event().wait(0.005)
    try:
        yield Service(server.servers[0].sockets[0].getsockname()[1], house.line, engine, house.health, loop)
    finally:
        server.should_exit = server.force_exit = True
        thread.join(5)
