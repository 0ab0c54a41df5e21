"""A process that ends before it has said what a test waits for fails the test at once, with what it did say."""

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.children import wait_for_text


@pytest.mark.parametrize("file", ["log", "flag"])
def test_what_a_failed_process_said_is_shown(tmp_path: Path, file: str) -> None:
    command = [sys.executable, "-c", "raise SystemExit('no memory')"]
    with (tmp_path / "log").open("w") as log, subprocess.Popen(command, stderr=log) as process:
        text = "ready" if file == "log" else ""
        with pytest.raises(AssertionError, match=rf"ended with 1 before '?{text or file}'?: no memory"):
            wait_for_text(tmp_path / file, text, process, tmp_path / "log")
