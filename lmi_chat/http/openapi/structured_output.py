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


def _format(limits: Limits, *, is_strict: bool) -> Json:
    """OpenAI's spellings and TGI's; a schema stands in one of several places, by itself or with a name."""
    named = _named_schema(is_strict=is_strict)
    wrapped = [{"required": [name]} for name in structured_output.WRAPPING]
    either = {"if": {"type": "object", "anyOf": wrapped}, "then": named, "else": SCHEMA}
    places = {name: named if name == "json_schema" else either for name in structured_output.SCHEMA_PLACES}
    anything = {name: {"description": "says nothing here"} for name in places}

    def form(*kinds: str, **own: Json) -> Json:
        return record(anything | {"type": {"enum": [*kinds]}} | own, ["type", *own], is_closed=is_strict)

    one = [way | {"required": [name]} for name, way in zip(places, at_most_one(places), strict=True)]
    at_most = at_most_one({name: {"anyOf": [schema, NULL]} for name, schema in places.items()})
    return {
        "anyOf": [
            form("text"),
            form("regex", value=_forms(limits)["regex"]),
            form("json_object") | {"anyOf": at_most},
            form("json_schema", "json") | {"anyOf": one},
            NULL,
        ]
    }


def text_formats(*, is_strict: bool) -> list[Json]:
    """Formats whose name and schema stand in themselves."""
    named = {"name": nullable(TEXT), "description": nullable(TEXT), "strict": nullable(BOOLEAN)}
    schema = named | {"type": {"const": "json_schema"}, "schema": SCHEMA}
    return [
        record({"type": {"enum": ["text", "json_object"]}}, ["type"], is_closed=is_strict),
        record(schema, ["type", "schema"], is_closed=is_strict),
    ]


def _outputs(limits: Limits, *, is_strict: bool) -> Json:
    forms = {name: {"anyOf": [schema, NULL]} for name, schema in _forms(limits).items()}
    forms["json_object"] = nullable(BOOLEAN)
    spaces = {
        structured_output.PATTERN: {"type": ["string", "null"], "maxLength": limits.max_regex_bytes},
        structured_output.COMPACT: nullable(BOOLEAN),
    }
    whole = record({name: forms[name] for name in structured_output.OUTPUTS} | spaces, is_closed=is_strict)
    return {"anyOf": [whole | {"anyOf": at_most_one(forms)}, NULL]}


def openai(limits: Limits, *, is_strict: bool) -> Json:
    """The fields that every dialect reads."""
    forms = _forms(limits)
    guided = {name: {"anyOf": [forms[kind], NULL]} for name, kind in structured_output.GUIDED.items()}
    return {
        "response_format": _format(limits, is_strict=is_strict),
        "structured_outputs": _outputs(limits, is_strict=is_strict),
    } | guided


def tgi(limits: Limits, *, is_strict: bool) -> Json:
    """TGI's `grammar`, which takes what `response_format` takes."""
    return _format(limits, is_strict=is_strict)
