"""The store of completions: what is kept comes back, limits hold, a broken disk costs a count and never an answer."""

import asyncio
import json
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from lmi_chat.dialects.chat import options, stored
from lmi_chat.errors import BadField, NotFound, Unavailable
from lmi_chat.job import Finished
from lmi_chat.limits import StoreLimits
from lmi_chat.observability.metrics import STORE_FAILURES
from lmi_chat.storage import completions, completions_db
from lmi_chat.storage.completions import Completions
from lmi_chat.storage.completions_db import Query, StoredCompletion
from tests.support.fakes import delta, deployment, parse, refusal, rendered

DAY_S = 86_400


def failures() -> float:
    samples = next(iter(STORE_FAILURES.collect())).samples
    return next(float(sample.value) for sample in samples if sample.name.endswith("_total"))


def kept(completion_id: str, size: int = 10, **changes: Any) -> StoredCompletion:
    document = json.dumps({"id": completion_id, "text": "x" * size}).encode()
    values: dict[str, Any] = {"id": completion_id, "model": "tiny", "document": document, "messages": b"[]"}
    return StoredCompletion(**values | changes)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "kept.db"


@pytest.fixture
def opened(path: Path) -> Iterator[Completions]:
    shop = Completions(path)
    yield shop
    shop.close()


async def ids(shop: Completions, **query: Any) -> list[str]:
    return [each.id for each in (await shop.page(Query(**query))).found]


async def until(is_so: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not is_so():
            await asyncio.sleep(0.01)


# What is kept


async def test_a_read_sees_every_save_before_it(opened: Completions) -> None:
    for place in range(50):
        opened.save(kept(f"c{place}", metadata={"n": str(place)}))
        assert (await opened.get(f"c{place}")).metadata == {"n": str(place)}
    assert await ids(opened, limit=100) == [f"c{place}" for place in range(50)]


async def test_pages_in_both_orders(opened: Completions) -> None:
    for place in range(5):
        opened.save(kept(f"c{place}"))
    assert await ids(opened, limit=2) == ["c0", "c1"]
    assert await ids(opened, limit=2, after="c1") == ["c2", "c3"]
    assert await ids(opened, limit=2, after="c3") == ["c4"]
    assert await ids(opened, limit=2, after="c3", is_descending=True) == ["c2", "c1"]
    assert (await opened.page(Query(limit=5))).has_more is False
    assert (await opened.page(Query(limit=4))).has_more is True
    with pytest.raises(NotFound) as caught:
        await opened.page(Query(after="nope"))
    assert caught.value.param == "after"


async def test_filters_are_all_met(opened: Completions) -> None:
    opened.save(kept("a", metadata={"x": "1", "y": "2"}))
    opened.save(kept("b", metadata={"x": "1"}))
    opened.save(kept("c", metadata={"x": "2", "y": "2"}, model="other"))
    assert await ids(opened, metadata={"x": "1"}) == ["a", "b"]
    assert await ids(opened, metadata={"x": "1", "y": "2"}) == ["a"]
    assert await ids(opened, model="other") == ["c"]
    assert await ids(opened, model="tiny", metadata={"y": "2"}) == ["a"]
    assert await ids(opened, metadata={"x": "' OR 1 --"}) == []


async def test_update_and_delete(opened: Completions) -> None:
    opened.save(kept("a", metadata={"x": "1"}))
    assert (await opened.update("a", {"z": "\x00é"})).metadata == {"z": "\x00é"}
    assert await ids(opened, metadata={"x": "1"}) == []
    assert await ids(opened, metadata={"z": "\x00é"}) == ["a"]
    await opened.delete("a")
    assert await ids(opened, metadata={"z": "\x00é"}) == []
    for work in (opened.get("a"), opened.update("a", {}), opened.delete("a")):
        with pytest.raises(NotFound):
            await work


async def test_the_same_id_again_is_the_newer_one(opened: Completions) -> None:
    opened.save(kept("a", metadata={"x": "1"}))
    opened.save(kept("b"))
    opened.save(kept("a", metadata={"x": "2"}))
    assert await ids(opened) == ["b", "a"]
    assert await ids(opened, metadata={"x": "1"}) == []


async def test_a_restart_keeps_them(path: Path) -> None:
    first = Completions(path)
    for place in range(100):
        first.save(kept(f"c{place}"))
    first.close()
    second = Completions(path)
    assert len(await ids(second, limit=100)) == 100
    second.close()
    assert path.stat().st_mode & 0o077 == 0, "conversations are nobody else's"  # noqa: ASYNC240 a moment


# Limits


async def test_what_is_too_old_goes(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completions, "GRACE_S", 0.0)
    shop = Completions(path, StoreLimits(days=2))
    for completion_id in ("old", "young"):
        shop.save(kept(completion_id))
    assert await ids(shop) == ["old", "young"]
    with sqlite3.connect(path) as db:
        db.execute("UPDATE completions SET kept_at = ? WHERE id = 'old'", (time.time() - 2 * DAY_S - 1,))
    db.close()
    shop.tidy()
    assert await ids(shop) == ["young"]
    shop.close()


async def test_a_clock_that_jumps_deletes_nothing(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither while the server runs nor when it starts with a wrong one; behind the time that has passed it counts."""
    shop = Completions(path, StoreLimits(days=2))
    shop.save(kept("a"))
    assert await ids(shop) == ["a"]
    shop.close()
    now, passed = time.time(), time.monotonic()
    monkeypatch.setattr(time, "time", lambda: now + 40 * DAY_S)  # wrong from the start of the next
    shop = Completions(path, StoreLimits(days=2))
    shop.tidy()
    assert await ids(shop) == ["a"]
    monkeypatch.setattr(time, "monotonic", lambda: passed + 2 * completions.GRACE_S)
    monkeypatch.setattr(time, "time", lambda: now)  # put right
    shop.tidy()
    assert await ids(shop) == ["a"]
    monkeypatch.setattr(time, "time", lambda: now + DAY_S)
    shop.close()
    shop = Completions(path, StoreLimits(days=2))
    monkeypatch.setattr(time, "monotonic", lambda: passed + 5 * completions.GRACE_S)
    monkeypatch.setattr(time, "time", lambda: now + 40 * DAY_S)  # while it runs
    shop.tidy()
    assert await ids(shop) == ["a"]
    monkeypatch.setattr(time, "monotonic", lambda: passed + 3 * DAY_S)
    shop.tidy()
    assert await ids(shop) == []
    shop.close()


async def test_a_list_ends_before_it_is_too_large(opened: Completions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completions_db, "PAGE_BYTES", 5000)
    for number in range(5):
        opened.save(kept(str(number), 2000))
    opened.save(kept("large", 9000))
    page = await opened.page(Query(limit=100))
    assert ([each.id for each in page.found], page.has_more) == (["0", "1"], True)
    page = await opened.page(Query(limit=100, after="3"))
    assert ([each.id for each in page.found], page.has_more) == (["4"], True)
    page = await opened.page(Query(limit=100, after="4"))
    assert ([each.id for each in page.found], page.has_more) == (["large"], False)


async def test_what_is_stored_is_its_owners(opened: Completions) -> None:
    opened.save(kept("a", owner="ada"))
    opened.save(kept("b"))
    assert (await ids(opened, owner="ada"), await ids(opened), await ids(opened, owner="bob")) == (["a"], ["b"], [])
    for owner in ("", "bob"):
        with pytest.raises(NotFound):
            await opened.get("a", owner)
        with pytest.raises(NotFound):
            await opened.update("a", {}, owner)
        with pytest.raises(NotFound):
            await opened.delete("a", owner)
        with pytest.raises(NotFound):
            await ids(opened, owner=owner, after="a")
    assert (await opened.update("a", {"k": "v"}, "ada")).metadata == {"k": "v"}
    await opened.delete("a", "ada")
    assert await ids(opened, owner="ada") == []


async def test_a_file_of_an_older_version_is_read(path: Path) -> None:
    db = sqlite3.connect(path)
    head, _, tail = completions_db.SCHEMA.partition(", owner TEXT NOT NULL DEFAULT ''")
    older = head + tail[tail.index(");") :]
    assert "owner" not in older
    assert "kind" not in older
    db.executescript(older)
    db.execute("INSERT INTO completions VALUES (1, 'a', 'tiny', ?, x'7b7d', x'5b5d', x'7b7d')", (time.time(),))
    db.commit()
    db.close()
    shop = Completions(path)
    assert await ids(shop) == ["a"]
    shop.save(kept("b", owner="ada"))
    assert await ids(shop, owner="ada") == ["b"]
    shop.close()


async def test_the_oldest_go_first_when_it_is_too_much(path: Path) -> None:
    most = 2**20
    shop = Completions(path, StoreLimits(max_bytes=most))
    for place in range(200):
        shop.save(kept(f"c{place}", 20_000, metadata={"n": str(place)}))
    left = await ids(shop, limit=100)
    assert left == [f"c{place}" for place in range(200 - len(left), 200)]
    assert 40 < len(left) < 60
    shop.close()
    assert path.stat().st_size <= most  # noqa: ASYNC240 as above
    with sqlite3.connect(path) as db:
        assert db.execute("SELECT count(*) FROM pairs").fetchone() == (len(left),)
    db.close()


async def test_one_that_is_larger_than_half_is_not_kept(path: Path) -> None:
    shop, before = Completions(path, StoreLimits(max_bytes=2**20)), failures()
    shop.save(kept("small"))
    shop.save(kept("large", 2**20))
    assert await ids(shop) == ["small"]
    assert failures() == before + 1
    shop.close()


# A broken disk


async def test_a_folder_in_the_files_place(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    shop, before = Completions(tmp_path), failures()
    for place in range(3):
        shop.save(kept(f"c{place}"))
    with pytest.raises(Unavailable):
        await shop.get("c0")
    assert failures() == before + 4
    assert len(caplog.records) == 1, "one line in ten seconds"
    shop.close()


async def test_a_file_that_is_no_database_and_one_that_comes_back(path: Path) -> None:
    path.write_bytes(b"no database" * 1000)  # noqa: ASYNC240 a moment
    shop, before = Completions(path), failures()
    shop.save(kept("a"))
    await until(lambda: failures() == before + 1)
    path.unlink()  # noqa: ASYNC240 as above
    shop.save(kept("b"))
    assert await ids(shop) == ["b"]
    shop.close()


async def test_a_connection_that_is_lost(opened: Completions) -> None:
    before = failures()
    opened.save(kept("a"))
    with pytest.raises(Unavailable):
        await opened._ask(lambda db: db.close())
    opened.save(kept("b"))
    assert await ids(opened) == ["a", "b"]
    assert failures() == before + 1


async def test_a_full_disk(opened: Completions) -> None:
    before = failures()
    opened.save(kept("a"))
    await opened._ask(lambda db: db.execute("PRAGMA max_page_count=20").fetchall())
    opened.save(kept("b", 2**20))
    assert await ids(opened) == ["a"]
    assert failures() == before + 1


async def test_a_locked_file_is_read_and_not_written(
    opened: Completions, path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened.save(kept("a"))
    assert await ids(opened) == ["a"]
    before, other = failures(), sqlite3.connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    insert, writers = completions_db.insert, list[str]()

    def noted(*args: Any) -> None:
        writers.append(threading.current_thread().name)
        insert(*args)

    monkeypatch.setattr(completions_db, "insert", noted)
    opened.save(kept("b"))
    assert await ids(opened) == ["a"]
    assert failures() == before + 1
    assert set(writers) <= {"store"}, "who saves does not wait for the lock"
    other.close()


async def test_a_full_queue_drops_and_does_not_wait(opened: Completions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(completions, "WAITING_BYTES", 5000)
    hang, before = threading.Event(), failures()
    waited: list[bool] = []
    held = asyncio.create_task(opened._ask(lambda _: waited.append(hang.wait(10))))
    await asyncio.sleep(0.05)
    for place in range(10):
        opened.save(kept(f"c{place}", 1000))
    for _ in range(2000):
        opened.save(kept("small", 0))
    assert waited == [], "the disk hangs still"
    assert failures() > before + 6
    hang.set()
    await held
    assert await ids(opened, limit=4) == ["c0", "c1", "c2", "c3"]
    assert opened._waiting_bytes == 0


async def test_after_the_end_nothing_is_kept_and_nothing_fails(path: Path) -> None:
    shop, before = Completions(path), failures()
    shop.close()
    shop.save(kept("a"))
    assert failures() == before + 1
    with pytest.raises(Unavailable):
        await shop.get("a")


# The request's side


def ask(**fields: Any) -> Any:
    changes = {name: fields.pop(name) for name in ("save", "has_priority") if name in fields}
    body = {"messages": [{"role": "user", "content": "hi"}]} | fields
    return parse(body, deployment(**changes), "1")


@pytest.mark.parametrize(
    ("fields", "param", "words"),
    [
        ({"metadata": ["a"]}, "metadata", "metadata must be an object of strings, got an array of 1 items"),
        ({"metadata": {str(n): "" for n in range(17)}}, "metadata", "must have at most 16 pairs, got 17"),
        ({"metadata": {"k": 5}}, "metadata.k", "metadata.k must be a string, got 5"),
        ({"metadata": {"k": "x" * 513}}, "metadata.k", "metadata.k must have at most 512 characters, got 513"),
        ({"metadata": {"k" * 65: ""}}, "metadata.kkkk", "must have a key of at most 64 characters, got 65"),
        ({"user": "x" * 513}, "user", "user must have at most 512 characters, got 513"),
        ({"user": 7}, "user", "user must be a string, got 7"),
        ({"store": "yes"}, "store", 'store must be true or false, got "yes"'),
        ({"service_tier": "gold"}, "service_tier", 'must be one of auto, default, flex, priority, got "gold"'),
        ({"service_tier": ["flex"]}, "service_tier", "must be one of"),
        ({"modalities": ["text", "audio"]}, "modalities", 'tiny gives text only; got ["text", "audio"]'),
        ({"modalities": []}, "modalities", "gives text only"),
        ({"modalities": "text"}, "modalities", "gives text only"),
        ({"audio": {"voice": "alloy"}}, "audio", "audio must be absent or null: tiny gives text only"),
    ],
)
def test_what_is_wrong_is_named(fields: dict[str, Any], param: str, words: str) -> None:
    error = refusal({"messages": [{"role": "user", "content": "hi"}]} | fields, "chat")
    assert isinstance(error, BadField)
    assert (error.param or "").startswith(param)
    assert words in error.message


def test_what_is_at_its_bound_passes() -> None:
    metadata = {("é" * 62) + f"{n:02}": "ü" * 512 for n in range(16)}
    task = ask(metadata=metadata, user="u" * 512, modalities=["text"], audio=None, parallel_tool_calls=False)
    assert (task.metadata, task.user, task.unknown) == (metadata, "u" * 512, [])


def test_store_without_a_store_is_said() -> None:
    task = ask(store=True)
    assert task.unknown == [options.NOT_STORED]
    assert ask(store=False).unknown == []
    body = {"messages": [{"role": "user", "content": "hi"}], "store": True}
    assert parse(body, deployment(is_strict=True), "1").unknown == [options.NOT_STORED], "not an error in a strict one"


@pytest.mark.parametrize(
    ("tier", "has_priority", "own", "expected"),
    [
        (None, True, 0, (0, None)),
        ("auto", True, 0, (0, "default")),
        ("default", True, 3, (3, "default")),
        ("flex", True, 0, (1, "flex")),
        ("priority", True, 3, (2, "priority")),
        ("priority", False, 0, (-1, "default")),
        ("flex", False, 0, (1, "default")),
    ],
)
def test_tiers(tier: str | None, *, has_priority: bool, own: int, expected: tuple[int, str | None]) -> None:
    done = Finished(prompt_tokens=1, completion_tokens=1)
    for is_stream in (False, True):
        extra = {"stream_options": {"include_usage": True}} if is_stream else {}
        fields = {"service_tier": tier, "priority": own, "stream": is_stream, **extra}
        task = ask(has_priority=has_priority, **fields)
        shown = rendered(task.render, delta("a", finish="stop"), done)
        assert task.job.priority == expected[0]
        assert {payload.get("service_tier") for payload in shown} == {expected[1]}
        assert task.unknown == ([options.NOT_RANKED] if own and not has_priority else [])


@pytest.mark.parametrize("is_stream", [False, True])
def test_the_same_document_is_kept_from_both(*, is_stream: bool) -> None:
    found: list[StoredCompletion] = []
    task = ask(save=found.append, store=True, stream=is_stream, metadata={"a": "b"}, n=2, logprobs=True, top_p=0.9)
    events = [delta(text, index=index, finish=None) for text in "Hé" for index in (0, 1)]
    ends = [delta("!", index=index, finish="stop") for index in (0, 1)]
    rendered(task.render, *events, *ends)
    assert found == []
    shown = rendered(task.render, Finished(prompt_tokens=3, completion_tokens=6))
    assert (found[0].model, found[0].metadata) == ("tiny", {"a": "b"})
    assert json.loads(found[0].messages) == [{"role": "user", "content": "hi"}]
    document = json.loads(found[0].document)
    assert document["id"] == found[0].id != "chatcmpl-1", "a name that nobody else can give"
    assert [choice["message"]["content"] for choice in document["choices"]] == ["Hé!", "Hé!"]
    assert document["usage"]["total_tokens"] == 9
    assert shown == ([] if is_stream else [document])
    assert json.loads(stored.render_completion(found[0])) == document | {"metadata": {"a": "b"}}


def test_nothing_stands_in_the_way_of_others() -> None:
    found: list[StoredCompletion] = []
    assert type(ask(save=found.append).render).__module__ == "lmi_chat.dialects.chat.response"
    assert type(ask(save=found.append, stream=True).render).__module__ == "lmi_chat.dialects.chat.response"


def test_an_answer_that_fails_is_not_kept() -> None:
    found: list[StoredCompletion] = []
    task = ask(save=found.append, store=True, stream=True)
    rendered(task.render, delta("a"), Unavailable("gone"))
    assert found == []
