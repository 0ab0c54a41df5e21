"""When the engine last took a step; of several engines, of the one that stands still with requests."""

import time

import pytest

from lmi_chat.engine.vllm.heartbeat import Heartbeat

FIRST, SECOND = b"\x00\x00", b"\x01\x00"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def test_a_step_of_the_one_engine_counts(clock: list[float]) -> None:
    beat = Heartbeat()
    assert beat.stepped_at == 100.0
    clock[0] = 105.0
    beat.record(None, object())
    assert beat.stepped_at == 100.0
    assert beat({}, 0) is beat
    beat.record(object(), None, mm_cache_stats=None, engine_idx=0)
    assert beat.stepped_at == 105.0


def test_of_several_engines_the_slowest_with_requests_counts(clock: list[float]) -> None:
    beat, unfinished = Heartbeat(), {FIRST: 0, SECOND: 0}
    beat.watch({FIRST: 4, SECOND: 5}, unfinished)
    clock[0] = 200.0
    beat.record(object(), None, engine_idx=4)
    assert beat.stepped_at == 200.0, "an engine without requests may stand still"
    clock[0] = 300.0
    unfinished[SECOND] = 1
    beat.begin(SECOND)
    unfinished[FIRST] = 2
    clock[0] = 310.0
    beat.step(4)
    assert beat.stepped_at == 300.0, "the first does not make up for the second"
    clock[0] = 320.0
    beat.step(5)
    assert beat.stepped_at == 310.0
    unfinished[FIRST] = 0
    assert beat.stepped_at == 320.0
    unfinished[SECOND] = 0
    assert beat.stepped_at == 320.0
