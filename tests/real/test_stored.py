"""Stored completions through the real engine, by the openai client: what it asks for is what the server keeps."""

import threading
import time
from collections.abc import Iterator
from typing import Any

import openai
import pytest

from tests.real.conftest import Server

FRANCE: Any = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "What is the capital of France?"},
]


@pytest.fixture(scope="module")
def client(other: Server) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"http://127.0.0.1:{other.port}/v1", api_key="none", max_retries=0) as made:
        yield made


def make(client: openai.OpenAI, **fields: Any) -> Any:
    fields = {"model": "own", "messages": FRANCE, "temperature": 0, "max_tokens": 8, "store": True} | fields
    return client.chat.completions.create(**fields)


def test_create_list_retrieve_update_delete(client: openai.OpenAI) -> None:
    first = make(client, metadata={"topic": "france", "try": "1"})
    second = make(client, metadata={"topic": "france", "try": "2"}, user="ada", modalities=["text"])
    make(client, metadata={"topic": "other"})
    make(client, metadata={"topic": "france"}, store=False)
    completions = client.chat.completions
    assert [each.id for each in completions.list(metadata={"topic": "france"})] == [first.id, second.id]
    assert [each.id for each in completions.list(metadata={"topic": "france", "try": "2"})] == [second.id]
    assert [each.id for each in completions.list(metadata={"topic": "france"}, limit=1, order="desc")] == [
        second.id,
        first.id,
    ], "the client turns the pages"
    found = completions.retrieve(first.id)
    assert found.choices[0].message.content == first.choices[0].message.content
    assert (found.usage, found.created, found.model) == (first.usage, first.created, first.model)
    messages = list(completions.messages.list(first.id, limit=1))
    assert [(each.role, each.content) for each in messages] == [(each["role"], each["content"]) for each in FRANCE]
    assert completions.update(first.id, metadata={"topic": "new"}).model_dump()["metadata"] == {"topic": "new"}
    assert [each.id for each in completions.list(metadata={"topic": "new"}, model=first.model)] == [first.id]
    deleted = completions.delete(first.id)
    assert (deleted.id, deleted.deleted, deleted.object) == (first.id, True, "chat.completion.deleted")
    with pytest.raises(openai.NotFoundError):
        completions.retrieve(first.id)
    with pytest.raises(openai.BadRequestError, match="limit must be at least 1 and at most 100"):
        completions.list(limit=0)


def test_a_stream_is_kept_whole(client: openai.OpenAI) -> None:
    whole = make(client, logprobs=True)
    chunks = list(make(client, logprobs=True, stream=True))
    found = client.chat.completions.retrieve(chunks[0].id)
    assert found.choices == whole.choices
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks)
    assert found.choices[0].message.content == text


@pytest.mark.parametrize(
    ("tier", "given"),
    [("auto", "default"), ("default", "default"), ("flex", "flex"), ("priority", "priority"), (None, None)],
)
def test_the_tier_is_echoed(client: openai.OpenAI, tier: str | None, given: str | None) -> None:
    fields = {} if tier is None else {"service_tier": tier}
    assert make(client, store=False, **fields).service_tier == given
    chunks = list(make(client, store=False, stream=True, stream_options={"include_usage": True}, **fields))
    assert chunks[-1].service_tier == given
    assert chunks[-1].usage is not None


@pytest.mark.slow
def test_priority_goes_first(other: Server) -> None:
    """Eight run and one waits in the engine; of those that wait before it, "priority" overtakes "flex"."""
    over: list[str] = []

    def ask(name: str, tier: str, tokens: int) -> None:
        body = {"messages": FRANCE, "max_tokens": tokens, "ignore_eos": True, "service_tier": tier}
        answer = other.whole(body)
        over.append(name)
        assert answer["service_tier"] == tier

    asked = [*[("long", "default", 96)] * 7, ("short", "default", 32), ("waits", "default", 2)]
    threads = []
    for name, tier, tokens in (*asked, ("flex", "flex", 2), ("priority", "priority", 2)):
        threads.append(threading.Thread(target=ask, args=(name, tier, tokens)))
        threads[-1].start()
        time.sleep(0.1)
    for thread in threads:
        thread.join()
    assert [name for name in over if name in {"priority", "flex"}] == ["priority", "flex"]
    assert over[0] == "short", "neither interrupts what runs"
