"""Structured outputs: every spelling of a guide is one Guide; every bound and wrong shape is named by its path."""

import json
from collections.abc import Mapping
from typing import Any

import pytest

from lmi_chat.engine.vllm.structured_output import trials
from lmi_chat.errors import BadField
from lmi_chat.job import ConstraintKind, OutputConstraint
from lmi_chat.limits import Limits
from tests.support.fakes import deployment, parse, refusal

SCHEMA = {"type": "object", "properties": {"b": {"type": "integer"}, "a": {"enum": [1, None]}}, "required": ["b"]}
TEXT = json.dumps(SCHEMA, separators=(",", ":"))
NAMED = {"name": "x", "schema": SCHEMA, "strict": True}
EBNF = 'root ::= "a" | "b"'
SPELLINGS: list[tuple[dict[str, Any], ConstraintKind, str | tuple[str, ...], str]] = [
    ({"response_format": {"type": "json_object"}}, "json_object", "", ""),
    ({"response_format": {"type": "json_schema", "json_schema": NAMED}}, "json", TEXT, ".json_schema.schema"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"schema": TEXT}}},
        "json",
        TEXT,
        ".json_schema.schema",
    ),
    ({"structured_outputs": {"json": SCHEMA}}, "json", TEXT, ".json"),
    ({"structured_outputs": {"json": json.dumps(SCHEMA, indent=2), "regex": None}}, "json", TEXT, ".json"),
    ({"structured_outputs": {"regex": "a+"}}, "regex", "a+", ".regex"),
    ({"structured_outputs": {"choice": ["a", "b"]}}, "choice", ("a", "b"), ".choice"),
    ({"structured_outputs": {"grammar": EBNF}}, "grammar", EBNF, ".grammar"),
    ({"structured_outputs": {"json_object": True}}, "json_object", "", ".json_object"),
    ({"guided_json": SCHEMA}, "json", TEXT, ""),
    ({"guided_json": TEXT}, "json", TEXT, ""),
    ({"guided_regex": "a+"}, "regex", "a+", ""),
    ({"guided_choice": ["a", "b"]}, "choice", ("a", "b"), ""),
    ({"guided_grammar": EBNF}, "grammar", EBNF, ""),
]
TGI: list[tuple[dict[str, Any], ConstraintKind, str | tuple[str, ...], str]] = [
    ({"grammar": {"type": "json", "value": SCHEMA}}, "json", TEXT, ".value"),
    ({"grammar": {"type": "json", "value": TEXT}}, "json", TEXT, ".value"),
    ({"grammar": {"type": "json_schema", "value": NAMED}}, "json", TEXT, ".value.schema"),
    ({"grammar": {"type": "regex", "value": "a+"}}, "regex", "a+", ".value"),
]
NOTHING: list[dict[str, Any]] = [
    {},
    {"response_format": None},
    {"response_format": {"type": "text"}},
    {"structured_outputs": {}},
    {"structured_outputs": {"json_object": False, "json": None}},
    {"guided_json": None},
]


def nested(depth: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range((depth - 1) // 2):
        schema = {"properties": {"a": schema}}
    return schema if depth % 2 else {"not": schema}


def chain(ends: str, *names: str) -> dict[str, Any]:
    """a → b → … → `ends`, by references alone."""
    targets = [*(f"#/$defs/{name}" for name in names[1:]), ends]
    defs = {name: {"$ref": target} for name, target in zip(names, targets, strict=True)}
    return {"$defs": defs, "$ref": f"#/$defs/{names[0]}"}


def schema_of_bytes(size: int) -> dict[str, Any]:
    empty = len(json.dumps({"description": ""}, separators=(",", ":")))
    return {"description": "x" * (size - empty)}


FITS: dict[str, dict[str, Any]] = {
    "bytes": {"guided_json": schema_of_bytes(65_536)},
    "depth": {"guided_json": nested(32)},
    "enum": {"guided_json": {"anyOf": [{"enum": [*range(500)]}, {"enum": [*range(500)]}]}},
    "regex": {"guided_regex": "é" * 2048},
    "grammar": {"guided_grammar": "é" * 32_768},
    "choices": {"guided_choice": ["a"] * 1000},
    "choice": {"guided_choice": ["é" * 512]},
    "choices in all": {"guided_choice": ["x" * 1024] * 64},
    "a tree": {"guided_json": {"$defs": {"n": {"properties": {"k": {"$ref": "#/$defs/n"}}}}, "$ref": "#/$defs/n"}},
    "itself, lower": {"guided_json": {"properties": {"next": {"$ref": "#"}}}},
    "a chain": {"guided_json": chain("#/$defs/c/x~1y/0", "a", "b") | {"x": 1}},
    "a property called $ref": {"guided_json": {"properties": {"$ref": {"type": "string"}, "enum": {"type": "null"}}}},
}
FITS["a chain"]["guided_json"]["$defs"]["c"] = {"x/y": [{"type": "string"}]}
BAD: list[tuple[dict[str, Any], str, str]] = [
    ({"response_format": "json"}, "response_format", 'must be an object such as {"type":"json_object"}, got "json"'),
    ({"response_format": {}}, "response_format.type", "must be text, json_object or json_schema, got null"),
    ({"response_format": {"type": ["text"]}}, "response_format.type", "got an array of 1 items"),
    ({"response_format": {"type": "json_schema"}}, "response_format.json_schema", "name and schema, got null"),
    (
        {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
        "response_format.json_schema.schema",
        "must be a JSON Schema (an object), got null",
    ),
    (
        {"response_format": {"type": "json_schema", "json_schema": {**NAMED, "name": 7}}},
        "response_format.json_schema.name",
        "must be a string, got 7",
    ),
    (
        {"response_format": {"type": "json_schema", "json_schema": {**NAMED, "strict": "yes"}}},
        "response_format.json_schema.strict",
        'must be boolean, got "yes"',
    ),
    ({"structured_outputs": ["a"]}, "structured_outputs", "must be an object with one of json, regex"),
    ({"structured_outputs": {"json": SCHEMA, "regex": "a"}}, "structured_outputs", "got json and regex"),
    ({"structured_outputs": {"json_object": 1}}, "structured_outputs.json_object", "must be true or false, got 1"),
    ({"structured_outputs": {"regex": ["a"]}}, "structured_outputs.regex", "must be a string that is not empty"),
    ({"guided_json": True}, "guided_json", "must be a JSON Schema (an object), got true"),
    ({"guided_json": "{"}, "guided_json", "must be a JSON Schema or its text: "),
    ({"guided_json": "[]"}, "guided_json", "must be a JSON Schema or its text: "),
    ({"guided_json": schema_of_bytes(65_537)}, "guided_json", "must be at most 65536 bytes of JSON, got 65537"),
    ({"guided_json": " " * 65_537}, "guided_json", "must be at most 65536 bytes of JSON, got 65537"),
    ({"guided_json": nested(33)}, "guided_json", "must nest at most 32 deep"),
    ({"guided_json": {"a": {"enum": [*range(501)]}, "b": {"enum": [*range(500)]}}}, "guided_json", "got at least 1001"),
    ({"guided_json": {"$ref": "#"}}, "guided_json", 'has $ref "#", which refers to itself'),
    ({"guided_json": chain("#/$defs/a", "a", "b")}, "guided_json", "which refers to itself in a circle"),
    ({"guided_json": {"$ref": "https://x.example/s"}}, "guided_json", "only references inside the schema"),
    ({"guided_json": {"items": {"$ref": "other.json#/a"}}}, "guided_json", "only references inside the schema"),
    ({"guided_json": {"$ref": "#anchor"}}, "guided_json", "only references inside the schema"),
    ({"guided_json": {"$ref": "#/$defs/a"}}, "guided_json", "points at nothing"),
    ({"guided_regex": ""}, "guided_regex", 'must be a string that is not empty, got ""'),
    ({"guided_regex": "a\0"}, "guided_regex", "must not hold U+0000"),
    ({"guided_regex": "é" * 2048 + "a"}, "guided_regex", "must be at most 4096 bytes long, got 4097"),
    ({"guided_grammar": " \n"}, "guided_grammar", "must be a string that is not empty"),
    ({"guided_grammar": "x" * 65_537}, "guided_grammar", "must be at most 65536 bytes long, got 65537"),
    ({"guided_choice": []}, "guided_choice", "at least 1 and at most 1000 strings, got an array of 0 items"),
    ({"guided_choice": ["a"] * 1001}, "guided_choice", "got an array of 1001 items"),
    ({"guided_choice": "a"}, "guided_choice", 'got "a"'),
    ({"guided_choice": ["a", 7]}, "guided_choice[1]", "must be a string that is not empty, without U+0000, got 7"),
    ({"guided_choice": ["", "a"]}, "guided_choice[0]", "must be a string that is not empty"),
    ({"guided_choice": ["x" * 1025]}, "guided_choice[0]", "must be at most 1024 bytes long, got 1025"),
    ({"guided_choice": ["x" * 1024] * 65}, "guided_choice", "must be at most 65536 bytes in all, got 66560"),
    (
        {"guided_regex": "a", "guided_choice": ["a"]},
        "guided_choice",
        "and guided_regex ask for different forms of the text",
    ),
    (
        {"response_format": {"type": "json_object"}, "structured_outputs": {"regex": "a"}},
        "structured_outputs",
        "and response_format ask for different forms of the text",
    ),
]
BAD_TGI: list[tuple[dict[str, Any], str, str]] = [
    ({"grammar": "a"}, "grammar", 'must be an object with type and value, got "a"'),
    ({"grammar": {"type": "ebnf"}}, "grammar.type", 'must be json, json_schema or regex, got "ebnf"'),
    ({"grammar": {"type": "json"}}, "grammar.value", "must be a JSON Schema (an object), got null"),
    ({"grammar": {"type": "regex", "value": {}}}, "grammar.value", "must be a string that is not empty, got an object"),
    ({"grammar": {"type": "json_schema", "value": {}}}, "grammar.value.schema", "must be a JSON Schema"),
    ({"grammar": {"type": "regex", "value": "a"}, "guided_regex": "b"}, "grammar", "and parameters.guided_regex ask"),
]


def chat(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": "hi"}], **fields}


def standard(fields: Mapping[str, Any]) -> dict[str, Any]:
    return {"inputs": "hi", "parameters": dict(fields)}


def guide_of(body: dict[str, Any]) -> OutputConstraint | None:
    task = parse(body, deployment(), "1")
    assert task.unknown == []
    return task.job.sampling.constraint


@pytest.mark.parametrize(("fields", "kind", "value", "below"), SPELLINGS)
def test_every_spelling_is_one_guide(
    fields: dict[str, Any], kind: ConstraintKind, value: str | tuple[str, ...], below: str
) -> None:
    (name,) = fields
    for body, prefix in ((chat(fields), ""), (standard(fields), "parameters.")):
        guide = guide_of(body)
        assert guide == OutputConstraint(kind, value)
        assert guide is not None
        assert guide.path == prefix + name + below


@pytest.mark.parametrize(("fields", "kind", "value", "below"), TGI)
def test_tgis_grammar(fields: dict[str, Any], kind: ConstraintKind, value: str | tuple[str, ...], below: str) -> None:
    guide = guide_of(standard(fields))
    assert guide == OutputConstraint(kind, value)
    assert guide is not None
    assert guide.path == "parameters.grammar" + below


@pytest.mark.parametrize("fields", NOTHING)
def test_what_asks_for_nothing(fields: dict[str, Any]) -> None:
    assert guide_of(chat(fields)) is None
    assert guide_of(standard(fields)) is None


@pytest.mark.parametrize("name", FITS)
def test_what_just_fits(name: str) -> None:
    assert guide_of(chat(FITS[name])) is not None


@pytest.mark.parametrize(("fields", "path", "text"), BAD)
def test_what_is_wrong_is_named(fields: dict[str, Any], path: str, text: str) -> None:
    error = refusal(chat(fields), "chat")
    assert (error.param, error.status) == (path, 400)
    assert text in error.message
    error = refusal(standard(fields), "standard")
    assert error.param == "parameters." + path


@pytest.mark.parametrize(("fields", "path", "text"), BAD_TGI)
def test_what_is_wrong_with_tgis_grammar(fields: dict[str, Any], path: str, text: str) -> None:
    error = refusal(standard(fields), "standard")
    assert error.param == "parameters." + path
    assert text in error.message


def test_the_same_guide_twice_is_one() -> None:
    fields = {"guided_json": SCHEMA, "structured_outputs": {"json": TEXT}, "response_format": {"type": "text"}}
    assert guide_of(chat(fields)) == OutputConstraint("json", TEXT)


def test_the_bounds_are_settings() -> None:
    small = Limits(max_schema_bytes=64, max_regex_bytes=2, max_choices=1)
    for fields in ({"guided_json": schema_of_bytes(65)}, {"guided_regex": "aaa"}, {"guided_choice": ["a", "b"]}):
        assert guide_of(chat(fields)) is not None
        assert refusal(chat(fields), "chat", limits=small).status == 400


def test_no_beam_search_beside_a_guide() -> None:
    error = refusal(chat({"guided_regex": "a", "use_beam_search": True, "n": 2}), "chat")
    assert (error.param, "beside guided_regex" in error.message) == ("use_beam_search", True)
    error = refusal(standard({"guided_regex": "a", "num_beams": 2}), "standard")
    assert error.param == "parameters.num_beams"


def test_a_long_chain_of_references_is_quick() -> None:
    names = [f"n{number}" for number in range(1500)]
    fields = {"guided_json": chain("#/$defs/end", *names)}
    fields["guided_json"]["$defs"]["end"] = {"type": "string"}
    assert guide_of(chat(fields)) is not None


def test_unknown_keys_of_structured_outputs_are_told() -> None:
    body = chat({"structured_outputs": {"regexp": "a"}})
    assert parse(body, deployment(), "1").unknown == [
        "structured_outputs.regexp is ignored; did you mean structured_outputs.regex?"
    ]
    [told] = parse(standard({"grammar": {"type": "regex", "value": "a", "vlaue": "b"}}), deployment(), "1").unknown
    assert told == "parameters.grammar.vlaue is ignored; did you mean parameters.grammar.value?"


async def test_a_model_without_a_fast_tokenizer_takes_no_guide() -> None:
    with pytest.raises(BadField, match="guided_regex needs a fast tokenizer"):
        await trials.Trials(2.0, None).check(OutputConstraint("regex", "a", "guided_regex"))


@pytest.mark.parametrize(
    ("guide", "expected"),
    [
        (OutputConstraint("json_object", ""), ("json", '{"type": "object"}')),
        (OutputConstraint("json", TEXT), ("json", TEXT)),
        (OutputConstraint("regex", "a"), ("regex", "a")),
        (OutputConstraint("choice", ("a", '"')), ("choice", '["a", "\\""]')),
        (OutputConstraint("grammar", EBNF), ("grammar", EBNF)),
    ],
)
def test_what_the_compiler_gets(guide: OutputConstraint, expected: tuple[str, str]) -> None:
    assert trials.source(guide) == expected
