"""Sessions that a handler keeps by itself."""

import os
from pathlib import Path
from typing import Any

import pytest

from djl_python import SessionManager, get_session_manager


def manager(**options: Any) -> Any:
    """As DJL hands options over: without their `option.`."""
    return get_session_manager({name.replace("__", "."): value for name, value in options.items()})


def test_where_nothing_is_named_there_is_none() -> None:
    assert manager() is None
    assert SessionManager({}).load("a") is None
    with pytest.raises(ValueError, match=r"option\.sessions must be one of local, files, mmap, got 'redis'"):
        manager(sessions="redis")
    with pytest.raises(ValueError, match=r"option\.sessions\.path"):
        manager(sessions="files")
    with pytest.raises(ValueError, match=r"option\.sessions\.file_size"):
        manager(sessions="mmap", sessions__path="/tmp")


def test_sessions_in_memory() -> None:
    sessions = manager(sessions="Local", sessions__limit="2")
    for name in ("a", "b", "a", "c"):
        sessions.save(name, [name])
    assert [sessions.load(name) for name in "abc"] == [["a"], None, ["c"]]
    assert sessions.remove("a") == ["a"]
    backup = manager(sessions="local")
    sessions.prune(0, backup)
    assert (sessions.load("c"), backup.load("c")) == (None, ["c"])


def test_sessions_in_files(tmp_path: Path) -> None:
    sessions = get_session_manager(
        {"option.sessions": "files", "option.sessions.path": str(tmp_path), "option.sessions.limit": "2"}
    )
    assert sessions is not None
    for number, name in enumerate(("a", "b/c", "d")):
        sessions.save(name, {"id": name})
        os.utime(tmp_path / name.replace("/", "-"), (number, number))
    backup = manager(sessions="local")
    assert [sessions.load(name) for name in ("a", "b/c", "d")] == [None, {"id": "b/c"}, {"id": "d"}]
    sessions.prune(1, backup)
    assert backup.load("b-c") == {"id": "b/c"}
    sessions.remove("d")
    assert [*tmp_path.iterdir()] == []
    with pytest.raises(ValueError, match="must be a name"):
        sessions.save("..", 1)


def test_sessions_in_mapped_files(tmp_path: Path) -> None:
    sessions = manager(sessions="mmap", sessions__path=str(tmp_path), sessions__file_size="8", sessions__limit="1")
    mapped, is_new = sessions.load("a")
    mapped[:2] = b"hi"
    sessions.save("a")
    assert is_new
    mapped, is_new = sessions.load("a")
    assert (bytes(mapped), is_new) == (b"hi" + bytes(6), False)
    sessions.save("a")
