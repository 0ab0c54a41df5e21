"""Read the schema, regex, choices or grammar that a text must fit: every spelling gives one OutputConstraint.

Shapes: OpenAI's `response_format`, vLLM's `structured_outputs` and its older `guided_*`, TGI's `grammar`, whose
spellings its clients put into `response_format`, too. Checked here is what can be seen without compiling; whether it
compiles in good time is the engine's side (its trials).
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from lmi_chat.codec import json_pointer, json_text
from lmi_chat.codec.json_text import Json
from lmi_chat.dialects.reader import BodyReader
from lmi_chat.errors import Error
from lmi_chat.job import ConstraintKind, OutputConstraint
from lmi_chat.limits import Limits
from lmi_chat.text import echo

GUIDED: Mapping[str, ConstraintKind] = {
    "guided_json": "json",
    "guided_regex": "regex",
    "guided_choice": "choice",
    "guided_grammar": "grammar",
}
OUTPUTS = ("json", "regex", "choice", "grammar", "json_object")
PATTERN, COMPACT = "whitespace_pattern", "disable_any_whitespace"
SCHEMA_PLACES = ("json_schema", "value", "schema")
FORMAT_KEYS = ("type", *SCHEMA_PLACES)
SCHEMA_KEYS = ("name", "description", "schema", "strict")
WRAPPING = ("name", "schema", "strict")
TGI = "grammar"
FORMATS = ("text", "json_object", "json_schema", "json", "regex")
TEXT_FORMATS = ("text", "json_object", "json_schema")
PROBLEM_ITEMS = 5


def read(body: Json, reader: BodyReader, *, has_grammar: bool = False) -> None:
    """Note the constraint of `body` among the sampling values; `has_grammar`: TGI's `grammar` is a spelling too."""
    if SOURCES.keys().isdisjoint(body):
        return  # nearly always
    for name, read_source in SOURCES.items():
        if body.get(name) is None or (name == TGI and not has_grammar):
            continue
        path = reader.prefix + name
        constraint = read_source(body[name], path, reader)
        if constraint is None:
            continue
        if reader.given.setdefault("constraint", constraint) != constraint:
            reader.add_problem(
                path, f"and {reader.paths['constraint']} ask for different forms of the text; send one of them"
            )
        reader.paths.setdefault("constraint", path)
    if (whitespace := _read_whitespace(body, reader)) is not None and "constraint" in reader.given:
        reader.given["constraint"] = replace(reader.given["constraint"], whitespace=whitespace)


def _read_whitespace(body: Json, reader: BodyReader) -> str | None:
    """The regex of the whitespace between the parts of JSON, "" for none; None: nothing is said of it."""
    guided: str | None = reader.get(f"guided_{PATTERN}")
    outputs = body.get("structured_outputs")
    if not isinstance(outputs, dict):
        return guided
    path, pattern, is_compact = f"{reader.prefix}structured_outputs.", outputs.get(PATTERN), outputs.get(COMPACT)
    most = reader.deployment.limits.max_regex_bytes
    if pattern is not None and not isinstance(pattern, str):
        reader.add_problem(path + PATTERN, f"must be a string, got {echo(pattern)}")
    elif pattern is not None and (size := len(pattern.encode())) > most:
        reader.add_problem(path + PATTERN, f"must be at most {most} bytes long, got {size}")
    if is_compact is not None and not isinstance(is_compact, bool):
        reader.add_problem(path + COMPACT, f"must be true or false, got {echo(is_compact)}")
    asked = {one for one in (guided, pattern, "" if is_compact is True else None) if isinstance(one, str)}
    if len(asked) > 1:
        reader.add_problem(
            path + (PATTERN if pattern is not None else COMPACT),
            "asks for other whitespace than another field; send one of them",
        )
    return asked.pop() if asked else None


def _read_format(value: object, path: str, reader: BodyReader) -> OutputConstraint | None:
    if not isinstance(value, dict):
        reader.add_problem(path, f'must be an object such as {{"type":"json_object"}}, got {echo(value)}')
        return None
    reader.check_keys(value, FORMAT_KEYS, path)
    places = [name for name in SCHEMA_PLACES if value.get(name) is not None]
    match value.get("type"):
        case "text":
            return None
        case "regex":
            return _check_text("regex", value.get("value"), f"{path}.value", reader)
        case "json_object" if not places:
            return OutputConstraint("json_object", "", path)
        case "json_object" | "json_schema" | "json" if len(places) > 1:
            reader.add_problem(path, f"must have one of {', '.join(SCHEMA_PLACES)}, got {' and '.join(places)}")
            return None
        case "json_object" | "json_schema" | "json" as kind:
            usual = "json_schema" if kind == "json_schema" and not path.endswith(TGI) else "value"
            place = places[0] if places else usual
            is_named = place == "json_schema" or _is_wrapper(value.get(place))
            read_schema = _read_named_schema if is_named else _check_schema
            return read_schema(value.get(place), f"{path}.{place}", reader)
        case other:
            reader.add_problem(f"{path}.type", f"must be one of {', '.join(FORMATS)}, got {echo(other)}")
            return None


def read_text_format(value: object, path: str, reader: BodyReader) -> None:
    """Note the constraint of a format whose name and schema stand in itself, as Responses have it."""
    if value is None:
        return
    if not isinstance(value, dict) or value.get("type") not in TEXT_FORMATS:
        kinds = ", ".join(TEXT_FORMATS)
        text = f'must be an object such as {{"type":"json_object"}}, of type {kinds}, got {echo(value)}'
        reader.add_problem(path, text)
        return
    inner = {name: one for name, one in value.items() if name != "type"}
    constraint: OutputConstraint | None = None
    if value["type"] == "json_schema":
        constraint = _read_named_schema(inner, path, reader)
    else:
        reader.check_keys(inner, (), path)
        if value["type"] == "json_object":
            constraint = OutputConstraint("json_object", "", path)
    if constraint is not None:
        reader.given["constraint"], reader.paths["constraint"] = constraint, path


def _is_wrapper(value: object) -> bool:
    """Whether this is an object around a JSON Schema; its keys mean nothing in a schema itself."""
    return isinstance(value, dict) and any(name in value for name in WRAPPING)


def _read_named_schema(value: object, path: str, reader: BodyReader) -> OutputConstraint | None:
    """OpenAI's {name, schema, strict}; `strict` changes nothing, the text always fits the schema."""
    if not isinstance(value, dict):
        reader.add_problem(path, f"must be an object with name and schema, got {echo(value)}")
        return None
    reader.check_keys(value, SCHEMA_KEYS, path)
    for name, kind, words in (("name", str, "a string"), ("description", str, "a string"), ("strict", bool, "boolean")):
        if value.get(name) is not None and not isinstance(value[name], kind):
            reader.add_problem(f"{path}.{name}", f"must be {words}, got {echo(value[name])}")
    return _check_schema(value.get("schema"), f"{path}.schema", reader)


def _read_outputs(value: object, path: str, reader: BodyReader) -> OutputConstraint | None:
    if not isinstance(value, dict):
        reader.add_problem(path, f"must be an object with one of {', '.join(OUTPUTS)}, got {echo(value)}")
        return None
    reader.check_keys(value, (*OUTPUTS, PATTERN, COMPACT), path)
    named = [name for name in OUTPUTS if value.get(name) is not None]
    if len(named) > 1:
        reader.add_problem(path, f"must have one of {', '.join(OUTPUTS)}, got {' and '.join(named)}")
        return None
    if not named:
        return None
    return _reader(named[0])(value[named[0]], f"{path}.{named[0]}", reader)  # type: ignore[arg-type]


def _reader(kind: ConstraintKind) -> Callable[[object, str, BodyReader], OutputConstraint | None]:
    def read_kind(value: object, path: str, reader: BodyReader) -> OutputConstraint | None:
        match kind:
            case "json":
                return _check_schema(value, path, reader)
            case "choice":
                return _check_choices(value, path, reader)
            case "json_object":
                return _check_flag(value, path, reader)
            case _:
                return _check_text(kind, value, path, reader)

    return read_kind


def _check_flag(value: object, path: str, reader: BodyReader) -> OutputConstraint | None:
    if not isinstance(value, bool):
        reader.add_problem(path, f"must be true or false, got {echo(value)}")
    return OutputConstraint("json_object", "", path) if value is True else None


def _check_text(kind: ConstraintKind, value: object, path: str, reader: BodyReader) -> OutputConstraint | None:
    most = reader.deployment.limits.max_regex_bytes if kind == "regex" else reader.deployment.limits.max_grammar_bytes
    if not isinstance(value, str) or not value.strip():
        reader.add_problem(path, f"must be a string that is not empty, got {echo(value)}")
    elif (size := len(value.encode())) > most:
        reader.add_problem(path, f"must be at most {most} bytes long, got {size}")
    elif "\0" in value:
        reader.add_problem(path, "must not hold U+0000")
    else:
        return OutputConstraint(kind, value, path)
    return None


def _check_choices(value: object, path: str, reader: BodyReader) -> OutputConstraint | None:
    limits = reader.deployment.limits
    if not isinstance(value, list) or not 1 <= len(value) <= limits.max_choices:
        text = f"must be an array of at least 1 and at most {limits.max_choices} strings, got {echo(value)}"
        reader.add_problem(path, text)
        return None
    before = len(reader.problems)
    for index, choice in enumerate(value):
        if len(reader.problems) - before >= PROBLEM_ITEMS:
            break
        if not isinstance(choice, str) or not choice or "\0" in choice:
            reader.add_problem(
                f"{path}[{index}]", f"must be a string that is not empty, without U+0000, got {echo(choice)}"
            )
        elif (size := len(choice.encode())) > limits.max_choice_bytes:
            reader.add_problem(f"{path}[{index}]", f"must be at most {limits.max_choice_bytes} bytes long, got {size}")
    if len(reader.problems) > before:
        return None
    # they become one grammar
    if (size := sum(len(choice.encode()) for choice in value)) > limits.max_grammar_bytes:
        reader.add_problem(path, f"must be at most {limits.max_grammar_bytes} bytes in all, got {size}")
        return None
    return OutputConstraint("choice", tuple(value), path)


def _check_schema(value: object, path: str, reader: BodyReader) -> OutputConstraint | None:
    """A JSON Schema, as an object or as its text. The constraint holds its text, properties in the caller's order."""
    if isinstance(value, str):
        value = _parse_schema(value, path, reader)
        if value is None:
            return None
    if not isinstance(value, dict):
        reader.add_problem(path, f"must be a JSON Schema (an object), got {echo(value)}")
        return None
    text = check_limits(value, path, reader)
    return None if text is None else OutputConstraint("json", text, path)


def check_limits(schema: Json, path: str, reader: BodyReader) -> str | None:
    """The text of a JSON Schema; None for one that is too large, too deep or has a bad reference, which is noted."""
    limits = reader.deployment.limits
    text = json_text.dump(schema)
    if len(text) > limits.max_schema_bytes:
        reader.add_problem(path, f"must be at most {limits.max_schema_bytes} bytes of JSON, got {len(text)}")
        return None
    if problem := _bad_size(schema, limits) or _bad_reference(schema):
        reader.add_problem(path, problem)
        return None
    return text.decode()


def _parse_schema(text: str, path: str, reader: BodyReader) -> Json | None:
    most = reader.deployment.limits.max_schema_bytes
    data = text.encode()
    if len(data) > most:
        reader.add_problem(path, f"must be at most {most} bytes of JSON, got {len(data)}")
        return None
    try:
        return json_text.read(data, depth=reader.deployment.limits.max_json_depth)
    except Error as error:
        reader.add_problem(path, f"must be a JSON Schema or its text: {error.message}")
        return None


def _bad_size(schema: Json, limits: Limits) -> str:
    """What is too deep or too much in it; level by level, so nothing recurses."""
    level: list[Any] = [schema]
    values = depth = 0
    while level:
        depth += 1
        if depth > limits.max_schema_depth:
            return f"must nest at most {limits.max_schema_depth} deep"
        values += sum(len(node["enum"]) for node in level if isinstance(node, dict) and _is_list(node.get("enum")))
        if values > limits.max_schema_enum:
            return f"must have at most {limits.max_schema_enum} enum values in all, got at least {values}"
        level = [child for node in level for child in _children(node) if isinstance(child, dict | list)]
    return ""


def _is_list(value: object) -> bool:
    return isinstance(value, list)


def _children(node: Any) -> Any:
    return node.values() if isinstance(node, dict) else node


def _bad_reference(schema: Json) -> str:
    """A `$ref` that leaves the schema, points at nothing, or leads to itself by references alone."""
    ends_well: set[str] = set()  # so that each link of a long chain is followed once
    for reference in _references(schema):
        node: Any = {"$ref": reference}
        seen: set[str] = set()
        while isinstance(node, dict) and isinstance(pointer := node.get("$ref"), str) and pointer not in ends_well:
            if pointer != "#" and not pointer.startswith("#/"):
                return f"has $ref {echo(pointer)}; only references inside the schema (#/…) are followed"
            if pointer in seen:
                return f"has $ref {echo(reference)}, which refers to itself in a circle and describes nothing"
            seen.add(pointer)
            node = json_pointer.resolve(schema, pointer)
            if node is None:
                return f"has $ref {echo(pointer)}, which points at nothing"
        ends_well |= seen
    return ""


def _references(schema: Json) -> Iterator[str]:
    waiting: list[Any] = [schema]
    found: set[str] = set()
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict) and isinstance(pointer := node.get("$ref"), str) and pointer not in found:
            found.add(pointer)
            yield pointer
        waiting += [child for child in _children(node) if isinstance(child, dict | list)]


SOURCES: Mapping[str, Callable[[object, str, BodyReader], OutputConstraint | None]] = {
    "response_format": _read_format,
    "structured_outputs": _read_outputs,
    **{name: _reader(kind) for name, kind in GUIDED.items()},
    TGI: _read_format,
}
"""The fields that say what the text must fit, and who reads each."""
