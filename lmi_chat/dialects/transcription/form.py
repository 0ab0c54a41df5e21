"""Read the texts of a form as the values of a body's fields."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lmi_chat.codec import multipart
from lmi_chat.codec.json_text import Json
from lmi_chat.errors import BadField, BadForm, Problem
from lmi_chat.limits import Limits
from lmi_chat.text import echo

FILE = "file"
SEVERAL = "[]"
NUMBER = re.compile(r"-?[0-9]{1,19}(?:\.[0-9]{0,30})?(?:[eE][-+]?[0-9]{1,3})?")
WHOLE = re.compile(r"-?[0-9]{1,19}")
WORDS: Mapping[str, bool] = {"true": True, "True": True, "1": True, "false": False, "False": False, "0": False}


@dataclass(frozen=True, slots=True, eq=False)
class Upload:
    """A file of a form, or a body that is nothing but a file."""

    data: bytes

    def __repr__(self) -> str:
        """Short, for an error's sake."""
        return f"a file of {len(self.data)} bytes"


def read(body: bytes, content_type: str, limits: Limits) -> Json:
    """A form as a body: files as Upload, texts as they came, `name[]` as a list. Raises BadForm, BadField."""
    fields: Json = {}
    problems: list[Problem] = []
    for part in multipart.parse(body, content_type, most=limits.max_form_parts):
        name, is_several = part.name.removesuffix(SEVERAL), part.name.endswith(SEVERAL)
        value = Upload(part.data) if part.filename is not None else _text(part, limits)
        if is_several and isinstance(fields.setdefault(name, []), list):
            fields[name].append(value)
        elif name in fields:
            problems.append(Problem(name, f"{echo(name)} stands in the form more than once"))
        else:
            fields[name] = value
    if problems:
        raise BadField(problems)
    return fields


def _text(part: multipart.Part, limits: Limits) -> str:
    most = limits.max_form_field_bytes
    if len(part.data) > most:
        text = f"{echo(part.name)} must have at most {most} bytes (option.max_form_field_bytes), got {len(part.data)}"
        raise BadField([Problem(part.name, text)])
    try:
        return part.data.decode()
    except UnicodeDecodeError as error:
        raise BadForm(f"the form's field {echo(part.name)} is not UTF-8") from error


def typed(body: Json, properties: Mapping[str, Json]) -> Json:
    """The body with numbers and booleans for the texts that are written so, by the fields' JSON Schemas.

    Other texts stay, and are refused by the check of the field. An empty text of a field that is no text is absent.
    """
    return {name: _value(value, _kinds(properties.get(name, {}))) for name, value in body.items()}


def _kinds(schema: Json) -> Sequence[str]:
    return [one.get("type", "") for one in schema.get("anyOf", ())]


def _value(value: Any, kinds: Sequence[str]) -> Any:
    if not isinstance(value, str) or "string" in kinds or not kinds:
        return value
    text = value.strip()
    if not text:
        return None
    if "boolean" in kinds:
        return WORDS.get(text, value)
    if "integer" in kinds and WHOLE.fullmatch(text):
        return int(text)
    return float(text) if NUMBER.fullmatch(text) else value
