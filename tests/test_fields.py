"""The documents of the fields are the code's own tables."""

from pathlib import Path

import pytest

from lmi_chat.fields import CHAT, DIALECTS, table

DOCS = Path(__file__).parents[1] / "docs"


def test_the_table_of_fields_is_the_codes_own() -> None:
    assert f"<!-- fields -->\n{table()}\n<!-- /fields -->" in (DOCS / "fields.md").read_text()


def test_every_field_of_every_dialect_has_a_row() -> None:
    head, rule, *rows = table().splitlines()
    assert {row.count("|") for row in (head, rule, *rows)} == {7}
    shown = {(row.split("`")[1], dialect) for row in rows for dialect in row.split(" | ")[-1].rstrip(" |").split(", ")}
    assert shown == {(name, dialect) for dialect, tables in DIALECTS.items() for fields in tables for name in fields}
    assert all(row.split(" | ")[1] and row.split(" | ")[4] for row in rows), "type and meaning"


ROWS = """
| `temperature` | number | 0 to 2 | `1.0` | randomness; below 0.01 is greedy | chat, standard, completion |
| `top_p` | number | above 0, to 1 | `1.0` | nucleus sampling | chat, standard, completion |
| `n` | integer | 1 to `max_n` | `1` | sequences | chat, completion |
| `max_new_tokens` | integer | 1 to 2147483647 | `30` | tokens to generate | standard |
| `tools` | null, `[]` |  |  | 400: is not served by this version | chat |
| `user` | string | at most 512 characters | `""` | who asks; users take turns | chat, completion |
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
    assert CHAT["tool_choice"].nothing == ("none", "auto")
