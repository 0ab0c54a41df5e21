"""The openai and Anthropic packages of Node, unmodified, against the server; scripted engine, real HTTP."""

import json
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from lmi_chat.job import Job
from tests.support.scripted import Scripted, Step, called, reasoned, said, serving

SCRIPT = Path(__file__).parents[1] / "node" / "clients.mjs"
PACKAGES = ("openai@6", "@anthropic-ai/sdk@1")
PROMPT_TOKENS = len("user\nWeather in Bern?\nassistant\n") + 1
HELLO = "Hé, it is warm."


def talks(job: Job) -> list[Step]:
    """Calls where it may, until the result is there."""
    tools = job.parsing.tools if job.parsing else ()
    if not tools or "22 degrees in Bern" in job.prompt_text:
        return [*said(HELLO)(job)]
    return [*said(reasoned("Hm."), "I look.", called("weather", {"city": "Bern"}))(job)]


@pytest.mark.slow
@pytest.mark.processes
@pytest.mark.timeout(400)
@pytest.mark.skipif(shutil.which("npm") is None, reason="no Node here")
def test_openai_and_anthropic_of_node(tmp_path: Path) -> None:
    install = ["npm", "install", "--no-audit", "--no-fund", "--silent", "--prefix", str(tmp_path), *PACKAGES]
    subprocess.run(install, check=True, timeout=300)
    script = shutil.copy(SCRIPT, tmp_path)
    own: Any = {"chat_template": "{tools}{turns}", "tool_parser": "any", "reasoning_parser": "any"}
    with serving(Scripted(talks), **own) as service:
        command = ["node", str(script), f"http://127.0.0.1:{service.port}"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    print(done.stdout)
    assert done.returncode == 0, done.stderr
    facts: dict[str, Any] = {}
    for line in done.stdout.splitlines():
        facts |= json.loads(line)
    call = '{"city":"Bern"}'
    tokens = len("Hm.I look.") + 1 + len(call)
    assert facts == {
        "chat": [HELLO, "stop"],
        "chat, streamed": HELLO,
        "chat, tools run": [HELLO, call],
        "responses": [HELLO, "completed"],
        "responses, streamed": [["reasoning", "message", "function_call"], call, True],
        "responses, result": HELLO,
        "messages": [[HELLO], "end_turn"],
        "messages, streamed": [["thinking", "text", "tool_use"], call, {"city": "Bern"}, "tool_use", tokens],
        "messages, counted": PROMPT_TOKENS,
        "messages, tools run": [HELLO],
        "openai, refused": [True, "temperature", 400],
        "anthropic, refused": [True, "not_found_error", 404],
    }
