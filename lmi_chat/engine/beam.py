"""Beam search on top of any engine: each step asks it for one token and its alternatives per beam, all at once.

The prefix cache makes a step cheap. Scores are the sum of log-probabilities ÷ length ** length_penalty.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace

from lmi_chat.errors import Error
from lmi_chat.job import Choice, Done, Event, Finish, Job, Piece, Sink, Token

Run = Callable[[Job, Sink], AbstractAsyncContextManager[None]]


@dataclass(frozen=True, slots=True)
class Beam:
    """One way on: its tokens so far and the sum of their log-probabilities."""

    choices: tuple[Choice, ...] = ()
    logprob: float = 0.0
    is_ended: bool = False

    def with_choice(self, choice: Choice, ends: frozenset[int]) -> "Beam":
        """One token more."""
        return Beam((*self.choices, choice), self.logprob + choice.logprob, choice.id in ends)

    def score(self, penalty: float) -> float:
        """Higher is better; the token that ends the sequence does not count as length."""
        length = max(len(self.choices) - self.is_ended, 1)
        return float(self.logprob / length**penalty)


@asynccontextmanager
async def run(engine_run: Run, job: Job, sink: Sink, ends: frozenset[int]) -> AsyncIterator[None]:
    """Search for `job.beams` sequences; `ends` are the token ids that end one. See Engine.run."""
    task = asyncio.create_task(_tell(engine_run, job, sink, ends))
    try:
        yield
    finally:
        task.cancel()


async def _tell(engine_run: Run, job: Job, sink: Sink, ends: frozenset[int]) -> None:
    """Search, then give each sequence as one piece, the best one first."""
    cached = [0]

    async def step(one: Job) -> Token:
        token, from_cache = await _one_token(engine_run, one)
        cached[0] = max(cached[0], from_cache)
        return token

    try:
        beams = await _search(job, step, ends)
    except Error as error:
        sink(error)
        return
    for index, beam in enumerate(beams):
        sink(_piece(index, beam, has_tokens=job.sampling.logprobs is not None))
    count = sum(len(beam.choices) for beam in beams)
    sink(Done(prompt_tokens=len(job.prompt_ids), completion_tokens=count, cached_tokens=cached[0]))


async def _search(job: Job, step: Callable[[Job], Awaitable[Token]], ends: frozenset[int]) -> list[Beam]:
    live, ended = [Beam()], list[Beam]()
    for place in range(job.sampling.max_tokens):
        tokens = await asyncio.gather(*(step(_next(job, beam, place, number)) for number, beam in enumerate(live)))
        grown = [
            beam.with_choice(choice, ends) for beam, token in zip(live, tokens, strict=True) for choice in token.top
        ]
        grown.sort(key=lambda beam: -beam.logprob)
        ended += [beam for beam in grown[: 2 * job.beams] if beam.is_ended]
        live = [beam for beam in grown if not beam.is_ended][: job.beams]
        if not live or _is_settled(live, ended, job):
            break
    best = sorted([*ended, *live], key=lambda beam: -beam.score(job.length_penalty))
    return best[: job.beams]


def _is_settled(live: list[Beam], ended: list[Beam], job: Job) -> bool:
    """Enough sequences have ended, and none that goes on is better than the worst of them."""
    scores = sorted((beam.score(job.length_penalty) for beam in ended), reverse=True)
    return len(scores) >= job.beams and live[0].score(job.length_penalty) <= scores[job.beams - 1]


def _next(job: Job, beam: Beam, place: int, number: int) -> Job:
    ids = [*job.prompt_ids, *(choice.id for choice in beam.choices)]
    sampling = replace(job.sampling, n=1, temperature=0.0, max_tokens=1, min_tokens=0, logprobs=2 * job.beams, stop=())
    return replace(job, id=f"{job.id}-{place}-{number}", prompt_ids=ids, sampling=sampling, beams=0, copies=1)


async def _one_token(engine_run: Run, job: Job) -> tuple[Token, int]:
    found: list[Token] = []
    over: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def put(event: Event) -> None:
        match event:
            case Piece():
                found.extend(event.tokens)
            case Done() if not over.done():
                over.set_result(event.cached_tokens)
            case Error() if not over.done():
                over.set_exception(event)

    async with engine_run(job, put):
        cached = await over
    return found[0], cached


def _piece(index: int, beam: Beam, *, has_tokens: bool) -> Piece:
    text = b"".join(choice.bytes for choice in beam.choices if not choice.is_special).decode("utf-8", "replace")
    tokens = [Token(choice) for choice in beam.choices] if has_tokens else []
    finish = Finish("stop" if beam.is_ended else "length")
    return Piece(index, text, [choice.id for choice in beam.choices], tokens, finish)
