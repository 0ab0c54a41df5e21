"""Write docs/fields.md's table, in Markdown: a row per field, and a further one where a dialect has it otherwise."""

import json
from typing import Any

from lmi_chat.codec.json_text import Json
from lmi_chat.dialects import DIALECTS
from lmi_chat.dialects.body import BIAS, IDS, STRINGS, AtMost, OpenAI, checkers, marks_of
from lmi_chat.limits import Limits

UNITS = {
    STRINGS: " of at most `max_stop_chars` characters",
    IDS: " ids",
    BIAS: ", at most `max_logit_bias` tokens",
}


def table() -> str:
    """The table, with the names of limits for their values."""
    rows: dict[str, dict[str, None]] = {}
    for dialect in DIALECTS.values():
        for body in dialect.bodies:
            for name, row in sorted(checkers(Limits())[body].properties.items(), key=_is_shared):
                default = f"`{json.dumps(row['default'])}`" if "default" in row else ""
                meaning = ("400: " if "enum" in row else "") + row["description"]
                cells = (f"`{name}`", _type(row), _bounds(row, marks_of(body)[name]), default, meaning)
                rows.setdefault(" | ".join(cells), {})[dialect.name] = None
    lines = ["| field | type | bounds | default | meaning | dialects |", "|---|---|---|---|---|---|"]
    return "\n".join([*lines, *(f"| {cells} | {', '.join(names)} |" for cells, names in rows.items())])


def _is_shared(item: tuple[str, Json]) -> bool:
    """A dialect's own fields stand first."""
    return item[0] in OpenAI.__annotations__


def _type(row: Json) -> str:
    if "enum" in row:
        return ", ".join(["null", *(f"`{json.dumps(value)}`" for value in row["enum"][1:])])
    shape = row.get("anyOf", [row])[0]
    if "enum" in shape:
        return " · ".join(f"`{word}`" for word in shape["enum"])
    shown: str = row.get("title") or {"boolean": "true or false"}.get(shape["type"], shape["type"])
    return shown


def _bounds(row: Json, marks: tuple[Any, ...]) -> str:
    kind = row.get("title", "")
    shape = row.get("anyOf", [{}])[0] | row
    if kind == BIAS:
        shape = next(iter(shape["patternProperties"].values()))
    named = next((mark.high for mark in marks if isinstance(mark, AtMost) and kind != BIAS), None)
    high = f"`{named}`" if isinstance(named, str) else named or shape.get("maximum", shape.get("maxLength"))
    if high is None:
        return ""
    lows = [shape[name] for name in ("minimum", "minLength", "minItems") if name in shape and kind != STRINGS]
    above = shape.get("exclusiveMinimum")
    low = f"{lows[0]} to " if lows else "at most " if above is None else f"above {above}, to "
    return f"{low}{high}{UNITS.get(kind, ' characters' if 'maxLength' in shape else '')}"
