"""The bar of a long piece of work on a terminal, and its lines elsewhere."""

import io

import pytest

from lmi_chat.server.progress import Progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_a_log_gets_one_line_for_each_finished_phase() -> None:
    stream = io.StringIO()
    progress = Progress(stream, {"download": 3, "convert": 1})
    with progress.shown():
        for name in ("download", "convert"):
            with progress.phase(name):
                progress.reach(0.5)
        progress.print_status("done")
    assert stream.getvalue().splitlines() == ["  download   0 s", "  convert    0 s", "done"]


def test_a_terminal_gets_one_bar_over_all_phases() -> None:
    stream = Terminal()
    progress = Progress(stream, {"download": 3, "convert": 1})
    with progress.shown():
        with progress.phase("download"):
            progress.reach(0.5)
        with progress.phase("convert"):
            progress.reach(7)
    shown = [text for text in stream.getvalue().split("\r") if text.strip()]
    assert all(("download" in text) or ("convert" in text) or (" 0% |" in text) for text in shown), shown
    shares = [int(text.partition("%")[0][-3:]) for text in shown]
    assert shares == sorted(shares)
    assert {38, 75, 100} <= {*shares}


def test_a_phase_that_fails_is_not_counted() -> None:
    stream = io.StringIO()
    progress = Progress(stream, {"download": 3})
    with pytest.raises(OSError, match="no network"), progress.shown(), progress.phase("download"):
        raise OSError("no network")
    assert stream.getvalue() == ""
