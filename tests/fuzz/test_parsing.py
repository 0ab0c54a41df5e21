"""Any bytes as a body give a task, an answer without an engine, or one Error that may be shown."""

import os
import time
import unicodedata
from itertools import count
from random import Random

import orjson
import pytest

from lmi_chat import dialects
from lmi_chat.dialects import Deployment, ParsedRequest
from lmi_chat.dialects.formatters import Formatters
from lmi_chat.errors import Error
from lmi_chat.pipeline import parsing
from lmi_chat.pipeline.request import InferenceRequest
from tests.fuzz.mutate import changed, mutated, samples
from tests.support.fakes import LABELS, SCORER, SPACE, TOKENS, JoiningPairs, deployment

SECONDS = float(os.environ.get("FUZZ_SECONDS", "120")) / 2
SEED = os.environ.get("FUZZ_SEED", "1")
BODIES = samples(".json")
TYPES = (
    "application/json",
    "application/json; charset=utf-8; v=1",
    "",
    "text/plain",
    "application/jsonlines",
    "a/b;;=",
)
FORCED = (
    *(None, None, None, "chat", "completion", "embedding", "standard"),
    *("score", "rerank", "classification", "pooling", "predict"),
)


@pytest.fixture(scope="module")
def deployments() -> list[Deployment]:
    calling = deployment(chat_template="{tools}{turns}", tool_parser="any", reasoning_parser="any")
    pooling = [deployment(pooler=spec, pairs=JoiningPairs()) for spec in (SPACE, SCORER, LABELS, TOKENS)]
    return [deployment(), deployment(is_strict=True), calling, *pooling]


def shown(error: Error, dialect: str) -> str:
    """The code of a refusal that may be shown to anybody."""
    assert 400 <= error.status < 500
    assert len(orjson.dumps(dialects.error_body(error, dialect))) <= 2048
    assert not any(unicodedata.category(character) in ("Cc", "Cs") for character in error.message)
    return error.code or error.kind


def check(body: bytes, content_type: str, forced: str | None, served: Deployment) -> str:
    """Parse, and hold what comes to its promises; gives the code of a refusal, or how the body was taken."""
    request = InferenceRequest(body=body, id="1", forced=forced, content_type=content_type)
    try:
        found = parsing.parse(request, None, served, None, served.limits, Formatters())
    except Error as error:
        return shown(error, request.dialect or forced or "")
    finally:
        parsing.warning(request.warnings).encode("ascii")
    if isinstance(found, bytes):
        orjson.loads(found)
        return "answered"
    assert isinstance(found, ParsedRequest)
    assert all(job.prompt_ids for job in found.jobs)
    assert all(0 <= token < served.vocabulary_tokens for job in found.jobs for token in job.prompt_ids)
    return "taken"


@pytest.mark.parametrize("content_type", TYPES)
def test_the_corpus_is_taken_or_refused(deployments: list[Deployment], content_type: str) -> None:
    ways = {check(body, content_type, forced, one) for body in BODIES for forced in FORCED for one in deployments}
    assert (content_type == "a/b;;=") is ("taken" not in ways)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_any_bytes_are_taken_or_refused(deployments: list[Deployment]) -> None:
    print(f"\nFUZZ_SEED={SEED}, {SECONDS:g} s of bodies")
    ways: dict[str, int] = {}
    ends = time.monotonic() + SECONDS
    for number in count():
        if time.monotonic() > ends:
            break
        random = Random(f"{SEED}/body/{number}")
        body = random.choice((mutated, changed, changed))(random, BODIES)
        case = body, random.choice(TYPES), random.choice(FORCED), random.choice(deployments)
        try:
            way = check(*case)
        except BaseException as error:
            error.add_note(f"case {number} of FUZZ_SEED={SEED}: {case[:3]!r}")
            raise
        ways[way] = ways.get(way, 0) + 1
    print(f"{number} bodies: {ways}")
    assert ways["taken"]
    assert len(ways) > 5, "the mutations reach more than one kind of refusal"
