"""docs/peers.md, the tables of what others get wrong or have otherwise: each row names tests that exist."""

import re
from pathlib import Path

import pytest

TESTS = Path(__file__).parent
LINES = (TESTS.parent / "docs/peers.md").read_text().splitlines()
ROWS = [
    line
    for line, below in zip(LINES, [*LINES[1:], ""], strict=True)
    if line.startswith("| ") and not below.startswith("|---")
]
NAMED = re.compile(r"`([\w/]+\.py)::(test_\w+)`")


@pytest.mark.parametrize("row", ROWS, ids=[row.split(" | ")[1][:40] for row in ROWS])
def test_each_row_is_shown_by_tests_that_exist(row: str) -> None:
    *_, shown = row.strip("| ").split(" | ")
    found = NAMED.findall(shown)
    assert len(found) == shown.count("`") // 2 > 0
    for file, name in found:
        assert re.search(rf"^(async )?def {name}\(", (TESTS / file).read_text(), re.MULTILINE), f"{file}::{name}"


def test_all_four_have_rows() -> None:
    assert len(ROWS) > 50
    assert {name for row in ROWS for name in row.strip("| ").split(" | ")[0].split(", ")} == {
        *("LMI", "TGI", "vLLM", "OpenAI"),
    }
