"""Run beam search on any engine: each step asks it for one token and its alternatives per beam, all at once.

The prefix cache makes a step cheap. Scores are the sum of log-probabilities ÷ length ** length_penalty.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from typing import Any

from lmi_chat.errors import Bug, Error
from lmi_chat.job import Delta, Event, Finish, Finished, Job, Sink, Token, TokenLogprob

EngineRun = Callable[[Job, Sink], AbstractAsyncContextManager[Any]]
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Beam:
    """One candidate sequence: its tokens, the sum of their log-probabilities, and how it ended, if it did.

    `stop` is the stop string or stop token id that ended it, None for end-of-sequence.
    """

    tokens: tuple[Token, ...] = ()
    logprob: float = 0.0
    is_ended: bool = False
    stop: str | int | None = None

    def with_choice(
        self, choice: TokenLogprob, top: tuple[TokenLogprob, ...], job: Job, ends: frozenset[int]
    ) -> "Beam":
        """Append one token of the likeliest `top`; `ends` and the job's stop tokens end the beam."""
        token = Token(choice, top[: job.sampling.logprobs or 0])
        is_stop = choice.id in job.sampling.stop_token_ids
        is_ended = is_stop or choice.id in ends
        stop = choice.id if is_stop else None
        return Beam((*self.tokens, token), self.logprob + choice.logprob, is_ended, stop)

    def text(self, *, has_special: bool = False) -> str:
        """Decode its text so far, without the token that ends it."""
        own = self.tokens[:-1] if self.is_ended and not isinstance(self.stop, str) else self.tokens
        said = b"".join(token.choice.bytes for token in own if has_special or not token.choice.is_special)
        return said.decode("utf-8", "replace")

    def checked(self, job: Job) -> "Beam":
        """Return itself, or itself ended by one of the job's stop strings."""
        if self.is_ended or not job.sampling.stop or len(self.tokens) <= job.sampling.min_tokens:
            return self
        text = self.text(has_special=not job.sampling.skip_special_tokens)
        found = next((stop for stop in job.sampling.stop if stop in text), None)
        return self if found is None else replace(self, is_ended=True, stop=found)

    def score(self, penalty: float) -> float:
        """Score higher for a better beam; a token that ends the sequence does not count as length."""
        length = max(len(self.tokens) - (self.is_ended and not isinstance(self.stop, str)), 1)
        return float(self.logprob / length**penalty)


@dataclass(slots=True)
class Search:
    """The Run of a beam search. A cut takes effect after the current step."""

    completion_tokens: int = 0  # of the sequences that are still looked at
    is_cut: bool = False

    def cut(self) -> None:
        """See Run.cut."""
        self.is_cut = True


@asynccontextmanager
async def run(engine_run: EngineRun, job: Job, sink: Sink, ends: frozenset[int]) -> AsyncIterator[Search]:
    """Search for `job.beams` sequences; `ends` are the model's own token ids that end one. See Engine.run."""
    search = Search()
    task = asyncio.create_task(_run(engine_run, job, sink, ends, search))
    try:
        yield search
    finally:
        task.cancel()


async def _run(engine_run: EngineRun, job: Job, sink: Sink, ends: frozenset[int], search: Search) -> None:
    """Search and send the result or the Error; a failure of any kind ends this job alone."""
    try:
        await _send(engine_run, job, sink, ends, search)
    except Error as error:
        sink(error)
    except Exception:
        log.exception("a beam search failed")
        sink(Bug("internal error while the answer was searched"))


async def _send(engine_run: EngineRun, job: Job, sink: Sink, ends: frozenset[int], search: Search) -> None:
    """Search, then send each sequence as one delta, the best one first. Raises the engine's Error."""
    cached = [0]

    async def step(one: Job) -> Token:
        token, from_cache = await _one_token(engine_run, one)
        cached[0] = max(cached[0], from_cache)
        return token

    beams = await _search(job, step, ends, search)
    finishes = [_finish(beam, job, is_cut=search.is_cut) for beam in beams]
    for index, (beam, finish) in enumerate(zip(beams, finishes, strict=True)):
        sink(_delta(index, beam, finish, job))
    done = Finished(
        prompt_tokens=len(job.prompt_ids),
        completion_tokens=sum(len(beam.tokens) for beam in beams),
        cached_tokens=cached[0],
        reasons=tuple(finish.reason for finish in finishes),
    )
    sink(done)


async def _search(
    job: Job, step: Callable[[Job], Awaitable[Token]], ends: frozenset[int], search: Search
) -> list[Beam]:
    live, ended = [Beam()], list[Beam]()
    for place in range(job.sampling.max_tokens):
        tokens = await asyncio.gather(*(step(_next(job, beam, place, number)) for number, beam in enumerate(live)))
        grown = [
            beam.with_choice(choice, token.top, job, ends)
            for beam, token in zip(live, tokens, strict=True)
            for choice in token.top
        ]
        live, newly = _sorted_out(grown, job, is_early=place < job.sampling.min_tokens)
        ended += newly
        search.completion_tokens = sum(len(beam.tokens) for beam in (*live, *ended))
        if not live or search.is_cut or _is_settled(live, ended, job):
            break
    found = ended if job.stops_early and len(ended) >= job.beams else [*ended, *live]
    best = sorted(found, key=lambda beam: -beam.score(job.length_penalty))
    return best[: job.beams]


def _sorted_out(grown: list[Beam], job: Job, *, is_early: bool) -> tuple[list[Beam], list[Beam]]:
    """Split the likeliest beams into those that go on and those that have ended; `is_early`: none may end yet."""
    live, ended = list[Beam](), list[Beam]()
    for place, beam in enumerate(sorted(grown, key=lambda beam: -beam.logprob)):
        if place >= 2 * job.beams and len(live) == job.beams:
            break
        checked = beam.checked(job)
        if not checked.is_ended and len(live) < job.beams:
            live.append(checked)
        elif checked.is_ended and place < 2 * job.beams and not is_early:
            ended.append(checked)
    return live, ended


def _is_settled(live: list[Beam], ended: list[Beam], job: Job) -> bool:
    """Whether enough beams have ended, and none that goes on is better than the worst of them."""
    scores = sorted((beam.score(job.length_penalty) for beam in ended), reverse=True)
    if len(scores) < job.beams:
        return False
    return job.stops_early or live[0].score(job.length_penalty) <= scores[job.beams - 1]


def _next(job: Job, beam: Beam, place: int, number: int) -> Job:
    ids = [*job.prompt_ids, *(token.choice.id for token in beam.tokens)]
    sampling = replace(job.sampling, n=1, temperature=0.0, max_tokens=1, min_tokens=0, logprobs=2 * job.beams, stop=())
    return replace(job, id=f"{job.id}-{place}-{number}", prompt_ids=ids, sampling=sampling, beams=0, copies=1)


async def _one_token(engine_run: EngineRun, job: Job) -> tuple[Token, int]:
    found: list[Token] = []
    over: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    def put(event: Event) -> None:
        match event:
            case Delta():
                found.extend(event.tokens)
            case Finished() if not over.done():
                over.set_result(event.cached_tokens)
            case Error() if not over.done():
                over.set_exception(event)

    async with engine_run(job, put):
        cached = await over
    return found[0], cached


def _finish(beam: Beam, job: Job, *, is_cut: bool) -> Finish:
    """Name the reason of its end: its own, the cut, or the length."""
    if beam.is_ended:
        return Finish("stop", beam.stop)
    return Finish("time_limit" if is_cut and len(beam.tokens) < job.sampling.max_tokens else "length")


def _delta(index: int, beam: Beam, finish: Finish, job: Job) -> Delta:
    text = beam.text(has_special=not job.sampling.skip_special_tokens)
    if isinstance(beam.stop, str):
        end = text.index(beam.stop) + (len(beam.stop) if job.sampling.include_stop_str_in_output else 0)
        text = text[:end]
    tokens = list(beam.tokens) if job.sampling.logprobs is not None else []
    return Delta(index, text, [token.choice.id for token in beam.tokens], tokens, finish)
