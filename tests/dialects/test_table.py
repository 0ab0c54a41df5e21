"""The documents of the fields are the code's own."""

import ast
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import pytest

from lmi_chat.codec.json_text import Json
from lmi_chat.dialects import DIALECTS
from lmi_chat.dialects.body import USAGE
from lmi_chat.dialects.chat.body import ChatBody
from lmi_chat.dialects.table import table
from tests.support.fakes import deployment

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
CHECKERS = deployment().checkers
SECTIONS = (DOCS / "compatibility.md").read_text().split("\n## ")[1:]
COMPATIBLE = [
    [cell.strip() for cell in line.strip("|").split(" | ")]
    for section in SECTIONS
    for line in section.splitlines()
    if line.startswith("| ") and not line.endswith("| tests |")
]


def test_the_table_of_fields_is_the_codes_own() -> None:
    assert f"<!-- fields -->\n{table()}\n<!-- /fields -->" in (DOCS / "fields.md").read_text()


def test_every_field_of_every_dialect_has_a_row() -> None:
    head, rule, *rows = table().splitlines()
    assert {row.count("|") for row in (head, rule, *rows)} == {7}
    shown = {(row.split("`")[1], dialect) for row in rows for dialect in row.split(" | ")[-1].rstrip(" |").split(", ")}
    assert shown == {
        (name, dialect.name)
        for dialect in DIALECTS.values()
        for body in dialect.bodies
        for name in CHECKERS[body].properties
    }
    assert all(row.split(" | ")[1] and row.split(" | ")[4] for row in rows), "type and meaning"


ROWS = """
| `temperature` | number | 0 to 2 | `1.0` | randomness; below 0.01 is greedy | chat, standard, completion |
| `top_p` | number | above 0, to 1 | `1.0` | nucleus sampling | chat, standard, completion |
| `n` | integer | 1 to `max_n` | `1` | sequences | chat, completion |
| `max_new_tokens` | integer | 1 to 2147483647 | `30` | tokens to generate | standard |
| `tools` | null, `[]` |  |  | 400: is not served by this version | chat |
| `user` | string | at most 512 characters | `""` | who asks; users take turns | chat, completion, embedding |
"""


@pytest.mark.parametrize("row", ROWS.split("\n")[1:-1])
def test_a_row(row: str) -> None:
    assert row in table().splitlines()


@pytest.mark.parametrize(
    ("name", "type_", "bounds"),
    [
        ("stop", "string or an array of strings", "at most `max_stop` of at most `max_stop_chars` characters"),
        ("logit_bias", "object of token id to bias", "-100 to 100, at most `max_logit_bias` tokens"),
        ("stop_token_ids", "array of token ids", "at most 1024 ids"),
        ("service_tier", "`auto` · `default` · `flex` · `priority`", ""),
        ("messages", "array of messages", "1 to `max_messages`"),
    ],
)
def test_types_and_bounds_in_words(name: str, type_: str, bounds: str) -> None:
    [cells] = [row.split(" | ") for row in table().splitlines() if row.startswith(f"| `{name}` ")]
    assert cells[1:3] == [type_, bounds]


def test_what_is_refused_takes_its_own_nothing() -> None:
    assert CHECKERS[ChatBody].properties["tool_choice"]["enum"] == [None, "none", "auto"]


@cache
def functions(path: str) -> frozenset[str]:
    """The names of a module's own functions."""
    tree = ast.parse((ROOT / path).read_text())
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


@pytest.mark.parametrize("row", COMPATIBLE, ids=lambda row: f"{row[0]} {row[1]}"[:60])
def test_every_row_of_compatibility_names_tests_that_are_there(row: list[str]) -> None:
    assert len(row) == 4
    assert all(row)
    tests = [name.strip("`") for name in row[3].split(" ")]
    assert tests
    for name in tests:
        path, _, function = name.partition("::")
        assert function.startswith("test_")
        assert function in functions(path), name


def rows_of(dialect: str) -> Mapping[str, str]:
    """What is said of each of a dialect's fields."""
    count = sum(line.startswith("| `") for line in SECTIONS[0].splitlines())
    return {row[0].strip("`"): row[2] for row in COMPATIBLE[:count] if row[1] == dialect}


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_field_has_a_row_that_says_whether_it_works(dialect: str) -> None:
    fields = {name: row for body in DIALECTS[dialect].bodies for name, row in CHECKERS[body].properties.items()}
    inner: dict[str, Json] = {f"stream_options.{name}": {} for name in USAGE if "stream_options" in fields}
    rows = rows_of(dialect)
    assert rows.keys() == (fields | inner).keys()
    for name, row in (fields | inner).items():
        if "enum" in row:
            assert rows[name] == f"400: {row['description']}"
        else:
            assert rows[name].startswith(("yes", "`", "400: the served model"))
