"""Read a field's JSON Schema as a test asks it: kind of value, bounds, words."""

from dataclasses import dataclass
from typing import Any

from lmi_chat.codec.json_text import Json
from lmi_chat.dialects.body import BIAS, IDS, STRINGS

KINDS = {STRINGS: "strings", IDS: "token ids", BIAS: "bias"}


@dataclass(frozen=True, kw_only=True)
class Bounds:
    """`words`: of a field that has no other values. `kind` "structure": what has an inside of its own."""

    kind: str
    low: float | None = None
    high: float | None = None
    is_above_low: bool = False
    default: object = None
    words: tuple[Any, ...] = ()


def bounds(row: Json) -> Bounds:
    """Of one field."""
    if "enum" in row:
        return Bounds(kind="refused", words=tuple(row["enum"]))
    shapes = row.get("anyOf")
    if shapes is None or row.get("title", STRINGS) not in KINDS:  # checked by its dialect
        return Bounds(kind="structure")
    if "enum" in shapes[0]:
        return Bounds(kind="word", words=tuple(shapes[0]["enum"]))
    kind = KINDS.get(row.get("title", ""), shapes[0]["type"])
    shape = shapes[1] if kind == "strings" else shapes[0]
    if kind == "bias":
        [shape] = shape["patternProperties"].values()
    lows = [shape[name] for name in ("minimum", "exclusiveMinimum", "minLength", "minItems") if name in shape]
    highs = [shape[name] for name in ("maximum", "maxLength", "maxItems") if name in shape]
    return Bounds(
        kind=kind,
        low=next(iter(lows), None),
        high=next(iter(highs), None),
        is_above_low="exclusiveMinimum" in shape,
        default=row.get("default"),
    )
