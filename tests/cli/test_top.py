"""`lmi-chat top` against a real server with a scripted engine: lines through a pipe, a picture on a terminal."""

import io
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
from rich.console import Console as Screen

from lmi_chat import __version__
from lmi_chat.cli import top_screen
from lmi_chat.cli.console_client import Server
from lmi_chat.cli.main import main
from lmi_chat.http.access import ApiKeys
from lmi_chat.observability import startup
from tests.http.test_app import CHAT, post
from tests.support.console import rows, shown, until
from tests.support.scripted import Scripted, Service, said, serving

pytestmark = pytest.mark.processes

CONTROL = re.compile(r"\x1b\[[0-9;?]*[a-zA-Z]")


def topped(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(["top", *words])
    told = capsys.readouterr()
    return code, told.out, told.err


def address(service: Service) -> str:
    return f"http://127.0.0.1:{service.port}"


def test_a_line_of_figures_through_a_pipe(capsys: pytest.CaptureFixture[str]) -> None:
    with shown() as service:
        until(lambda: rows(service))
        for target in (address(service), f"127.0.0.1:{service.port}", f"{address(service)}/console"):
            code, out, err = topped(capsys, target, "--once")
            assert (code, err) == (0, "")
            [line] = out.splitlines()
            assert re.match(r'\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ state="ready" running=0 waiting=0 tokens_per_s=0 ', line)
            assert "ttft_p50=- ttft_p99=-" in line


def test_a_server_that_loads(capsys: pytest.CaptureFixture[str]) -> None:
    with shown(is_open=False) as service:
        service.health.enter(startup.STARTING)
        code, out, _ = topped(capsys, address(service), "--once")
        assert code == 0
        assert 'state="loading: starting the engine and loading the weights, 0 s"' in out


def test_a_server_without_a_console(capsys: pytest.CaptureFixture[str]) -> None:
    with serving() as service:
        code, out, err = topped(capsys, address(service), "--once")
    assert (code, out) == (1, "")
    assert f"{address(service)} has no console: it is off there (console=true turns it on)" in err


def test_a_server_that_cannot_be_reached(capsys: pytest.CaptureFixture[str]) -> None:
    with serving() as service:
        pass
    code, _, err = topped(capsys, address(service), "--once")
    assert code == 1
    assert f"{address(service)} cannot be reached: Connection refused" in err
    code, _, err = topped(capsys, "ftp://somewhere", "--once")
    assert (code, err) == (1, "lmi-chat: 'ftp://somewhere' is no http(s) URL\n")


def test_a_key_by_flag_or_environment(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with shown(api_keys=ApiKeys({"alice": "secret"})) as service:
        code, _, err = topped(capsys, address(service), "--once")
        assert code == 1
        assert "asks for an API key" in err
        assert "LMI_CHAT_API_KEY" in err
        assert topped(capsys, address(service), "--once", "--api-key", "secret")[0] == 0
        assert topped(capsys, address(service), "--once", "--header", "authorization: Bearer secret")[0] == 0
        monkeypatch.setenv("LMI_CHAT_API_KEY", "other")
        assert "the API key is none of this server's" in topped(capsys, address(service), "--once")[2]
        monkeypatch.setenv("LMI_CHAT_API_KEY", "secret")
        assert topped(capsys, address(service), "--once")[0] == 0


def test_other_servers_are_told_apart(capsys: pytest.CaptureFixture[str]) -> None:
    with shown() as service:
        code, _, err = topped(capsys, f"{address(service)}/nowhere", "--once")
    assert code == 1
    assert "has no console" in err


def picture(service: Service, monkeypatch: pytest.MonkeyPatch, *, width: int = 160) -> str:
    """What a terminal of that width shows, without colours."""
    screen = Screen(file=io.StringIO(), width=width, height=40, force_terminal=True)
    monkeypatch.setattr(top_screen, "Console", lambda: screen)
    assert top_screen.run(Server(address(service), "", []), 1.0, is_once=True) == 0
    drawn: Any = screen.file
    return CONTROL.sub("", drawn.getvalue())


def test_a_picture_of_figures_and_requests(monkeypatch: pytest.MonkeyPatch) -> None:
    with shown(Scripted(said("ab"))) as service:
        post(service, CHAT | {"user": "bob"}, headers={"content-type": "application/json", "x-request-id": "mine"})
        post(service, CHAT | {"temperature": 9})
        until(lambda: rows(service))
        drawn = picture(service, monkeypatch)
    assert f"tiny · ready · lmi-chat {__version__} · {address(service)}" in drawn
    for title in ("running", "tokens/s", "KV cache", "first token, 99 %"):
        assert title in drawn
    assert re.search(r"mine +chat +bob +200 +\d+\+2 ", drawn)
    assert re.search(r" 400 .*temperature must be", drawn)
    assert "█" in drawn


def test_foreign_text_does_not_steer_the_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    evil = "\x1b[2J\x1b]0;owned\x07[red]\u202e"
    with shown() as service:
        post(service, CHAT | {"user": evil})
        drawn = picture(service, monkeypatch)
    assert "\x1b" not in drawn
    assert "\x07" not in drawn
    assert "[red]" in drawn


def test_a_row_of_bars() -> None:
    assert top_screen.bars([None, 0, 1, 4, 8]).plain == " ▁▁▄█"
    assert top_screen.bars([]).plain == ""


@pytest.mark.processes
def test_it_is_updated_in_place_until_it_is_left() -> None:
    with shown() as service:
        primary, secondary = pty.openpty()
        words = [sys.executable, "-m", "lmi_chat", "top", address(service), "--interval", "0.2"]
        environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": "140", "LINES": "40"}
        ignored = signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background a shell ignores Ctrl-C
        with subprocess.Popen(words, stdin=secondary, stdout=secondary, stderr=secondary, env=environment) as process:
            signal.signal(signal.SIGINT, ignored)
            os.close(secondary)
            try:
                drawn = read_until(primary, "tiny")
                post(service, CHAT, headers={"content-type": "application/json", "x-request-id": "later"})
                drawn += read_until(primary, "later")
                process.send_signal(signal.SIGINT)
                drawn += read_until(primary, "\x1b[?1049l")
                assert process.wait(30) == 0
            finally:
                process.kill()
        os.close(primary)
    assert "\x1b[?1049h" in drawn


def read_until(terminal: int, word: str) -> str:
    """What the terminal is sent until `word` comes; 60 seconds without a byte, or 120 without it, fail."""
    data, end = b"", time.monotonic() + 120
    while word.encode() not in data:
        assert time.monotonic() < end, data[-4000:]
        assert select.select([terminal], [], [], 60)[0], data
        data += os.read(terminal, 65536)
    return data.decode(errors="replace")
