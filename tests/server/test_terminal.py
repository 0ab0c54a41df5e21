"""What stands on the terminal: own lines always, other code's when they are wanted."""

import logging
import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from lmi_chat.server import terminal
from lmi_chat.server.terminal import HeldBack, cause


@pytest.fixture(autouse=True)
def logs() -> Iterator[None]:
    """The root logger as it was."""
    root = logging.getLogger()
    before, level = list(root.handlers), root.level
    root.handlers[:] = []
    yield
    root.handlers[:] = before
    root.setLevel(level)


def noise(word: str) -> None:
    os.write(1, f"out {word}\n".encode())
    os.write(2, f"err {word}\n".encode())
    subprocess.run(["/bin/sh", "-c", f"echo child {word} >&2"], check=True)


def test_lines_are_kept_dropped_passed_on_and_shown(capfd: pytest.CaptureFixture[str]) -> None:
    with terminal.held_back("warning"):
        held = terminal.held()
        assert held is not None
        terminal.print_status("own")
        noise("start")
        assert "err start" in held.news()
        assert held.news() == ""
        held.drop()
        noise("serving")
        held.hold()
        noise("stop")
        held.show()
        logging.getLogger("lmi_chat.x").warning("own log")
        logging.getLogger("other").warning("other log")
    out, err = capfd.readouterr()
    assert out == "out serving\n"
    assert "start" not in err
    for line in ("lmi-chat  own", "err serving", "child serving", "out stop", "err stop", "child stop"):
        assert line in err.splitlines()
    assert "WARNING lmi_chat.x: own log" in err
    assert terminal.held() is None
    noise("after")
    assert capfd.readouterr().err.splitlines() == ["err after", "child after"]


def test_a_failure_shows_what_was_kept(capfd: pytest.CaptureFixture[str]) -> None:
    def fail() -> None:
        with terminal.held_back("error"):
            noise("start")
            raise OSError("broken")

    with pytest.raises(OSError, match="broken"):
        fail()
    assert "err start" in capfd.readouterr().err


def test_debug_holds_nothing_back(capfd: pytest.CaptureFixture[str]) -> None:
    with terminal.held_back("debug"):
        assert terminal.held() is None
        assert terminal.stream() is sys.stderr
        assert [terminal.descriptor(name) for name in (terminal.OUT, terminal.ERR)] == [1, 2]
        noise("start")
    assert "err start" in capfd.readouterr().err


def test_so_much_is_kept_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(terminal, "HELD_BYTES", 100)
    held = HeldBack()
    try:
        for number in range(100):
            os.write(2, b"%02d\n" % number)
        assert held.news().split()[-1] == "99"
        assert len(held._kept) == 100
        os.write(2, b"new\n")
        assert held.news() == "new\n"
    finally:
        held.give_back()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("", ""),
        ("nothing of the kind", ""),
        ("Traceback:\n  File x\nValueError: too small", "ValueError: too small"),
        ("(Worker pid=1) ERROR 11-29 [x.py:1] torch.OutOfMemoryError: CUDA", "torch.OutOfMemoryError: CUDA"),
        (
            "(Worker) ERROR [a] ValueError: first\n(EngineCore) ERROR [b] Exception: See stack trace for root cause.",
            "ValueError: first",
        ),
        ("RuntimeError: See root cause above.", "RuntimeError: See root cause above."),
    ],
)
def test_the_cause_of_a_failure_is_found_in_other_codes_lines(text: str, found: str) -> None:
    assert cause(text) == found
