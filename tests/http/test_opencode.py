"""The opencode CLI, unmodified, against Messages and chat completions; scripted engine, real HTTP, nothing beyond."""

import json
import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from lmi_chat.http.access import ApiKeys
from lmi_chat.job import Job
from tests.support import pages
from tests.support.scripted import Scripted, Service, Step, called, reasoned, said, serving

PACKAGE = "opencode-ai@1.18.33"
"""Some 180 MB, once for each kind of processor that the installer tries."""
CONFIG = next(block.code for block in pages.OTHERS if block.page == "docs/clients.md" and block.language == "json")
KEY = "k" * 32
CONTEXT_BYTES = 2**20
"""The scripted engine's tokens are bytes."""
MARK, QUESTION = "4711 of the note", "What does the note say?"
OUTSIDE = "http://127.0.0.1:9"
"""Where its other requests end: nothing listens there."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.processes,
    pytest.mark.timeout(500),
    pytest.mark.skipif(shutil.which("npm") is None, reason="no Node here"),
]


@pytest.fixture(scope="module")
def opencode(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The program, for as long as these tests run."""
    folder = tmp_path_factory.mktemp("opencode")
    install = ["npm", "install", "--no-audit", "--no-fund", "--silent", "--prefix", str(folder), PACKAGE]
    subprocess.run(install, check=True, timeout=400)
    yield folder / "node_modules" / ".bin" / "opencode"
    shutil.rmtree(folder)


def run(opencode: Path, folder: Path, service: Service, package: str) -> list[dict[str, Any]]:
    """The JSON lines of one run, by the documented configuration with this package as its way to speak."""
    home, work = folder / "home", folder / "work"
    home.mkdir()
    work.mkdir()
    (work / "note.txt").write_text(MARK + "\n")
    config = CONFIG.replace("localhost:8080", f"127.0.0.1:{service.port}").replace("my-model", "tiny")
    config = config.replace("32768", str(CONTEXT_BYTES)).replace('"none"', json.dumps(KEY))
    (work / "opencode.json").write_text(config.replace("@ai-sdk/anthropic", package))
    outside = {"HTTP_PROXY": OUTSIDE, "HTTPS_PROXY": OUTSIDE, "ALL_PROXY": OUTSIDE, "NO_PROXY": "127.0.0.1"}
    own = {f"XDG_{name}_HOME": str(home / name.lower()) for name in ("CACHE", "CONFIG", "DATA", "STATE")}
    given = {"PATH": os.environ["PATH"], "HOME": str(home), "OPENCODE_DISABLE_AUTOUPDATE": "1", **own, **outside}
    command = [str(opencode), "run", "--format", "json", "--thinking", QUESTION]
    done = subprocess.run(
        command, cwd=work, env=given, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=120, check=False
    )
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    return [json.loads(line) for line in done.stdout.splitlines()]


@pytest.mark.parametrize("package", ["@ai-sdk/anthropic", "@ai-sdk/openai-compatible"])
def test_opencode_reads_a_file_and_tells_what_is_in_it(opencode: Path, tmp_path: Path, package: str) -> None:
    note = tmp_path / "work" / "note.txt"

    def talks(job: Job) -> list[Step]:
        if job.parsing is None or not job.parsing.tools:
            return [*said("A title")(job)]  # it asks for one by a request of its own
        assert "read" in {tool.name for tool in job.parsing.tools}
        if MARK in job.prompt_text.rpartition(QUESTION)[2]:
            return [*said("It says 4711.")(job)]
        return [*said(reasoned("Hm."), "I look.", called("read", {"filePath": str(note)}))(job)]

    own: Any = {"chat_template": "{tools}{turns}", "tool_parser": "any", "reasoning_parser": "any"}
    keys = ApiKeys({"opencode": KEY})
    with serving(Scripted(talks), context_tokens=CONTEXT_BYTES, api_keys=keys, is_strict=True, **own) as service:
        lines = run(opencode, tmp_path, service, package)
        last = service.engine.jobs[-1]
    told = [(line["type"], line["part"]) for line in lines]
    assert [part["text"] for kind, part in told if kind == "text"] == ["I look.", "It says 4711."]
    assert [part["text"] for kind, part in told if kind == "reasoning"] == ["Hm."]
    [tool] = [part for kind, part in told if kind == "tool_use"]
    assert (tool["tool"], tool["state"]["status"]) == ("read", "completed")
    assert MARK in tool["state"]["output"]
    ends = [part for kind, part in told if kind == "step_finish"]
    assert [part["reason"] for part in ends] == ["tool-calls", "stop"]
    assert ends[0]["tokens"]["reasoning"] == len("Hm.")
    assert ends[1]["tokens"]["input"] == len(last.prompt_ids)
