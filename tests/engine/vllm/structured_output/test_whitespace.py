"""What a schema says of whitespace; what llguidance makes of it is shown by tests/real/test_guides.py."""

import json
from typing import Any

import pytest

from lmi_chat.engine.vllm.structured_output import trials
from lmi_chat.job import OutputConstraint

NONE = {"whitespace_flexible": False, "item_separator": ",", "key_separator": ":"}
ONE = {"whitespace_flexible": False, "item_separator": ",[ ]?", "key_separator": ":[ ]?"}


def options(schema: dict[str, Any], pattern: str | None = None, *, is_compact: bool = False) -> Any:
    text = json.dumps(schema, separators=(",", ":"))
    kind, sent = trials.source(OutputConstraint("json", text, whitespace=pattern), is_compact=is_compact)
    read = json.loads(sent)
    assert kind == "json"
    assert {key: value for key, value in read.items() if key != "x-guidance"} == {
        key: value for key, value in schema.items() if key != "x-guidance"
    }
    return read["x-guidance"]


@pytest.mark.parametrize("schema", [{}, {"type": "integer"}, {"enum": ['"x-guidance"'], "$defs": {"a": {}}}])
def test_at_most_one_blank_unless_something_is_said(schema: dict[str, Any]) -> None:
    assert options(schema) == ONE
    assert options(schema, is_compact=True) == options(schema, "") == NONE
    assert options(schema, "[ ]?", is_compact=True) != NONE, "the request's word counts"


def test_any_object_is_a_schema_too() -> None:
    kind, sent = trials.source(OutputConstraint("json_object", ""))
    assert (kind, json.loads(sent)) == ("json", {"type": "object", "x-guidance": ONE})


def test_a_pattern_that_repeats_stands_anywhere_and_another_once_around_separators() -> None:
    for pattern in (r"[\n\t ]*", " +", r"\s*", r"[\]]+"):
        assert options({}, pattern) == {"whitespace_flexible": True, "whitespace_pattern": pattern}
    for pattern in ("[ ]?", " ", "a*b*", "(ab)*", "[ ]{0,2}", "a|b"):
        around = f"(?:{pattern})"
        expected = {"item_separator": f"{around},{around}", "key_separator": f"{around}:{around}"}
        assert options({}, pattern) == {"whitespace_flexible": False} | expected


def test_what_a_schema_says_by_itself_stays() -> None:
    own = {"whitespace_flexible": True, "lenient": True}
    assert options({"type": "object", "x-guidance": own}) == ONE | own
    assert options({"x-guidance": 5}) == 5, "the compiler says what is wrong with it"
