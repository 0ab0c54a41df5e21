"""Describe the fields that ask for a form of the text, as JSON Schema, from the limits that they are checked by."""

from lmi_chat.codec.json_text import Json
from lmi_chat.dialects import structured_output
from lmi_chat.http.openapi.shapes import BOOLEAN, TEXT, at_most_one, nullable, record
from lmi_chat.limits import Limits

NULL: Json = {"type": "null"}
WORDS = r"^[^\x00]*[^\s\x00][^\x00]*$"
SCHEMA: Json = {"type": ["object", "string"], "description": "a JSON Schema, or its text"}


def _text(most: int, what: str) -> Json:
    return {"type": "string", "minLength": 1, "maxLength": most, "pattern": WORDS, "description": what}


def _forms(limits: Limits) -> Json:
    choice = {"type": "string", "minLength": 1, "maxLength": limits.max_choice_bytes, "pattern": r"^[^\x00]+$"}
    return {
        "json": SCHEMA,
        "regex": _text(limits.max_regex_bytes, "a regex that the whole text fits"),
        "choice": {"type": "array", "items": choice, "minItems": 1, "maxItems": limits.max_choices},
        "grammar": _text(limits.max_grammar_bytes, "a grammar, in EBNF or Lark"),
    }


def _named_schema(*, is_strict: bool) -> Json:
    properties = {"name": nullable(TEXT), "description": nullable(TEXT), "strict": nullable(BOOLEAN), "schema": SCHEMA}
    return record(properties, ["schema"], is_closed=is_strict)


def _format(*, is_strict: bool) -> Json:
    simple = {"type": {"enum": ["text", "json_object"]}, "json_schema": {"description": "says nothing here"}}
    plain = record(simple, ["type"], is_closed=is_strict)
    own = {"type": {"const": "json_schema"}, "json_schema": _named_schema(is_strict=is_strict)}
    named = record(own, ["type", "json_schema"], is_closed=is_strict)
    return {"anyOf": [plain, named, NULL]}


def _outputs(limits: Limits, *, is_strict: bool) -> Json:
    forms = {name: {"anyOf": [schema, NULL]} for name, schema in _forms(limits).items()}
    forms["json_object"] = nullable(BOOLEAN)
    whole = record({name: forms[name] for name in structured_output.OUTPUTS}, is_closed=is_strict)
    return {"anyOf": [whole | {"anyOf": at_most_one(forms)}, NULL]}


def openai(limits: Limits, *, is_strict: bool) -> Json:
    """The fields that every dialect reads."""
    forms = _forms(limits)
    guided = {name: {"anyOf": [forms[kind], NULL]} for name, kind in structured_output.GUIDED.items()}
    return {
        "response_format": _format(is_strict=is_strict),
        "structured_outputs": _outputs(limits, is_strict=is_strict),
    } | guided


def tgi(limits: Limits, *, is_strict: bool) -> Json:
    """TGI's `grammar`."""
    values = {"json": SCHEMA, "json_schema": _named_schema(is_strict=is_strict), "regex": _forms(limits)["regex"]}
    kinds = [
        record({"type": {"const": kind}, "value": value}, ["type", "value"], is_closed=is_strict)
        for kind, value in values.items()
    ]
    return {"anyOf": [*kinds, NULL]}
