"""Every example of README.md and docs/, run as it is written, against the real server; only the port differs."""

import contextlib
import io
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.real.conftest import Server

ROOT = Path(__file__).parents[2]
PAGES = {page.name: page.read_text() for page in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))}
BLOCK = r"((?:(?!```).)*)"
PAIR = rf"```(sh|python)\n{BLOCK}```\n\n```(?:json|text)\n{BLOCK}```"
MARK = "<!-- of an embedding model -->\n"
PAIRS = [(page, *found) for page, text in PAGES.items() for found in re.findall(f"(?<!{MARK}){PAIR}", text, re.DOTALL)]
EMBEDDING = [found for text in PAGES.values() for found in re.findall(MARK + PAIR, text, re.DOTALL)]
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


@pytest.mark.parametrize(
    ("page", "language", "code", "shown"), PAIRS, ids=[f"{pair[0]}-{pair[2][:24].strip()}" for pair in PAIRS]
)
def test_an_example_prints_what_is_shown(server: Server, page: str, language: str, code: str, shown: str) -> None:
    code = code.replace("localhost:8080", f"127.0.0.1:{server.port}")
    if language == "sh":
        words = ["bash", "-euo", "pipefail", "-c", code]
        said = subprocess.run(words, check=True, capture_output=True, text=True, timeout=60).stdout
    else:
        output = io.StringIO()
        names: dict[str, Any] = {}
        with contextlib.redirect_stdout(output):
            exec(compile(code, page, "exec"), names)  # noqa: S102 our own page
        for name in {"client", "runtime"} & names.keys():
            names[name].close()
        said = output.getvalue()
    assert without_what_differs(said) == without_what_differs(shown)


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ("README.md", ('"messages"', '"inputs"', "import boto3")),
        ("quickstart.md", ('"messages"', '"inputs"', '"stream": true', "wizard")),
        ("clients.md", ("import openai", "import boto3", "with_response_stream")),
    ],
)
def test_each_page_has_its_examples(page: str, words: tuple[str, ...]) -> None:
    codes = [code for name, _, code, _ in PAIRS if name == page]
    for word in words:
        assert any(word in code for code in codes), word
