"""The line's own promises, with a scripted engine: slots come back, errors become frames, nothing ends in silence."""

import asyncio
import contextlib
import gc
import json
import threading
from collections.abc import Sequence
from typing import Any

import pytest

from lmi_chat.chat_template import Template
from lmi_chat.errors import Bug, Busy, Draining, EngineDown, Error, PromptTooLong, TimedOut
from lmi_chat.job import Delta, Finish, Finished, Job
from lmi_chat.pipeline import parsing
from lmi_chat.pipeline.parsing import LARGE_BYTES
from lmi_chat.pipeline.pipeline import INLINE_BYTES, InferenceRequest, Pipeline, PipelineConfig
from lmi_chat.storage.sessions import Sessions
from tests.support.fakes import ByteTokenizer, deployment
from tests.support.scripted import Script, Scripted, Step, called, reasoned, said, token

CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "hi"}]}
STREAM = {**CHAT, "stream": True}


class Kept:
    """An Out that keeps everything; `start` may be made to wait."""

    def __init__(self) -> None:
        self.content_type = ""
        self.data = b""
        self.is_ended = False
        self.may_start = asyncio.Event()
        self.may_start.set()

    async def whole(self, body: bytes, content_type: str) -> None:
        self.data, self.content_type, self.is_ended = body, content_type, True

    async def start(self, content_type: str) -> None:
        await self.may_start.wait()
        self.content_type = content_type

    def write(self, data: bytes) -> None:
        assert self.content_type, "nothing is written before the start"
        self.data += data

    def fail(self, error: Error, frame: bytes) -> None:  # noqa: ARG002
        self.write(frame)

    async def end(self) -> None:
        self.is_ended = True


async def opened(script: Script | None = None, **policy: Any) -> tuple[Pipeline, Scripted]:
    engine = Scripted(script or said("Hello!"), max_running=policy.pop("max_running", 4))
    line = Pipeline(PipelineConfig(**policy))
    await line.open(engine, deployment())
    return line, engine


def call(body: object, accept: str = "") -> InferenceRequest:
    return InferenceRequest(body=json.dumps(body).encode(), id="t", accept=accept)


async def answered(line: Pipeline, body: object, accept: str = "") -> Kept:
    out = Kept()
    await line.answer(call(body, accept), out)
    return out


def breaking(error: Step) -> Script:
    """Two characters, then `error`."""

    def script(job: Job) -> Sequence[Step]:
        tokens = [token("a")] if job.sampling.logprobs is not None else []
        return [Delta(0, "a", [97], tokens), Delta(0, "b", [98], tokens), 0.01, error]

    return script


async def test_an_answer_begins_with_its_first_text_though_its_first_token_has_none() -> None:
    steps: list[Step] = [Delta(0, "", [1]), Delta(0, "a", [2]), Delta(0, "b", [3]), 3600.0]
    line, _ = await opened(lambda _: steps)
    out = Kept()
    task = asyncio.create_task(line.answer(call(STREAM), out))
    async with asyncio.timeout(5):
        while b'"b"' not in out.data:
            await asyncio.sleep(0.01)
    assert out.data.count(b'"role":"assistant"') == 1
    task.cancel()


async def test_a_canary_must_pass_before_the_line_opens() -> None:
    line = Pipeline(PipelineConfig())
    assert line.refusal is not None
    assert line.refusal.code == "loading"
    engine = Scripted()
    await line.open(engine, deployment())
    assert [job.id for job in engine.jobs] == ["canary"]
    assert line.refusal is None


async def test_an_error_before_the_first_frame_is_raised() -> None:
    line, engine = await opened(lambda _: [EngineDown("gone")])
    for body in (CHAT, STREAM):
        with pytest.raises(EngineDown):
            await answered(line, body)
    assert (line.active, engine.running) == (0, 0)


@pytest.mark.parametrize(
    ("body", "accept", "last"),
    [
        (STREAM, "", b'{"error":{"message":"boom","type":"server_error","param":null,"code":"internal_error"}}\n'),
        (
            STREAM,
            "text/event-stream",
            b'data: {"error":{"message":"boom","type":"server_error","param":null,"code":"internal_error"}}\n\n',
        ),
    ],
)
async def test_an_error_in_a_stream_is_its_last_frame(body: object, accept: str, last: bytes) -> None:
    line, _ = await opened(breaking(Bug("boom")))
    out = await answered(line, body, accept)
    assert out.data.endswith(last)
    assert b"[DONE]" not in out.data
    assert out.data.count(b"delta") == 2
    assert out.is_ended


async def test_an_error_in_a_standard_stream_is_lmis_error_line() -> None:
    line, _ = await opened(breaking(Bug("boom")))
    out = await answered(line, {"inputs": "x", "stream": True})
    assert json.loads(out.data.split(b"\n")[-2]) == {
        "token": {"id": -1, "text": "", "log_prob": -1, "special_token": True},
        "generated_text": "ab",
        "details": {"finish_reason": "error", "generated_tokens": 2},
        "error": "boom",
        "code": 500,
        "type": "server_error",
        "param": None,
    }


async def test_an_error_in_a_whole_answer_is_raised() -> None:
    line, _ = await opened(breaking(EngineDown("gone")))
    for body in (CHAT, {"inputs": "x"}):
        with pytest.raises(EngineDown):
            await answered(line, body)


async def test_an_engine_that_never_answers_meets_the_deadline() -> None:
    line, engine = await opened(lambda _: [], deadline_s=0.05)
    with pytest.raises(TimedOut):
        await answered(line, CHAT)
    assert (line.active, engine.running, engine.left_early) == (0, 0, 1)

    line, engine = await opened(lambda job: breaking(3600.0)(job), deadline_s=0.05)
    out = await answered(line, STREAM, "text/event-stream")
    assert b'"code":"deadline_exceeded"' in out.data.split(b"\n\n")[-2]
    assert (out.is_ended, line.active, engine.left_early) == (True, 0, 1)


async def test_a_slot_comes_back_however_the_answer_ends() -> None:
    """Also when the task is cancelled while it waits to write, without the collector's help."""
    line, engine = await opened(said("abc", gap_s=0.01))
    out = Kept()
    out.may_start.clear()
    gc.disable()
    try:
        task = asyncio.create_task(line.answer(call(STREAM), out))
        while not engine.running:
            await asyncio.sleep(0)
        await asyncio.sleep(0.05)
        assert line.active == 1
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    finally:
        gc.enable()
    assert (line.active, engine.running) == (0, 0)


async def test_a_constraint_is_tried_before_a_seat_is_taken() -> None:
    """However many wait for that, plain chats find all seats free."""
    line, engine = await opened(max_running=1)
    may_go, tried = asyncio.Event(), list[str]()

    async def check(job: Job) -> None:
        tried.append(job.id)
        await may_go.wait()

    engine.check = check  # type: ignore[method-assign]
    bombs = [asyncio.create_task(answered(line, {**CHAT, "guided_regex": "a" * (number + 1)})) for number in range(8)]
    while len(tried) < 8:
        await asyncio.sleep(0)
    assert (line.active, line.waiting) == (0, 0)
    await answered(line, CHAT)
    assert len(tried) == 8, "a plain chat has nothing to be tried"
    may_go.set()
    await asyncio.gather(*bombs)
    assert line.active == 0


async def test_bad_input_never_costs_a_slot() -> None:
    line, engine = await opened(said("a", gap_s=3600.0), max_running=1, queue=0)
    waiting = [asyncio.create_task(answered(line, CHAT)) for _ in range(2)]
    while line.active < 2:
        await asyncio.sleep(0)
    with pytest.raises(Busy, match="all 2 seats and 0 places"):
        await answered(line, CHAT)
    with pytest.raises(Exception, match="temperature must be") as refused:
        await answered(line, {**CHAT, "temperature": 9})
    assert getattr(refused.value, "status", 0) == 400
    assert len(engine.jobs) == 3
    for task in waiting:
        task.cancel()


async def test_draining_lets_answers_finish_and_takes_no_new_ones() -> None:
    line, _ = await opened(said("abc", gap_s=0.02))
    running = asyncio.create_task(answered(line, STREAM))
    while not line.active:
        await asyncio.sleep(0)
    draining = asyncio.create_task(line.drain(5))
    await asyncio.sleep(0)
    with pytest.raises(Draining):
        await answered(line, CHAT)
    await draining
    assert (await running).data.count(b"\n") == 4


async def test_what_is_not_done_when_draining_ends_gets_an_error_frame() -> None:
    line, engine = await opened(lambda job: breaking(3600.0)(job))
    running = asyncio.create_task(answered(line, STREAM))
    while not line.active:
        await asyncio.sleep(0)
    await line.drain(0.05)
    last = json.loads((await running).data.split(b"\n")[-2])
    assert last["error"]["code"] == "draining"
    assert (line.active, engine.left_early) == (0, 1)


async def test_the_engines_death_ends_every_answer() -> None:
    line, engine = await opened(lambda job: breaking(3600.0)(job))
    tasks = [asyncio.create_task(answered(line, STREAM)) for _ in range(3)]
    while line.active < 3:
        await asyncio.sleep(0)
    await asyncio.sleep(0.02)
    engine.is_dead = True
    line.fail_all(EngineDown("the engine is gone"))
    for out in await asyncio.gather(*tasks):
        assert b'"code":"engine_down"' in out.data
    with pytest.raises(EngineDown):
        await answered(line, CHAT)


async def test_events_after_the_end_are_dropped() -> None:
    ended = Delta(0, "x", [1], finish=Finish("stop"))
    done = Finished(prompt_tokens=1, completion_tokens=1)
    line, _ = await opened(lambda _: [ended, done, ended, done])
    out = await answered(line, STREAM)
    assert (out.data.count(b"\n"), out.data.count(b'"x"'), out.data.count(b'"stop"')) == (2, 1, 1)


async def test_long_bodies_are_read_off_the_loop() -> None:
    """While a big body is parsed, the loop goes on."""
    line, _ = await opened()
    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        while True:
            ticks += 1
            await asyncio.sleep(0)

    ticking = asyncio.create_task(tick())
    body = {"messages": [{"role": "user", "content": "x" * 50_000}]}
    with pytest.raises(Exception, match="messages has 5") as refused:
        await answered(line, body)
    assert getattr(refused.value, "code", "") == "context_length_exceeded"
    assert ticks > 1
    ticking.cancel()


async def test_large_bodies_are_read_one_at_a_time_and_hold_up_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    at_once, most, gate, begun = set[int](), [0], threading.Event(), threading.Event()

    def slowly(*given: Any) -> Any:
        if len(given[0].body) <= LARGE_BYTES:
            return parse(*given)
        at_once.add(id(given[0]))
        most[0] = max(most[0], len(at_once))
        begun.set()
        gate.wait(10)
        at_once.discard(id(given[0]))
        return parse(*given)

    parse = parsing.parse
    monkeypatch.setattr(parsing, "parse", slowly)
    line, _ = await opened()
    large = CHAT | {"note": "x" * LARGE_BYTES}
    waiting = [asyncio.create_task(answered(line, large)) for _ in range(6)]
    await asyncio.to_thread(begun.wait, 10)
    middling = await answered(line, CHAT | {"note": "x" * INLINE_BYTES})
    gate.set()
    others = await asyncio.gather(*waiting)
    assert most == [1]
    assert all(json.loads(one.data)["choices"] == json.loads(middling.data)["choices"] for one in others)


async def test_a_short_body_is_read_on_the_loop_and_a_sessions_turn_is_not() -> None:
    """Its prompt is as long as all that was said before. And no body is held for as long as its answer takes."""
    on_loop: list[bool] = []

    class Watched(ByteTokenizer):
        def encode(self, text: str, **kwargs: Any) -> list[int]:
            on_loop.append(threading.current_thread() is threading.main_thread())
            return super().encode(text, **kwargs)

    sessions = Sessions(seconds=60.0, most=1)
    session = sessions.add(sessions.draft())
    line = Pipeline(PipelineConfig(sessions=sessions))
    await line.open(Scripted(said("Hello!")), deployment(template=Template(Watched())))
    on_loop.clear()
    for session_id in ("", session.id):
        asked = call(STREAM)
        asked.session_id = session_id
        await line.answer(asked, Kept())
        assert asked.body == b""
    assert on_loop == [True, False]
    padded = call(STREAM | {"messages": [{"role": "user", "content": "x" * 900}, *CHAT["messages"] * 90]})
    assert len(padded.body) > INLINE_BYTES
    with contextlib.suppress(PromptTooLong):
        await line.answer(padded, Kept())
    assert on_loop == [True, False, False]


@pytest.mark.parametrize("body", [CHAT, STREAM], ids=["whole", "stream"])
async def test_a_body_is_freed_when_it_is_parsed(body: dict[str, Any]) -> None:
    bodies: list[bytes] = []
    asked: list[InferenceRequest] = []

    def script(job: Job) -> Sequence[Step]:
        bodies.append(asked[0].body)
        return said("ok")(job)

    line, _ = await opened(script)
    for padding in ("", " " * 2 * INLINE_BYTES):  # read on the loop, and off it
        asked[:] = [call(body | {"user": "me", "model": "tiny"})]
        asked[0].body += padding.encode()
        await line.answer(asked[0], Kept())
    assert bodies == [b"", b""]


async def test_a_body_is_freed_while_its_request_waits_for_a_seat() -> None:
    line, engine = await opened(lambda _: [3600.0], max_running=1)
    asked = [call(CHAT) for _ in range(3)]
    tasks = [asyncio.create_task(line.answer(each, Kept())) for each in asked]
    async with asyncio.timeout(5):
        while not line.waiting:
            await asyncio.sleep(0)
    assert engine.running == 2  # a seat, and a spare one
    assert [each.body for each in asked] == [b"", b"", b""]
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


async def test_what_is_promised_can_be_asked_again_until_it_has_a_seat() -> None:
    line, _ = await opened(lambda job: [0.05, *said("ok")(job)], max_running=1, queue=0)
    others = [asyncio.create_task(line.answer(call(CHAT), Kept())) for _ in range(2)]
    await asyncio.sleep(0)
    promised, out = call(CHAT), Kept()
    promised.is_promised = True
    with pytest.raises(Busy):
        await line.answer(promised, out)
    await asyncio.gather(*others)
    await line.answer(promised, out)
    assert json.loads(out.data)["choices"][0]["message"]["content"] == "ok"
    assert promised.body == b""


FULL: dict[str, dict[str, Any]] = {
    "chat": {"messages": [{"role": "user", "content": "Hi"}], "n": 2, "logprobs": True, "max_tokens": 900},
    "completion": {"prompt": "Hi", "n": 2, "logprobs": 1, "max_tokens": 900},
    "standard": {"inputs": "Hi", "parameters": {"details": True, "best_of": 2, "max_new_tokens": 900}},
    "list": {"inputs": ["Hi", "Ho"], "parameters": {"details": True, "max_new_tokens": 900}},
}


def talkative(job: Job) -> Sequence[Step]:
    """Sequences that say a thousand tokens with their log-probabilities, and do not end."""
    says = [
        Delta(index, "a", [97], [token("a")] if job.sampling.logprobs is not None else [])
        for _ in range(1000)
        for index in range(job.sampling.n)
    ]
    return [step for delta in says for step in (0.0, delta)]


@pytest.mark.parametrize("dialect", FULL)
async def test_a_whole_answer_ends_where_it_holds_as_many_bytes_as_it_may(dialect: str) -> None:
    line, engine = await opened(talkative, reply_bytes=2**14)
    body = FULL[dialect]
    asked = call(body)
    out = Kept()
    await line.answer(asked, out)
    answer = json.loads(out.data)
    assert 2**14 <= len(out.data) < 2**14 + 4096
    assert "length" in out.data.decode()
    assert "time_limit" not in out.data.decode()
    if "choices" in answer:
        assert [choice["finish_reason"] for choice in answer["choices"]] == ["length", "length"]
    assert asked.warnings == [
        "the answer has reached 16384 bytes and is cut (option.max_reply_bytes); a stream has no such bound"
    ]
    assert set(asked.record.reasons) == {"length"}
    assert (engine.running, line.active) == (0, 0)


@pytest.mark.parametrize("part", [reasoned("x" * 2**14), called("weather", '{"city":"' + "x" * 2**14)])
async def test_a_whole_answer_is_cut_by_its_bytes_within_reasoning_and_calls(part: Any) -> None:
    line, engine = await opened(lambda job: [*said(part)(job)[:-3], 60.0], reply_bytes=2**12)
    choice = json.loads((await answered(line, CHAT)).data)["choices"][0]
    assert choice["finish_reason"] == "length"
    message = choice["message"]
    calls = message.get("tool_calls")
    text = calls[0]["function"]["arguments"] if calls else message["reasoning"]
    assert 2**12 - len("weather") <= len(text) < 2**13
    assert part.text.startswith(text)
    assert engine.left_early == 0


async def test_a_stream_is_not_held_and_has_no_bound() -> None:
    def script(job: Job) -> Sequence[Step]:
        return [
            *talkative(job),
            Delta(0, "", [], finish=Finish("stop")),
            Finished(prompt_tokens=1, completion_tokens=1000),
        ]

    line, _ = await opened(script, reply_bytes=2**14)
    out = await answered(line, {"prompt": "Hi", "logprobs": 1, "max_tokens": 900, "stream": True})
    assert len(out.data) > 2**15
    assert out.data.count(b'"finish_reason":"stop"') == 1
