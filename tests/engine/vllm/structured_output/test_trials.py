"""Verdicts on constraints, from the real process around a compiler that waits, works or answers as a file says."""

import asyncio
import os
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from lmi_chat.engine.vllm.structured_output.trials import Trials
from lmi_chat.errors import BadField, Busy, Unavailable
from lmi_chat.job import OutputConstraint

pytestmark = pytest.mark.processes

SECONDS = 0.2
COMPILER = """
import os, pathlib, time

class LLTokenizer:
    def __init__(self, *_, **__):
        pass

def grammar_from(kind, text):
    here = pathlib.Path(__file__).parent
    with open(here / "tried", "a") as tried:
        tried.write(text + "\\n")
    match (here / "does").read_text():
        case "waits":
            time.sleep(60)
        case "works":
            while True:
                pass
        case "ends":
            os.kill(os.getpid(), 9)
    raise ValueError("it is good for nothing")
"""
Does = Callable[[str], None]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where a stand-in for llguidance is that the process imports."""
    package = tmp_path / "llguidance"
    package.mkdir()
    (package / "__init__.py").write_text(COMPILER)
    (package / "numpy.py").write_text("from llguidance import LLTokenizer\n")
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), *filter(None, [os.environ.get("PYTHONPATH")])]))
    return package


@pytest.fixture
async def judge(folder: Path) -> AsyncIterator[Trials]:
    trials = Trials(SECONDS, {"tokenizer": str(folder), "vocabulary": 1, "end": 0})
    yield trials
    process = trials._process
    assert process is not None
    trials.stop()
    await process.wait()


def tried(folder: Path) -> int:
    return len((folder / "tried").read_text().splitlines())


async def problem(judge: Trials) -> str:
    with pytest.raises(BadField) as caught:
        await judge.check(OutputConstraint("regex", "a", "guided_regex"))
    return caught.value.message


async def test_a_trial_that_only_waited_is_no_verdict(judge: Trials, folder: Path) -> None:
    """Who had no processor is asked to come again, and is judged then."""
    (folder / "does").write_text("waits")
    several = [judge.check(OutputConstraint("regex", "a")) for _ in range(2)]
    for refused in await asyncio.gather(*several, return_exceptions=True):
        assert isinstance(refused, Unavailable)
        assert (refused.status, refused.retry_after_s, refused.is_retry_free) == (503, 1, True)
        assert "processors are too busy" in refused.message
    assert tried(folder) == 1
    (folder / "does").write_text("answers")
    assert await problem(judge) == "guided_regex is refused: it is good for nothing"
    assert tried(folder) == 2


@pytest.mark.parametrize(
    ("does", "words"),
    [
        ("works", "guided_regex is too complex: it does not compile within 0.2 s"),
        ("ends", "guided_regex is too complex: the compiler fails on it"),
        ("answers", "guided_regex is refused: it is good for nothing"),
    ],
)
async def test_a_trial_that_used_its_time_is_a_verdict(judge: Trials, folder: Path, does: str, words: str) -> None:
    (folder / "does").write_text(does)
    assert await problem(judge) == words
    (folder / "does").write_text("waits")
    assert await problem(judge) == words, "it is remembered"
    assert tried(folder) == 1


async def test_so_many_wait_for_a_verdict_and_known_ones_do_not(folder: Path) -> None:
    trials = Trials(SECONDS, {"tokenizer": str(folder), "vocabulary": 1, "end": 0}, most=3)
    (folder / "does").write_text("answers")
    known = OutputConstraint("regex", "known")
    with pytest.raises(BadField):
        await trials.check(known)
    (folder / "does").write_text("works")
    waiting = [asyncio.create_task(trials.check(OutputConstraint("regex", f"a{number}"))) for number in range(3)]
    await asyncio.sleep(0.05)
    with pytest.raises(Busy, match=r"3 requests wait .*\(max_trials\)"):
        await trials.check(OutputConstraint("regex", "one more"))
    with pytest.raises(BadField):
        await trials.check(known)
    results = await asyncio.gather(*waiting, return_exceptions=True)
    assert all(isinstance(result, BadField | Unavailable) for result in results)
    with pytest.raises(BadField):
        await trials.check(known)
    process = trials._process
    assert process is not None
    trials.stop()
    await process.wait()
