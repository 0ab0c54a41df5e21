"""The Codex CLI, unmodified, against the server; scripted engine, real HTTP. It reaches nothing beyond them."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from lmi_chat.http.access import ApiKeys
from lmi_chat.job import Job
from tests.support import mcp_server, pages
from tests.support.scripted import Scripted, Service, Step, called, reasoned, said, serving

PACKAGE = "@openai/codex@0.171.0"
"""172 MB to download, 424 MB in the folder."""
CONFIG = next(block.code for block in pages.OTHERS if block.page == "docs/clients.md")
KEY = "k" * 32
CONTEXT_BYTES = 2**20
"""The scripted engine's tokens are bytes; a prompt near the end of the context would be compacted."""
MARK = "4711 of the note"
OUTSIDE = "http://127.0.0.1:9"
"""Where its other requests end: nothing listens there."""
FULL = ("exec", "--json", "--skip-git-repo-check", "--dangerously-bypass-approvals-and-sandbox")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.processes,
    pytest.mark.timeout(500),
    pytest.mark.skipif(shutil.which("npm") is None, reason="no Node here"),
]


def talks(job: Job) -> list[Step]:
    """Read the note by a command, then turn a word round by the tool of an MCP server, then tell both."""
    assert job.parsing is not None
    tools = {tool.name for tool in job.parsing.tools}
    told = job.prompt_text.rpartition("What does the note say?")[2]
    if MARK not in told:
        assert {"exec_command", "mcp__words__turn_round"} <= tools
        return [*said(reasoned("Hm."), "I look.", called("exec_command", {"cmd": "cat note.txt"}))(job)]
    if "round: 1174" not in told:
        return [*said("I turn it.", called("mcp__words__turn_round", {"word": "4711"}))(job)]
    return [*said("4711, and 1174 the other way.")(job)]


@pytest.fixture(scope="module")
def codex(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The program, for as long as these tests run."""
    folder = tmp_path_factory.mktemp("codex")
    install = ["npm", "install", "--no-audit", "--no-fund", "--silent", "--prefix", str(folder), PACKAGE]
    subprocess.run(install, check=True, timeout=400)
    yield folder / "node_modules" / ".bin" / "codex"
    shutil.rmtree(folder)


def run(codex: Path, folder: Path, service: Service) -> list[dict[str, Any]]:
    """The JSON lines of one run, by the documented lines of configuration and an MCP server."""
    home, work = folder / "home", folder / "work"
    home.mkdir()
    work.mkdir()
    (work / "note.txt").write_text(MARK + "\n")
    config = CONFIG.replace("localhost:8080", f"127.0.0.1:{service.port}").replace("my-model", "tiny")
    config = config.replace("32768", str(CONTEXT_BYTES))
    server = {"command": sys.executable, "args": [mcp_server.__file__]}
    own = f'env_key = "CODEX_TEST_KEY"\n[mcp_servers.words]\n{_lines(server)}'
    (home / "config.toml").write_text(config + own)
    outside = {"HTTP_PROXY": OUTSIDE, "HTTPS_PROXY": OUTSIDE, "ALL_PROXY": OUTSIDE, "NO_PROXY": "127.0.0.1"}
    given = {**os.environ, **outside, "CODEX_HOME": str(home), "HOME": str(home), "CODEX_TEST_KEY": KEY}
    command = [str(codex), *FULL, "What does the note say?"]
    done = subprocess.run(
        command, cwd=work, env=given, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=90, check=False
    )
    print(done.stdout, done.stderr)
    assert done.returncode == 0
    return [json.loads(line) for line in done.stdout.splitlines()]


def _lines(values: dict[str, Any]) -> str:
    """The lines of a table of TOML: its strings and arrays are written as JSON's."""
    return "".join(f"{name} = {json.dumps(value)}\n" for name, value in values.items())


def completed(lines: Sequence[dict[str, Any]], kind: str) -> list[dict[str, Any]]:
    items = [line["item"] for line in lines if line["type"] == "item.completed"]
    return [item for item in items if item["type"] == kind]


def test_codex_runs_commands_and_tools_of_mcp_servers(codex: Path, tmp_path: Path) -> None:
    own: Any = {"chat_template": "{tools}{turns}", "tool_parser": "any", "reasoning_parser": "any"}
    keys = ApiKeys({"codex": KEY})
    with serving(Scripted(talks), context_tokens=CONTEXT_BYTES, api_keys=keys, is_strict=True, **own) as service:
        lines = run(codex, tmp_path, service)
        prompt = service.engine.jobs[-1].prompt_text
    [command] = completed(lines, "command_execution")
    assert (command["aggregated_output"], command["exit_code"]) == (MARK + "\n", 0)
    [tool] = completed(lines, "mcp_tool_call")
    assert (tool["server"], tool["tool"], tool["arguments"]) == ("words", "turn_round", {"word": "4711"})
    assert tool["result"]["content"] == [{"type": "text", "text": "round: 1174"}]
    texts = [item["text"] for item in completed(lines, "agent_message")]
    assert texts == ["I look.", "I turn it.", "4711, and 1174 the other way."]
    assert lines[-1]["type"] == "turn.completed"
    assert lines[-1]["usage"]["reasoning_output_tokens"] == len("Hm.")
    assert '"mcp__words__turn_round", "arguments": {"word": "4711"}' in prompt, "it goes back by the flat name"
