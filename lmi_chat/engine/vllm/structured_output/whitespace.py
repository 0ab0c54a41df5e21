"""Write into a JSON Schema which whitespace its texts may have, by the options that llguidance reads there.

Without a bound a model may write blanks and newlines for as long as it has tokens, each of which fits the schema. And
llguidance's own pattern for whitespace is no bound: it may stand again behind itself. Its separators are regexes that
stand once. So one blank may follow each comma and colon, which is how most JSON is written, and none stands elsewhere.
"""

import json
import re

KEY = "x-guidance"
ONE_BLANK = "[ ]?"
REPEATED = re.compile(r"(?:\[(?:\\.|[^]\\])+\]|\\?.)[*+]")
"""A pattern of one class or character again and again, which may as well stand behind itself."""


def bounded(schema: str, pattern: str | None, *, is_compact: bool) -> str:
    """Write into a JSON Schema's text what whitespace may be.

    `pattern`: a regex, "" for none; None: one blank after commas and colons, or none where the deployment `is_compact`.
    What the schema says of it by itself stays.
    """
    options = _options("" if pattern is None and is_compact else pattern)
    if f'"{KEY}"' in schema:
        read = json.loads(schema)
        own = read.get(KEY, {})
        return json.dumps(read | {KEY: options | own if isinstance(own, dict) else own})
    inside = schema.strip()[1:-1].rstrip()
    return f'{{{inside}{"," if inside else ""}"{KEY}":{json.dumps(options)}}}'


def _options(pattern: str | None) -> dict[str, object]:
    if pattern is None:
        return _separated("", ONE_BLANK)
    if REPEATED.fullmatch(pattern):
        return {"whitespace_flexible": True, "whitespace_pattern": pattern}
    around = f"(?:{pattern})" if pattern else ""
    return _separated(around, around)


def _separated(before: str, after: str) -> dict[str, object]:
    return {
        "whitespace_flexible": False,
        "item_separator": f"{before},{after}",
        "key_separator": f"{before}:{after}",
    }
