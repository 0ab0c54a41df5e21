"""Media by all surfaces, around an engine that plays a script; threads, and what waits for them."""

import asyncio
import json
import threading
import time
from typing import Any

import httpx
import pytest

from lmi_chat.pipeline.pipeline import PipelineConfig
from lmi_chat.storage.sessions import Sessions
from lmi_chat.testing import ScriptedEngine, application, said
from tests.support.media import PNG, PREPARED_BYTES, FakeRenderer, data_url, media

pytestmark = pytest.mark.processes

SIZE = len(PNG)
IMAGE: dict[str, Any] = {"type": "image_url", "image_url": {"url": data_url(PNG)}}
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, IMAGE]}]}


def client(app: Any) -> httpx.AsyncClient:
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://test")


@pytest.mark.parametrize("path", ["/invocations", "/v1/chat/completions"])
async def test_an_image_reaches_the_engine(path: str) -> None:
    engine = ScriptedEngine()
    async with client(await application(engine, media=media())) as http:
        answer = await http.post(path, json=CHAT)
        assert answer.status_code == 200, answer.text
    assert engine.jobs[-1].prompt_text == f"a[image:{SIZE}]"
    assert engine.jobs[-1].media is not None


async def test_the_usage_tells_of_media() -> None:
    engine = ScriptedEngine()
    async with client(await application(engine, media=media())) as http:
        usage = (await http.post("/invocations", json=CHAT)).json()["usage"]
        assert usage["prompt_tokens_details"] == {"cached_tokens": 0, "multimodal_tokens": {"image": 3}}
        plain = {"messages": [{"role": "user", "content": "a"}]}
        usage = (await http.post("/invocations", json=plain)).json()["usage"]
        assert usage["prompt_tokens_details"] == {"cached_tokens": 0}
        lines = (
            await http.post("/invocations", json=CHAT | {"stream": True, "stream_options": {"include_usage": True}})
        ).text
    last = json.loads(lines.strip().removesuffix("data: [DONE]").strip().splitlines()[-1].removeprefix("data: "))
    assert last["usage"]["prompt_tokens_details"]["multimodal_tokens"] == {"image": 3}


async def test_lmis_details_tell_of_media_too() -> None:
    asked = {"parameters": {"details": True}}
    async with client(await application(ScriptedEngine(), media=media())) as http:
        seen = (await http.post("/invocations", json={"inputs": CHAT["messages"], **asked})).json()
        plain = (await http.post("/invocations", json={"inputs": "a", **asked})).json()
    assert seen["details"]["usage"]["multimodal_tokens"] == {"image": 3}
    assert "multimodal_tokens" not in plain["details"]["usage"]


async def test_a_letter_that_is_escaped_hides_nothing() -> None:
    """A body with media is never rendered on the event loop, however it is written."""
    threads: list[bool] = []

    class Watching(FakeRenderer):
        def render_chat(self, *given: Any) -> Any:
            threads.append(threading.current_thread() is threading.main_thread())
            return super().render_chat(*given)

    body = json.dumps(CHAT).replace("image_url", "\\u0069mage_url").replace("data:image", "data:\\u0069mage")
    async with client(await application(ScriptedEngine(), media=media(Watching(image=1)))) as http:
        for data in (json.dumps(CHAT), body):
            answer = await http.post("/invocations", content=data, headers={"content-type": "application/json"})
            assert answer.status_code == 200, answer.text
    assert threads == [False, False]


async def test_a_session_keeps_its_images() -> None:
    engine = ScriptedEngine()
    config = PipelineConfig(sessions=Sessions(seconds=60, most=10))
    async with client(await application(engine, config, media=media())) as http:
        headers = {"X-Amzn-SageMaker-Session-Id": "NEW_SESSION"}
        first = await http.post("/invocations", json=CHAT, headers=headers)
        assert first.status_code == 200, first.text
        named = first.headers["X-Amzn-SageMaker-New-Session-Id"].partition(";")[0]
        turn = {"messages": [{"role": "user", "content": "b"}]}
        second = await http.post("/invocations", json=turn, headers={"X-Amzn-SageMaker-Session-Id": named})
        assert second.status_code == 200, second.text
    assert engine.jobs[-1].prompt_text == f"a[image:{SIZE}]Hello!b"


async def test_slow_media_hold_up_nobody_else_and_are_refused_when_they_are_too_many() -> None:
    go = threading.Event()

    class Slow(FakeRenderer):
        def render_chat(self, *given: Any) -> Any:
            assert go.wait(20)
            return super().render_chat(*given)

    config = PipelineConfig(queue=1)
    async with client(await application(ScriptedEngine(), config, media=media(Slow(image=1), at_once=1))) as http:
        waiting = [asyncio.create_task(http.post("/invocations", json=CHAT)) for _ in range(2)]
        await asyncio.sleep(0.1)
        plain = {"messages": [{"role": "user", "content": "a" * 500}], "user": "x" * 100}
        assert (await http.post("/invocations", json=plain)).status_code == 200
        refused = await http.post("/invocations", json=CHAT)
        assert refused.status_code == 503
        assert "2 requests with media are being prepared" in refused.json()["error"]["message"]
        go.set()
        assert [answer.status_code for answer in await asyncio.gather(*waiting)] == [200, 200]


MOST = 2 * PREPARED_BYTES + 100
"""Bytes of prepared media that two of CHAT have room in, and three have not."""


async def test_prepared_media_of_requests_that_wait_are_bounded() -> None:
    """Two are answered or wait for a seat; a third finds no room until one of these has gone."""
    renderer = FakeRenderer(image=1)
    engine = ScriptedEngine(said("Hello!", gap_s=0.15), max_running=1)
    async with client(await application(engine, media=media(renderer, prepared_bytes=MOST))) as http:
        waiting = [asyncio.create_task(http.post("/invocations", json=CHAT)) for _ in range(2)]
        while renderer.rendered < 2 or not engine.running:
            await asyncio.sleep(0.01)
        for _ in range(2):  # what is refused is counted no longer
            refused = await http.post("/invocations", json=CHAT)
            assert refused.status_code == 503
            assert f"of at most {MOST} (option.media_bytes_in_flight)" in refused.json()["error"]["message"]
        plain = {"messages": [{"role": "user", "content": "a"}]}
        assert (await http.post("/invocations", json=plain)).status_code == 200
        assert [answer.status_code for answer in await asyncio.gather(*waiting)] == [200, 200]
        assert (await http.post("/invocations", json=CHAT)).status_code == 200


async def test_records_wait_for_each_others_media() -> None:
    body = "\n".join(json.dumps(CHAT) for _ in range(5))
    async with client(await application(ScriptedEngine(), media=media(prepared_bytes=MOST))) as http:
        answer = await http.post("/invocations", content=body, headers={"content-type": "application/jsonlines"})
    assert ["choices" in json.loads(line) for line in answer.text.splitlines()] == [True] * 5


async def test_media_beyond_the_bound_have_their_turn_alone() -> None:
    async with client(await application(ScriptedEngine(), media=media(prepared_bytes=1))) as http:
        assert (await http.post("/invocations", json=CHAT)).status_code == 200


async def test_what_has_no_effect_is_told() -> None:
    """How large an image is taken is the processor's business, which a setting may change and a request may not."""
    part = {"type": "image_url", "image_url": {"url": data_url(PNG), "detail": "low"}}
    body = {"messages": [{"role": "user", "content": [part]}], "mm_processor_kwargs": {"size": 9}}
    async with client(await application(ScriptedEngine(), media=media())) as http:
        told = (await http.post("/invocations", json=body)).headers["x-lmi-chat-warning"]
        assert "mm_processor_kwargs is ignored" in told
        assert "messages[0].content[0].image_url.detail is ignored" in told
        part["image_url"] = {"url": data_url(PNG), "detail": "auto"}
        quiet = await http.post("/invocations", json={"messages": body["messages"]})
    assert "x-lmi-chat-warning" not in quiet.headers


async def test_the_deadline_holds_for_media_too() -> None:
    go = threading.Event()

    class Slow(FakeRenderer):
        def render_chat(self, *given: Any) -> Any:
            go.wait(20)
            return super().render_chat(*given)

    config = PipelineConfig(deadline_s=0.2)
    async with client(await application(ScriptedEngine(), config, media=media(Slow(image=1)))) as http:
        late = await http.post("/invocations", json=CHAT)
        go.set()
    assert late.status_code == 504


async def test_one_deadline_holds_for_media_and_answer() -> None:
    """What the one has taken, the other has no longer: each alone would be in time."""

    class Slow(FakeRenderer):
        def render_chat(self, *given: Any) -> Any:
            time.sleep(0.6)
            return super().render_chat(*given)

    slow, config = media(Slow(image=1)), PipelineConfig(deadline_s=1.0)
    async with client(await application(ScriptedEngine(said("H", gap_s=0.6)), config, media=slow)) as http:
        assert (await http.post("/invocations", json={"messages": [{"role": "user", "content": "a"}]})).is_success
        late = await http.post("/invocations", json=CHAT)
    assert late.status_code == 504
    assert "within 1 s" in late.json()["error"]["message"]


@pytest.mark.parametrize("kinds", [{}, {"image": 3}, {"image": 1, "audio": 1}])
async def test_the_document_tells_what_parts_there_may_be(kinds: dict[str, int]) -> None:
    given = media(FakeRenderer(**kinds)) if kinds else None
    async with client(await application(ScriptedEngine(), media=given)) as http:
        document = (await http.get("/openapi.json")).text
    assert ('"input_image"' in document) == ("image" in kinds)
    assert ("input_audio" in document) == ("audio" in kinds)
    assert "video_url" not in document
