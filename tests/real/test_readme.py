"""Every example of README.md and docs/, run as it is written, against the real server; only the port differs."""

import re
from pathlib import Path

import pytest

from tests.real.conftest import Server
from tests.support import pages
from tests.support.pages import Block

EXAMPLES = [block for block in pages.EXAMPLES if block.mark not in pages.OTHER_MODELS]
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


@pytest.mark.parametrize("block", EXAMPLES, ids=str)
def test_an_example_prints_what_is_shown(server: Server, block: Block, tmp_path: Path) -> None:
    assert block.shown
    assert without_what_differs(pages.said_by(block, server.port, tmp_path)) == without_what_differs(block.shown)


def test_the_start_says_what_is_shown(server: Server) -> None:
    [start] = [block for block in pages.OTHERS if block.language == "text"]
    lines = [line for line in server.log.read_text().splitlines() if line.startswith("lmi-chat ")]
    assert without_numbers("\n".join(lines)) == without_numbers(start.code.strip())


def without_numbers(text: str) -> str:
    """Seconds and ports are another run's."""
    return re.sub(r"\d+\.\d s|:\d+(?=[ /])", "… ", text)


@pytest.mark.parametrize(
    ("page", "words"),
    [
        ("README.md", ('"messages"', '"inputs"', "import boto3")),
        ("docs/quickstart.md", ('"messages"', '"inputs"', '"stream": true', "wizard")),
        (
            "docs/clients.md",
            ("import openai", "import boto3", "with_response_stream", "lmi-chat chat", "invoke my-end"),
        ),
        ("docs/console.md", ("lmi-chat top", "/console/api/requests")),
        ("docs/sagemaker.md", ("NEW_SESSION", "CLOSE")),
    ],
)
def test_each_page_has_its_examples(page: str, words: tuple[str, ...]) -> None:
    codes = [block.code for block in EXAMPLES if block.page == page]
    for word in words:
        assert any(word in code for code in codes), word
