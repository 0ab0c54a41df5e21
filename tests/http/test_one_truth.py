"""One conversation by every dialect and way in says one thing; scripted engine, real HTTP."""

import re
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

from lmi_chat.job import CallPart, Delta, DeltaKind, Finish, Finished, Job, Token, TokenLogprob
from lmi_chat.testing import END, END_ID
from tests.http.test_sagemaker import boto
from tests.support.doors import Doors
from tests.support.scripted import Scripted, Service, Step, serving
from tests.support.talks import PARROT, TALKS, differences

pytestmark = pytest.mark.processes

PARTS = re.compile(r"<think>(.*?)(</think>|$)|<tool_call>(.*?)(</tool_call>|$)", re.DOTALL)
CALL = re.compile(r'(\s*\{"name": "(\w+)", "arguments": )(.*)(\}\s*)', re.DOTALL)
Piece = tuple[str, DeltaKind, CallPart | None]
"""What one character of the model's text adds: a text or none, of its kind."""
FORCED = '{"town": "x"}'


def silent(text: str) -> list[Piece]:
    return [("", "content", None) for _ in text]


def taken_apart(raw: str, job: Job) -> Iterator[Piece]:
    """Each character of a text as parsers have it."""
    start = place = 0
    calls = job.parsing is not None and job.parsing.tools and job.parsing.choice != "none"
    for part in PARTS.finditer(raw):
        if part[3] is not None and not calls:
            continue
        yield from ((one, "content", None) for one in raw[start : part.start()])
        start = part.end()
        if part[3] is None:
            yield from silent("<think>")
            yield from ((one, "reasoning", None) for one in part[1])
            yield from silent(part[2])
            continue
        if (found := CALL.fullmatch(part[3])) is None:
            raise ValueError(part[3])
        yield from silent("<tool_call>" + found[1][1:])
        yield "", "call", CallPart(place, f"call_{place}", found[2])
        yield from ((one, "call", CallPart(place)) for one in found[3])
        yield from silent(found[4] + part[4])
        place += 1
    yield from ((one, "content", None) for one in raw[start:])


def play(job: Job) -> list[Step]:
    """Say what stands behind PARROT in the prompt, a token per byte, as far as the request's bounds let it."""
    _, mark, told = job.prompt_text.rpartition(PARROT)
    raw = told.partition(END)[0] if mark else "Hé, it is Paris."
    if job.parsing is not None and job.parsing.choice in ("required", "named"):
        raw = f'<tool_call>{{"name": "weather", "arguments": {FORCED}}}</tool_call>'
    pieces: list[Piece] = [(one, "content", None) for one in raw]
    if job.parsing is not None:
        pieces = [*taken_apart(raw, job)]
    found = [(raw.index(stop), stop) for stop in job.sampling.stop if stop in raw]
    finish, length = Finish("stop"), len(raw)
    if found:
        first, stop = min(found)
        finish, length = Finish("stop", stop), first + len(stop)
        pieces[first:] = silent(raw[first:length])
    deltas: list[Delta] = []
    for character, (text, kind, part) in zip(raw[:length], pieces, strict=True):
        *begun, last = character.encode()
        deltas += [Delta(0, "", [byte], kind=kind) for byte in begun]
        deltas.append(Delta(0, text, [last], kind=kind, call=part))
    if not found:
        deltas.append(Delta(0, "", [END_ID]))
    if len(deltas) > job.sampling.max_tokens:
        deltas, finish = deltas[: job.sampling.max_tokens], Finish("length")
    deltas[-1].finish = finish
    if job.sampling.logprobs is not None:
        for delta in deltas:
            spelled = bytes(delta.ids) if delta.ids != [END_ID] else END.encode()
            delta.tokens = [Token(TokenLogprob(delta.ids[0], -0.5, spelled, delta.ids == [END_ID]))]
    reasoned = sum(delta.kind == "reasoning" for delta in deltas)
    done = Finished(prompt_tokens=len(job.prompt_ids), completion_tokens=len(deltas), reasoning_tokens=reasoned)
    return [*deltas, done]


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    own: Any = {"tool_parser": "any", "reasoning_parser": "any", "template_variables": frozenset({"enable_thinking"})}
    with serving(Scripted(play), chat_template="{tools}{turns}", **own) as running:
        yield running


@pytest.fixture(scope="module")
def doors(service: Service) -> Iterator[Doors]:
    with closing(boto(service)) as runtime:
        yield Doors(service.port, runtime)


@pytest.mark.parametrize("name", TALKS)
def test_one_truth(service: Service, doors: Doors, name: str) -> None:
    talk, before = TALKS[name], len(service.engine.jobs)
    told = doors.ask(talk)
    assert len(told) >= (38 if talk.is_free else 26)
    wrong = {way: found for way, one in told.items() if (found := differences(one, told, talk))}
    assert not wrong
    assert len({tuple(job.prompt_ids) for job in service.engine.jobs[before:]}) == 1
