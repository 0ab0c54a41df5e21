"""Every example of README.md, run as it is written, against the real server; only the port differs."""

import contextlib
import io
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.real.conftest import Server

TEXT = (Path(__file__).parents[2] / "README.md").read_text()
BLOCK = r"((?:(?!```).)*)"
PAIR = rf"```(sh|python)\n{BLOCK}```\n\n```(?:json|text)\n{BLOCK}```"
MARK = "<!-- of an embedding model -->\n"
PAIRS = re.findall(f"(?<!{MARK}){PAIR}", TEXT, re.DOTALL)
EMBEDDING = re.findall(MARK + PAIR, TEXT, re.DOTALL)
DIFFERS = [
    (r'"id":"chatcmpl-[0-9a-f]{32}"', '"id":"…"'),
    (r'"created":\d{10}', '"created":…'),
    (r'"system_fingerprint":"vllm-[0-9.]+-\w+"', '"system_fingerprint":"…"'),
    (r'"cached_tokens":\d+', '"cached_tokens":…'),
    (r"-?\d+\.\d{5,}", "…"),
]


def without_what_differs(text: str) -> str:
    for pattern, sign in DIFFERS:
        text = re.sub(pattern, sign, text)
    return text.strip()


@pytest.mark.parametrize(("language", "code", "shown"), PAIRS, ids=[pair[1][:24].strip() for pair in PAIRS])
def test_an_example_prints_what_is_shown(server: Server, language: str, code: str, shown: str) -> None:
    code = code.replace("localhost:8080", f"127.0.0.1:{server.port}")
    if language == "sh":
        words = ["bash", "-euo", "pipefail", "-c", code]
        said = subprocess.run(words, check=True, capture_output=True, text=True, timeout=60).stdout
    else:
        output = io.StringIO()
        names: dict[str, Any] = {}
        with contextlib.redirect_stdout(output):
            exec(compile(code, "README.md", "exec"), names)  # noqa: S102 our own README
        for name in {"client", "runtime"} & names.keys():
            names[name].close()
        said = output.getvalue()
    assert without_what_differs(said) == without_what_differs(shown)


def test_there_are_examples_of_both_schemas_and_clients() -> None:
    codes = [code for _, code, _ in PAIRS]
    assert len(codes) >= 7
    for word in ('"messages"', '"inputs"', '"stream": true', "import openai", "import boto3"):
        assert any(word in code for code in codes), word
