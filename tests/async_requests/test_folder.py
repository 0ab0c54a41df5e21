"""Files that requests may name: those of one folder, whatever the name tries."""

import os
import threading
from pathlib import Path

import pytest

from lmi_chat.async_requests.folder import Folder
from lmi_chat.errors import BadField, TooLarge


@pytest.fixture
def base(tmp_path: Path) -> Path:
    base = tmp_path / "in and out"
    (base / "below").mkdir(parents=True)
    (base / "below" / "a.json").write_bytes(b"{}")
    (tmp_path / "secret").write_bytes(b"secret")
    (base / "link").symlink_to(tmp_path / "secret")
    (base / "links").symlink_to(tmp_path)
    (base / "inner").symlink_to(base / "below")
    os.mkfifo(base / "pipe")
    return base


def test_a_file_of_the_folder_is_read(base: Path) -> None:
    folder = Folder(base)
    for location in (
        (base / "below" / "a.json").as_uri(),
        f"file://{base}/below/a.json",
        f"file://localhost{base}//below/./a.json",
    ):
        parts = folder.parts(location)
        assert parts == ("below", "a.json")
        folder.check(parts, 2)
        assert folder.read(parts, 2) == b"{}"
    assert folder.parts(folder.url(("below", "a.json"))) == ("below", "a.json")


def test_a_folder_that_is_itself_a_link(base: Path, tmp_path: Path) -> None:
    (tmp_path / "alias").symlink_to(base)
    folder = Folder(tmp_path / "alias")
    for start in (tmp_path / "alias", base):
        assert folder.read(folder.parts((start / "below" / "a.json").as_uri()), 9) == b"{}"


@pytest.mark.parametrize(
    "location",
    [
        "",
        "{base}/below/a.json",
        "s3://bucket/below/a.json",
        "https://host{base}/below/a.json",
        "FILES://{base}/below/a.json",
        "file://host{base}/below/a.json",
        "file://[{base}/below/a.json",
        "file://{base}/below/a.json?x",
        "file://{base}/below/a.json#x",
        "file://{base}",
        "file://{base}/",
        "file://{base}/../secret",
        "file://{base}/below/../../secret",
        "file://{base}/%2e%2e/secret",
        "file://{base}/below/..%2f..%2fsecret",
        "file://{base}2/a.json",
        "file:///etc/passwd",
        "file:below/a.json",
        "file://{base}/below/a.json%00",
    ],
)
def test_what_is_no_file_of_the_folder_is_refused_by_name(base: Path, location: str) -> None:
    with pytest.raises(BadField, match="InputLocation must"):
        Folder(base).parts(location.format(base=base))


@pytest.mark.parametrize("name", ["link", "links/secret", "inner/a.json", "below", "nothing", "below/a.json/x", "pipe"])
def test_links_pipes_and_folders_are_not_read(base: Path, name: str) -> None:
    folder = Folder(base)
    parts = folder.parts((base / name).as_uri())
    for look in (folder.check, folder.read):
        with pytest.raises(BadField, match="InputLocation") as caught:
            look(parts, 100)
        assert "secret" not in caught.value.message


def test_a_file_has_a_bound(base: Path) -> None:
    folder = Folder(base)
    for look in (folder.check, folder.read):
        with pytest.raises(TooLarge, match="more than 1 bytes"):
            look(("below", "a.json"), 1)


def test_written_whole_or_not_at_all(base: Path, tmp_path: Path) -> None:
    folder, is_over = Folder(base), threading.Event()
    folder.write(("output", "deep", "a.out"), b"old" * 1000)
    seen = set()

    def look() -> None:
        while not is_over.is_set():
            seen.add((base / "output" / "deep" / "a.out").read_bytes())

    looking = threading.Thread(target=look)
    looking.start()
    for _ in range(200):
        folder.write(("output", "deep", "a.out"), b"new" * 1000)
    is_over.set()
    looking.join()
    assert seen <= {b"old" * 1000, b"new" * 1000}
    assert [path.name for path in (base / "output" / "deep").iterdir()] == ["a.out"]
    for parts in (("links", "a.out"), ("inner", "a.out"), ("below", "a.json", "a.out")):
        with pytest.raises(OSError, match=r"a|l"):
            folder.write(parts, b"x")
    folder.write(("link",), b"x")  # the link's place, not what it leads to
    assert (tmp_path / "secret").read_bytes() == b"secret"
    assert not (tmp_path / "a.out").exists()
