"""A server process whose console is on says where it is, and tells its own settings. A real process."""

import re
from pathlib import Path

import httpx
import pytest

from tests.server.test_start_and_end import ready, stopped
from tests.support.served import start

pytestmark = pytest.mark.processes


def test_it_says_where_its_console_is(tmp_path: Path) -> None:
    server = start(tmp_path, "--console", "true", "--console-requests", "7")
    lines = ready(server)
    try:
        [address] = [found[1] for line in lines if (found := re.fullmatch(r"lmi-chat  console: (http://\S+)", line))]
        assert "<title>" in httpx.get(address).text
        rows = {row["name"]: row for row in httpx.get(f"{address}/api/config").json()["rows"]}
        now = httpx.get(f"{address}/api/now").json()
    finally:
        assert stopped(server)[-1] == "lmi-chat  stopped"
    given = {"name": "console_requests", "value": "7", "origin": "command line", "effect": None}
    assert rows["console_requests"] == given
    assert rows["port"]["origin"] == "command line"
    assert now["state"] == "ready"
    assert [phase["status"] for phase in now["phases"]] == ["done"] * len(now["phases"])
    assert len(now["phases"]) >= 3


def test_without_the_setting_there_is_none(tmp_path: Path) -> None:
    server = start(tmp_path)
    lines = ready(server)
    assert not [line for line in lines if "console" in line]
    stopped(server)
