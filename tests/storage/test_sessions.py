"""Sessions: a conversation that is held, turn by turn, and given up in time."""

import asyncio
import json
import time
from typing import Any

import pytest

from lmi_chat.errors import BadField, Bug, Busy, Conflict, NotFound
from lmi_chat.pipeline.pipeline import InferenceRequest, Pipeline
from lmi_chat.storage.sessions import FLOOR_S, Sessions, Turn
from lmi_chat.testing.tokenizer import TOOLS, TURNS
from tests.pipeline.test_pipeline import Kept, breaking, opened
from tests.support.fakes import deployment
from tests.support.scripted import Scripted, called, reasoned, said


def turn(text: str, **fields: Any) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": text}], **fields}


async def held(**limits: Any) -> tuple[Pipeline, Scripted, Sessions]:
    sessions = Sessions(**{"seconds": 60.0, "most": 10, **limits})
    line, engine = await opened(said("Hi"), sessions=sessions)
    return line, engine, sessions


async def ask(line: Pipeline, body: object, session_id: str = "") -> tuple[Any, InferenceRequest]:
    call, out = InferenceRequest(body=json.dumps(body).encode(), id="t", session_id=session_id), Kept()
    await line.answer(call, out)
    return out.data, call


async def begun(line: Pipeline) -> str:
    data, call = await ask(line, {"requestType": "NEW_SESSION"})
    session_id, _, expires = call.headers["X-Amzn-SageMaker-New-Session-Id"].partition("; Expires=")
    assert call.headers["X-Amzn-SageMaker-Session-Id"] == call.headers["X-Amzn-SageMaker-New-Session-Id"]
    assert len(expires) == len("2026-11-22T08:40:43Z")
    assert expires.endswith("Z")
    assert json.loads(data) == {"result": f"Session {session_id} created"}
    return session_id


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_turn_is_enough(is_stream: bool) -> None:  # noqa: FBT001
    line, engine, _ = await held()
    session_id = await begun(line)
    await ask(line, turn("one", stream=is_stream), session_id)
    await ask(line, turn("two", stream=is_stream), session_id)
    first = "user\none<|im_end|>\nassistant\nHi<|im_end|>\n"
    assert engine.jobs[-1].prompt_text == first + "user\ntwo<|im_end|>\nassistant\n"
    whole = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "Hi", "refusal": None},
        {"role": "user", "content": "two"},
        {"role": "assistant", "content": "Hi"},
        {"role": "user", "content": "three"},
    ]
    await ask(line, {"messages": whole}, session_id)
    assert engine.jobs[-1].prompt_text.count("user\none") == 1, "who sends all of it again is understood"
    data, call = await ask(line, {"requestType": "CLOSE"}, session_id)
    assert json.loads(data) == {"result": f"Session {session_id} closed"}
    assert call.headers == {"X-Amzn-SageMaker-Closed-Session-Id": session_id}
    with pytest.raises(BadField, match="is unknown"):
        await ask(line, turn("four"), session_id)


async def test_the_header_alone_begins_one() -> None:
    line, engine, _ = await held()
    _, call = await ask(line, turn("one"), "NEW_SESSION")
    session_id = call.headers["X-Amzn-SageMaker-New-Session-Id"].partition(";")[0]
    await ask(line, turn("two"), session_id)
    assert "user\none" in engine.jobs[-1].prompt_text


async def test_a_chat_that_is_refused_begins_none() -> None:
    line, _, sessions = await held(most=1)
    first = await begun(line)
    with pytest.raises(BadField, match="temperature"):
        await ask(line, turn("x", temperature=9), "NEW_SESSION")
    assert sessions.get(first).id == first


async def test_an_answer_that_fails_leaves_the_session_as_it_was() -> None:
    line, engine, sessions = await held()
    session_id = await begun(line)
    await ask(line, turn("one"), session_id)
    before = list(sessions.get(session_id).messages)
    engine.script = breaking(Bug("boom"))
    with pytest.raises(Bug):
        await ask(line, turn("two"), session_id)
    await ask(line, turn("two", stream=True), session_id)
    assert sessions.get(session_id).messages == before


async def test_one_turn_at_a_time() -> None:
    line, engine, _ = await held()
    session_id = await begun(line)
    engine.script = said("slow", gap_s=0.05)
    running = asyncio.create_task(ask(line, turn("one"), session_id))
    while not engine.running:
        await asyncio.sleep(0)
    with pytest.raises(Conflict, match="one turn at a time") as refused:
        await ask(line, turn("two"), session_id)
    assert refused.value.status == 409
    await running
    await ask(line, turn("two"), session_id)


@pytest.mark.parametrize("body", [{"inputs": "a"}, {"prompt": "a"}], ids=["standard", "completion"])
async def test_what_passes_the_conversation_by_excludes_nothing(body: dict[str, Any]) -> None:
    line, engine, sessions = await held()
    session_id = await begun(line)
    await ask(line, turn("one"), session_id)
    before = list(sessions.get(session_id).messages)
    engine.script = said("slow", gap_s=0.05)
    running = [asyncio.create_task(ask(line, sent, session_id)) for sent in (body, turn("two"), body)]
    while engine.running < len(running):
        await asyncio.sleep(0)
    with pytest.raises(Conflict, match="one turn at a time"):
        await ask(line, turn("three"), session_id)
    for answered, _ in await asyncio.gather(*running):
        assert answered
    assert [message["content"] for message in sessions.get(session_id).messages[len(before) :]] == ["two", "slow"]


async def test_a_turn_whose_client_goes_while_it_is_read_holds_nothing() -> None:
    line, _, sessions = await held()
    session_id = await begun(line)
    late = Turn(sessions.get(session_id))
    late.end()
    late.begin()
    await ask(line, turn("one"), session_id)


async def test_expiry_number_and_bytes_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    line, _, sessions = await held(most=2)
    first, second = [await begun(line) for _ in range(2)]
    age(sessions, first)
    third = await begun(line)
    with pytest.raises(BadField):
        sessions.get(first)
    sessions.get(second)
    now = time.time()
    monkeypatch.setattr(time, "time", lambda: now + 61)
    for session_id in (second, third):
        with pytest.raises(BadField, match="has expired"):
            sessions.get(session_id)
    small = Sessions(seconds=60, most=10, most_bytes=120)
    one, two = small.open(), small.open()
    age(small, one.id)
    small.store(one, [{"role": "user", "content": "x" * 50}])
    small.store(two, [{"role": "user", "content": "y" * 50}])
    with pytest.raises(BadField):
        small.get(one.id)
    assert 50 < len(small.get(two.id).document) == small.bytes <= 120
    small.close(two.id)
    assert small.bytes == 0


def age(sessions: Sessions, session_id: str) -> None:
    """Let a session be old enough to make room."""
    sessions.get(session_id).began -= FLOOR_S


async def test_nobody_ends_everyones_sessions_by_opening_many() -> None:
    line, _, sessions = await held(most=3)
    ids = [await begun(line) for _ in range(3)]
    for _ in range(5):
        with pytest.raises(Busy, match="max_sessions") as refused:
            await begun(line)
    assert refused.value.status == 503
    assert [sessions.get(session_id).id for session_id in ids] == ids


def test_nobody_ends_young_sessions_by_filling_ones_own() -> None:
    sessions = Sessions(seconds=60, most=10, most_bytes=200)
    others, own = sessions.open(), sessions.open()
    sessions.store(others, [{"role": "user", "content": "x" * 50}])
    sessions.store(own, [{"role": "user", "content": "y" * 150}])
    assert sessions.get(others.id) is others
    with pytest.raises(BadField):
        sessions.get(own.id)
    assert sessions.bytes == len(others.document)


def test_an_owner_of_half_of_all_sessions_makes_room_with_its_own() -> None:
    sessions = Sessions(seconds=60, most=4)
    ada, *floods = sessions.open("ada"), *(sessions.open("bob") for _ in range(5))
    assert sessions.get(ada.id, "ada") is ada
    for flood in floods[:3]:
        with pytest.raises(BadField):
            sessions.get(flood.id, "bob")
    for flood in floods[3:]:
        assert sessions.get(flood.id, "bob") is flood


def test_a_session_is_its_owners() -> None:
    sessions = Sessions(seconds=60, most=4)
    session = sessions.open("ada")
    for other in ("", "bob"):
        with pytest.raises(BadField, match="is unknown"):
            sessions.get(session.id, other)
        with pytest.raises(BadField, match="is unknown"):
            sessions.close(session.id, other)
    assert sessions.close(session.id, "ada") is session


async def test_a_conversation_is_held_as_it_is_counted_and_without_unknown_keys() -> None:
    line, _, sessions = await held(most=2)
    session_id = await begun(line)
    body = turn("one")
    body["messages"][0]["junk"] = [{"a": number} for number in range(1000)]
    await ask(line, body, session_id)
    session = sessions.get(session_id)
    assert b"junk" not in session.document
    assert [message["role"] for message in session.messages] == ["user", "assistant"]
    assert sessions.bytes == len(session.document) < 200


@pytest.mark.parametrize(
    ("body", "session_id", "words"),
    [
        ({"requestType": "OPEN"}, "", 'requestType must be one of NEW_SESSION, CLOSE, got "OPEN"'),
        ({"requestType": "CLOSE"}, "", "needs the session's id in the header"),
        ({"requestType": "CLOSE"}, "nope", 'session "nope" is unknown'),
        (turn("x"), "nope", 'session "nope" is unknown'),
    ],
)
async def test_mistakes_are_named(body: object, session_id: str, words: str) -> None:
    line, _, _ = await held()
    with pytest.raises(BadField, match=words):
        await ask(line, body, session_id)


@pytest.mark.parametrize("kind", ["NEW_SESSION", "CLOSE"])
async def test_an_unknown_key_is_refused(kind: str) -> None:
    line, _, sessions = await held()
    session_id = await begun(line)
    with pytest.raises(BadField, match=r"^expire is not a known key; mod is not a known key; did you mean model\?$"):
        await ask(line, {"requestType": kind, "expire": 5, "mod": 1}, session_id if kind == "CLOSE" else kind)
    assert sessions.get(session_id).id == session_id


async def test_another_model_is_not_found() -> None:
    line, _, _ = await held()
    with pytest.raises(NotFound, match="gpt-4"):
        await ask(line, {"requestType": "NEW_SESSION", "model": "gpt-4"}, "NEW_SESSION")


async def test_what_does_not_fit_a_session_is_refused() -> None:
    line, _, _ = await held()
    session_id = await begun(line)
    with pytest.raises(BadField, match="n must be 1 in a session, got 2"):
        await ask(line, turn("x", n=2), session_id)
    with pytest.raises(BadField, match="messages must be an array"):
        await ask(line, {"messages": "x"}, session_id)
    off, _ = await opened(said("Hi"))
    for body in ({"requestType": "NEW_SESSION"}, turn("x")):
        with pytest.raises(BadField, match="sessions are off"):
            await ask(off, body, "some" if "messages" in body else "")


@pytest.mark.parametrize("is_stream", [False, True])
async def test_a_turn_that_calls_a_tool_is_held_with_its_call_and_its_reasoning(*, is_stream: bool) -> None:
    line, engine = await opened(
        said(reasoned("Hm."), called("weather", {"city": "Rome"})), sessions=(sessions := Sessions(seconds=60, most=2))
    )
    await line.open(engine, deployment(chat_template=TOOLS + TURNS))
    session_id = await begun(line)
    await ask(line, turn("one", stream=is_stream), session_id)
    call = {"id": "call_0", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Rome"}'}}
    conversation: list[dict[str, Any]] = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": None, "reasoning": "Hm.", "tool_calls": [call]},
    ]
    assert sessions.get(session_id).messages == conversation
    result = {"role": "tool", "content": "rain", "tool_call_id": "call_0"}
    for again in ([result], [*conversation, result], [conversation[0], {**conversation[1], "content": ""}, result]):
        held = sessions.get(session_id).with_turn(again)
        assert [message["role"] for message in held] == ["user", "assistant", "tool"]
    other = [conversation[0], {**conversation[1], "tool_calls": [{**call, "id": "call_9"}]}, result]
    assert len(sessions.get(session_id).with_turn(other)) == 5, "another call is another conversation"
    assert len(sessions.get(session_id).with_turn([conversation[0], {"role": "assistant", "tool_calls": 7}])) == 4
    await ask(line, {"messages": [result]}, session_id)
    assert engine.jobs[-1].prompt_text == (
        'user\none<|im_end|>\nassistant\n{"name": "weather", "arguments": {"city": "Rome"}}<|im_end|>\n'
        "tool\nrain<|im_end|>\nassistant\n"
    )
