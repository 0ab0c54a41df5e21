"""docs/fields.md is the code's own tables, and each word in it on what works has its tests."""

import ast
from functools import cache
from pathlib import Path

import pytest

from lmi_chat.dialects import DIALECTS
from lmi_chat.dialects.body import USAGE
from lmi_chat.dialects.chat.body import ChatBody
from lmi_chat.dialects.responses.body import StreamOptions
from lmi_chat.dialects.table import table
from tests.support.fakes import deployment
from tests.support.fields_page import BEHAVIOURS, DATA, PAGE, printed

ROOT = Path(__file__).parents[2]
CHECKERS = deployment().checkers


def test_the_page_is_printed_from_the_table_and_the_tests() -> None:
    assert printed(PAGE.read_text()) == PAGE.read_text(), "python -m tests.support.fields_page"


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
| `temperature` | number | 0 to 2 | `1.0` | randomness; below 0.01 is greedy | chat, anthropic, standard, completion, responses |
| `top_p` | number | 0 to 1 | `1.0` | nucleus sampling; 0: the likeliest token alone | chat, anthropic, standard, completion, responses, transcription |
| `n` | integer | 1 to `max_n` | `1` | sequences | chat, completion |
| `max_new_tokens` | integer | 1 to 2147483647 | `30` | tokens to generate | standard |
| `tools` | array of tools | at most `max_tools` |  | functions that the model may call | chat |
| `chat_template` | null |  |  | 400: is never taken from a request; it is configuration (option.chat_template) | chat |
| `user` | string | at most 512 characters | `""` | who asks; users take turns | chat, completion, responses, embedding, classification, pooling, rerank, score, transcription |
"""  # noqa: E501 rows of a table


@pytest.mark.parametrize("row", ROWS.split("\n")[1:-1])
def test_a_row(row: str) -> None:
    assert row in table().splitlines()


@pytest.mark.parametrize(
    ("name", "type_", "bounds"),
    [
        ("stop", "string or an array of strings", "at most `max_stop` of at most `max_stop_chars` characters"),
        ("logit_bias", "object of token id to bias", "-100 to 100, at most `max_logit_bias` tokens"),
        ("stop_token_ids", "array of token ids", "at most 1024 ids"),
        ("requestType", "`NEW_SESSION` · `CLOSE`", ""),
        ("messages", "array of messages", "1 to `max_messages`"),
    ],
)
def test_types_and_bounds_in_words(name: str, type_: str, bounds: str) -> None:
    [cells] = [row.split(" | ") for row in table().splitlines() if row.startswith(f"| `{name}` ")]
    assert cells[1:3] == [type_, bounds]


def test_what_is_refused_takes_its_own_nothing() -> None:
    assert CHECKERS[ChatBody].properties["chat_template"]["enum"] == [None]


@cache
def functions(path: str) -> frozenset[str]:
    """The names of a module's own functions."""
    tree = ast.parse((ROOT / path).read_text())
    return frozenset(node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef))


TESTS = sorted(
    {name for dialect in DIALECTS for name in DATA[dialect]["tests"]}
    | {name for row in BEHAVIOURS for name in row["tests"]}
)


@pytest.mark.parametrize("name", TESTS)
def test_what_shows_that_something_works_is_there(name: str) -> None:
    path, _, function = name.partition("::")
    assert function.startswith("test_")
    assert function in functions(path)


@pytest.mark.parametrize("dialect", DIALECTS)
def test_every_field_is_shown_to_work(dialect: str) -> None:
    assert DATA.keys() == DIALECTS.keys()
    fields = {name: row for body in DIALECTS[dialect].bodies for name, row in CHECKERS[body].properties.items()}
    works, tests = DATA[dialect].get("works", {}), DATA[dialect]["tests"]
    assert {name for names in tests.values() for name in names} == fields.keys()
    assert works.keys() <= {name for name, row in fields.items() if "enum" not in row}
    assert all(said.startswith(("yes", "`", "400: the served model")) for said in works.values())


def test_every_other_behaviour_is_shown_to_work() -> None:
    assert all(row["what"] and row["where"] and row["tests"] and row.get("works", "yes") for row in BEHAVIOURS)
    for name, dialect in DIALECTS.items():
        shown = {row["what"] for row in BEHAVIOURS if name in row["where"].split(", ")}
        if StreamOptions not in dialect.bodies and any(
            "stream_options" in CHECKERS[body].properties for body in dialect.bodies
        ):
            assert {f"`stream_options.{option}`" for option in USAGE} <= shown


def test_a_field_that_works_otherwise_in_one_dialect_has_two_rows() -> None:
    rows = [row.split(" | ") for row in PAGE.read_text().splitlines() if row.startswith("| `priority` ")]
    assert [row[5] for row in rows] == [
        "chat, completion, responses",
        "anthropic",
        "embedding, classification, pooling, rerank, score",
    ]
    assert rows[0][:5] == rows[1][:5]


def test_what_is_refused_says_why_where_it_says_whether_it_works() -> None:
    assert "| `chat_template` | null |  |  |  | chat | 400: is never taken from a request; it is" in PAGE.read_text()
