"""Wait for processes that a test has started, and show what they said when they fail."""

import subprocess
import time
from pathlib import Path
from typing import Any

PATIENCE_S = 60


def wait_for_text(file: Path, text: str, process: "subprocess.Popen[Any]", log: Path | None = None) -> str:
    """Wait until `process` has written `text` into `file` ("": until the file is there), and give all of it.

    Where the process ends first, or says nothing for a minute, the test fails with its `log` (by default the file).
    """
    deadline = time.monotonic() + PATIENCE_S
    while True:
        has_ended = process.poll() is not None
        said = file.read_text() if file.exists() else None
        if said is not None and text in said:
            return said
        heard = log.read_text() if log else said
        assert not has_ended, f"ended with {process.returncode} before {text or file.name!r}: {heard}"
        assert time.monotonic() < deadline, f"no {text or file.name!r} in {PATIENCE_S} s: {heard}"
        time.sleep(0.01)
