"""Make random JSON Schemas of objects, by a seeded generator: what tools describe their arguments with."""

import random
from collections.abc import Callable
from typing import Any

NAMES = ("city", "größe", "день", "a b", "x_1", "数", 'q"', "é\\")
FLAT_NAMES = ("city", "größe", "x_1", "数", "n2")
PATTERNS = ("^a+$", "^[a-z]{2,4}$", "[0-9]{3}", "^(red|green)$", "^x.*y$")
VALUES = ("red", "grün", "", 'a"b', "\\n", 0, -7, 2.5, True, False, None)
DEEP = 3
Maker = Callable[[random.Random, int], dict[str, Any]]


def random_schema(chance: random.Random, *, is_flat: bool = False) -> dict[str, Any]:
    """Make the schema of an object. `is_flat`: for parsers whose arguments are tags, whose names are plain."""
    schema = _object(chance, 0, FLAT_NAMES if is_flat else NAMES)
    if chance.random() < 0.3:
        schema["$defs"] = {"node": _object(chance, DEEP - 1, FLAT_NAMES)}
        schema["properties"]["node"] = {"$ref": "#/$defs/node"}
        if chance.random() < 0.5:
            schema["$defs"]["node"]["properties"]["next"] = {"$ref": "#/$defs/node"}
    return schema


def _object(chance: random.Random, depth: int, names: tuple[str, ...]) -> dict[str, Any]:
    chosen = chance.sample(names, chance.randrange(5))
    properties = {name: _any(chance, depth + 1) for name in chosen}
    required = [name for name in chosen if chance.random() < 0.6]
    schema: dict[str, Any] = {"type": "object", "properties": properties, "required": required}
    if chance.random() < 0.7:
        schema["additionalProperties"] = False
    return schema


def _any(chance: random.Random, depth: int) -> dict[str, Any]:
    kinds: list[Maker] = [_string, _integer, _number, _fixed, _plain]
    if depth < DEEP:
        kinds += [_array, _union, lambda chance, depth: _object(chance, depth, NAMES)]
    return chance.choice(kinds)(chance, depth)


def _string(chance: random.Random, _: int) -> dict[str, Any]:
    match chance.randrange(4):
        case 0:
            return {"type": "string", "pattern": chance.choice(PATTERNS)}
        case 1:
            least = chance.randrange(4)
            return {"type": "string", "minLength": least, "maxLength": least + chance.randrange(6)}
        case 2:
            return {"type": "string", "description": "a text / with ::= and }"}
    return {"type": "string"}


def _integer(chance: random.Random, _: int) -> dict[str, Any]:
    least = chance.randrange(-500, 500)
    return {"type": "integer", "minimum": least, "maximum": least + chance.randrange(1000)}


def _number(chance: random.Random, _: int) -> dict[str, Any]:
    least = chance.randrange(-50, 50) / 4 + 0.125  # no bound is 0: llguidance takes -0 for less than that
    return {"type": "number", "minimum": least, "exclusiveMaximum": least + 0.5 + chance.randrange(90)}


def _fixed(chance: random.Random, _: int) -> dict[str, Any]:
    if chance.random() < 0.3:
        return {"const": chance.choice(VALUES)}
    return {"enum": chance.sample(("red", "grün", "blue", "c d"), 1 + chance.randrange(3))}


def _plain(chance: random.Random, _: int) -> dict[str, Any]:
    return {"type": chance.choice(("boolean", "null", "integer", ["string", "null"], ["integer", "null"]))}


def _array(chance: random.Random, depth: int) -> dict[str, Any]:
    least = chance.randrange(3)
    return {"type": "array", "items": _any(chance, depth + 1), "minItems": least, "maxItems": least + 2}


def _union(chance: random.Random, depth: int) -> dict[str, Any]:
    return {"anyOf": [_integer(chance, depth), {"type": "boolean"}, _array(chance, depth)]}
