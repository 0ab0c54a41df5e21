"""Print docs/fields.md anew from the code's table of fields and tests/compatibility.toml: `python -m` this module."""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from lmi_chat.dialects.table import table

TESTS = Path(__file__).parents[1]
PAGE = TESTS.parent / "docs" / "fields.md"
DATA: dict[str, Any] = tomllib.loads((TESTS / "compatibility.toml").read_text())
BEHAVIOURS: list[dict[str, Any]] = DATA.pop("behaviour")


def printed(page: str) -> str:
    """`page` with both tables as they have to be."""
    for name, rows in (("fields", _fields()), ("behaviours", _behaviours())):
        before, rest = page.split(f"<!-- {name} -->\n")
        _, after = rest.split(f"<!-- /{name} -->\n")
        page = "\n".join([f"{before}<!-- {name} -->", *rows, f"<!-- /{name} -->", after])
    return page


def _fields() -> Iterator[str]:
    """The code's rows with a further column; where a field works otherwise in one dialect, that one has its own row."""
    head, rule, *rows = table().splitlines()
    yield f"{head} works |"
    yield f"{rule}---|"
    for row in rows:
        *cells, meaning, dialects = row.removeprefix("| ").removesuffix(" |").split(" | ")
        groups: dict[str, list[str]] = {}
        for dialect in dialects.split(", "):
            works = DATA[dialect].get("works", {}).get(cells[0].strip("`"), "yes")
            groups.setdefault(meaning if meaning.startswith("400: ") else works, []).append(dialect)
        for works, names in groups.items():
            what = "" if works == meaning else meaning
            yield f"| {' | '.join([*cells, what, ', '.join(names), works])} |"


def _behaviours() -> Iterator[str]:
    yield "| what | where | works |"
    yield "|---|---|---|"
    for row in BEHAVIOURS:
        yield f"| {row['what']} | {row['where']} | {row.get('works', 'yes')} |"


if __name__ == "__main__":
    PAGE.write_text(printed(PAGE.read_text()))
