"""What docs/tools.md says of the law is what the data say; tests/real/test_parsers.py asks vLLM's parsers."""

import re
from pathlib import Path

from tests.real import parser_formats

DOCS = Path(__file__).parents[4] / "docs" / "tools.md"


def test_the_docs_have_the_laws_table() -> None:
    found = re.search(r"<!-- law -->\n(.*)\n<!-- /law -->", DOCS.read_text(), re.DOTALL)
    assert found
    assert found[1].strip() == parser_formats.law()
