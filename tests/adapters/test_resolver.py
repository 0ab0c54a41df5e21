"""Adapters found by their names, in a folder and in S3."""

import asyncio
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lmi_chat.adapters.resolver import AdapterResolver
from lmi_chat.errors import Unavailable
from tests.support import s3
from tests.support.adapters import FILES, packed, write

pytestmark = pytest.mark.processes


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    write(tmp_path / "home" / "french")
    write(tmp_path / "outside")
    (tmp_path / "home" / "german.tar.gz").write_bytes(packed(FILES))
    (tmp_path / "home" / "empty").mkdir()
    (tmp_path / "home" / "out").symlink_to(tmp_path / "outside")
    (tmp_path / "home" / "in").symlink_to(tmp_path / "home" / "french")
    return tmp_path / "home"


@pytest.mark.parametrize(
    ("name", "found"), [("french", "french"), ("german", "german.tar.gz"), ("in", "in"), ("empty", ""), ("none", "")]
)
async def test_names_in_a_folder(folder: Path, name: str, found: str) -> None:
    assert await AdapterResolver(str(folder)).find(name) == (str(folder / found) if found else "")


@pytest.mark.parametrize(
    "name",
    [
        "..",
        ".",
        "",
        "../outside",
        "/etc",
        "french/",
        "french/../french",
        "out",
        "a\0b",
        "french\n",
        "x" * 129,
        "..%2Foutside",
    ],
)
async def test_no_name_leaves_the_folder(folder: Path, name: str) -> None:
    assert await AdapterResolver(str(folder)).find(name) == ""


async def test_what_is_missing_is_looked_for_once_in_a_while(folder: Path) -> None:
    resolver, soon = AdapterResolver(str(folder)), AdapterResolver(str(folder), missed_s=0.0)
    assert [await each.find("late") for each in (resolver, soon)] == ["", ""]
    write(folder / "late")
    assert [await each.find("late") for each in (resolver, soon)] == ["", str(folder / "late")]
    assert await resolver.find("french") == str(folder / "french")


@pytest.fixture(scope="module")
def bucket() -> Iterator[int]:
    with s3.server() as port:
        client = s3.client(port)
        client.create_bucket(Bucket="bucket")
        for name in FILES:
            client.put_object(Bucket="bucket", Key=f"a/french/{name}", Body=FILES[name])
        client.put_object(Bucket="bucket", Key="a/german.tar.gz", Body=packed(FILES))
        client.put_object(Bucket="bucket", Key="french.tar.gz", Body=packed(FILES))
        yield port


@pytest.mark.parametrize(
    ("prefix", "name", "found"),
    [
        ("s3://bucket/a", "french", "s3://bucket/a/french/"),
        ("s3://bucket/a/", "german", "s3://bucket/a/german.tar.gz"),
        ("s3://bucket", "french", "s3://bucket/french.tar.gz"),
        ("s3://bucket/a/", "fren", ""),
        ("s3://bucket/a/", "..", ""),
    ],
)
async def test_names_in_s3(bucket: int, monkeypatch: pytest.MonkeyPatch, prefix: str, name: str, found: str) -> None:
    for key, text in {**s3.KEYS, "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{bucket}"}.items():
        monkeypatch.setenv(key, text)
    assert await AdapterResolver(prefix).find(name) == found


async def test_s3_that_cannot_be_reached_is_no_missing_adapter(monkeypatch: pytest.MonkeyPatch) -> None:
    for key, text in {**s3.KEYS, "AWS_ENDPOINT_URL_S3": "http://127.0.0.1:9", "AWS_MAX_ATTEMPTS": "1"}.items():
        monkeypatch.setenv(key, text)
    with pytest.raises(Unavailable, match="S3 cannot be reached"):
        await AdapterResolver("s3://bucket/a").find("french")


async def test_names_that_take_long_take_nobody_elses_threads(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    may_go = threading.Event()
    resolver = AdapterResolver(str(folder))
    monkeypatch.setattr(resolver, "_on_disk", lambda _: may_go.wait(10) and "")
    looking = [asyncio.create_task(resolver.find(f"none{number}")) for number in range(50)]
    await asyncio.sleep(0)
    try:
        assert await asyncio.wait_for(asyncio.to_thread(int, "3"), 5) == 3
    finally:
        may_go.set()
    assert {*await asyncio.gather(*looking)} == {""}
