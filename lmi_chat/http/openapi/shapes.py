"""Build pieces of JSON Schema (draft 2020-12), for requests and answers."""

from collections.abc import Iterable, Mapping

from lmi_chat.codec.json_text import Json

TEXT: Json = {"type": "string"}
INTEGER: Json = {"type": "integer"}
COUNT: Json = {"type": "integer", "minimum": 0}
NUMBER: Json = {"type": "number"}
BOOLEAN: Json = {"type": "boolean"}


def record(properties: Json, required: Iterable[str] = (), *, is_closed: bool = False) -> Json:
    """An object; `is_closed`: of these keys alone."""
    shown: Json = {"type": "object", "properties": properties}
    if required:
        shown["required"] = list(required)
    return shown | ({"additionalProperties": False} if is_closed else {})


def answer(properties: Json, optional: Iterable[str] = ()) -> Json:
    """An object of an answer: all keys are there but the `optional` ones."""
    return record(properties, [name for name in properties if name not in set(optional)])


def array(items: Json) -> Json:
    """An array of any length."""
    return {"type": "array", "items": items}


def nullable(schema: Json) -> Json:
    """The same, or null."""
    return schema | {"type": [schema["type"], "null"]}


def ref(name: str) -> Json:
    """A schema of the components."""
    return {"$ref": f"#/components/schemas/{name}"}


def one_of(*names: str) -> Json:
    """One of several schemas of the components."""
    return ref(names[0]) if len(names) == 1 else {"anyOf": [ref(name) for name in names]}


def if_then(given: Mapping[str, Json], then: Json, *, is_given: bool = False) -> Json:
    """Where the keys of `given` are there and fit, the keys of `then` fit too; `is_given`: and are there."""
    wanted = {"properties": then} | ({"required": list(then)} if is_given else {})
    return {"if": {"properties": dict(given), "required": list(given)}, "then": wanted}


def at_most_one(schemas: Mapping[str, Json]) -> list[Json]:
    """Objects with one of these keys; the others are absent or null."""
    null: Json = {"type": "null"}
    return [
        {"properties": {key: schema if key == name else null for key in schemas}} for name, schema in schemas.items()
    ]
