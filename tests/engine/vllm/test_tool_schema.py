"""Schemas rewritten so that their types can be read without following references."""

import jsonschema_rs
import pytest

from lmi_chat.engine.vllm.tool_schema import NODES_MOST, explicit, moved, type_of

DEFS = {
    "day": {"type": "integer", "minimum": 1},
    "tree": {"type": "object", "properties": {"left": {"$ref": "#/$defs/tree"}}},
}


def test_references_are_written_out_with_what_stands_beside_them() -> None:
    schema = {"properties": {"day": {"$ref": "#/$defs/day", "title": "Day"}}, "$defs": DEFS}
    assert explicit(schema)["properties"] == {"day": {"type": "integer", "minimum": 1, "title": "Day"}}


def test_what_both_say_must_both_hold() -> None:
    schema = {"properties": {"day": {"$ref": "#/$defs/day", "minimum": 5}}, "$defs": DEFS}
    written = explicit(schema)
    assert not jsonschema_rs.validator_for(written).is_valid({"day": 4})
    assert jsonschema_rs.validator_for(written).is_valid({"day": 5})


def test_what_refers_to_itself_says_its_type() -> None:
    left = explicit({"properties": {"tree": {"$ref": "#/$defs/tree"}}, "$defs": DEFS})["properties"]["tree"]
    assert left["properties"]["left"] == {"$ref": "#/$defs/tree", "type": "object"}


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (True, "boolean"),
        (1, "integer"),
        (1.5, "number"),
        ("a", "string"),
        ([], "array"),
        ({}, "object"),
        (None, "null"),
    ],
)
def test_a_fixed_value_is_a_choice_of_one_with_its_type(value: object, kind: str) -> None:
    assert type_of(value) == kind
    assert explicit({"const": value}) == {"const": value, "enum": [value], "type": [kind]}


def test_a_schema_that_grows_with_each_reference_stays_small() -> None:
    doubling = {f"d{n}": {"properties": {x: {"$ref": f"#/$defs/d{n + 1}"} for x in "ab"}} for n in range(40)}
    schema = {"properties": {"d": {"$ref": "#/$defs/d0"}}, "$defs": {**doubling, "d40": {"type": "string"}}}
    assert len(str(explicit(schema))) < 200 * NODES_MOST


def test_references_follow_a_schema_that_is_moved() -> None:
    inner = {"properties": {"a": {"anyOf": [{"$ref": "#/$defs/day"}]}, "b": {"$ref": "#"}}, "$defs": DEFS}
    outer = {"properties": {"x": moved(inner, "#/properties/x")}}
    validator = jsonschema_rs.validator_for(outer)
    assert validator.is_valid({"x": {"a": 1, "b": {"a": 2}}})
    assert not validator.is_valid({"x": {"a": 0}})
    assert not validator.is_valid({"x": {"b": {"a": 0}}})
