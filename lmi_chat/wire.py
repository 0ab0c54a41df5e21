"""Bytes → checked object, object → bytes that cannot fail. JSON (RFC 8259) only; no field names live here.

Duplicate keys: the last one wins, as in every peer. U+0000 in a string is text like any other.
"""

import json
import re
from collections.abc import Iterator, Mapping
from typing import Any, NoReturn

import msgspec
import orjson

from lmi_chat.errors import BadEncoding, BadField, BadJson, Error, Problem, echo

DEPTH = 64
BRACKETS = 100_000
SURROGATE = re.compile("[\ud800-\udfff]")

Json = dict[str, Any]


class _OutOfRange(str):
    """A number literal that JSON's grammar or a double cannot hold, kept as it was written."""

    __slots__ = ()


def read(
    body: bytes, *, depth: int = DEPTH, brackets: int = BRACKETS, lengths: Mapping[str, int] | None = None
) -> Json:
    """Parse a body into an object.

    `depth` bounds nesting, `brackets` the number of arrays and objects (a million tiny ones cost seconds to build);
    where that is exceeded, `lengths` gives the bounds of single arrays to name.
    Raises BadJson (syntax, with the offset in bytes; not an object; too deep; too many), BadEncoding, or BadField for
    a lone surrogate, NaN, Infinity or a number too large, naming the field.
    """
    count = body.count(b"{") + body.count(b"[")
    if count > brackets:
        raise _too_many(body, count, brackets, depth, lengths or {})
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        _explain(body, error, depth)
    if not isinstance(value, dict):
        raise BadJson(f"the body must be a JSON object, got {echo(value)}")
    if count > depth and _is_deeper(value, depth):
        raise BadJson(f"the body nests deeper than {depth} levels")
    return value


def dump(value: object) -> bytes:
    """Render to compact UTF-8 JSON; NaN and infinities become null, lone surrogates become their escapes as text."""
    try:
        return orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS)
    except TypeError:
        return orjson.dumps(_clean(value), option=orjson.OPT_NON_STR_KEYS)


def _clean(value: object) -> object:
    match value:
        case str():
            return value.encode("utf-8", "backslashreplace").decode()
        case dict():
            return {str(_clean(key)): _clean(item) for key, item in value.items()}
        case list() | tuple():
            return [_clean(item) for item in value]
        case int() if value.bit_length() > 63:
            return float(value) if value.bit_length() < 1000 else None
        case _:
            return value


def _is_deeper(value: object, depth: int) -> bool:
    level = [value]
    for _ in range(depth):
        level = [
            child
            for node in level
            for child in (node.values() if isinstance(node, dict) else node)  # type: ignore[attr-defined]
            if isinstance(child, dict | list)
        ]
        if not level:
            return False
    return True


def _too_many(body: bytes, count: int, brackets: int, depth: int, lengths: Mapping[str, int]) -> Error:
    """Name the field that holds most of the structure, without building its values."""
    try:
        fields = msgspec.json.decode(body, type=dict[str, msgspec.Raw])
        name = max(fields, key=lambda key: len(memoryview(fields[key])))
        items = len(msgspec.json.decode(fields[name], type=list[msgspec.Raw]))
    except RecursionError:
        return BadJson(f"the body nests deeper than {depth} levels")
    except (msgspec.DecodeError, ValueError):
        return BadJson(f"the body opens {count} arrays and objects; at most {brackets} are read")
    if items > lengths.get(name, items):
        return BadField([Problem(name, f"{name} must have at most {lengths[name]} items, got {items}")])
    text = f"{name} has {items} items and most of the body's {count} arrays and objects; at most {brackets} are read"
    return BadField([Problem(name, text)])


def _explain(body: bytes, error: orjson.JSONDecodeError, depth: int) -> NoReturn:
    """Turn a parser's refusal into the caller's words: encoding, depth, a field's value, or syntax at an offset."""
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as wrong:
        raise BadEncoding(f"the body is not UTF-8: byte {wrong.start} does not belong there") from None
    if text.startswith("\ufeff"):
        raise BadEncoding("the body begins with a byte order mark; send UTF-8 without one")
    if "depth limit" in str(error):
        raise BadJson(f"the body nests deeper than {depth} levels")
    problems = list(_bad_values(text))
    if problems:
        raise BadField(problems)
    offset = len(text[: error.pos].encode("utf-8"))
    what = "the body is empty" if not body else f"the body is not JSON: {error.msg} at byte {offset}"
    raise BadJson(what)


def _bad_values(text: str) -> Iterator[Problem]:
    try:
        value = json.loads(
            text,
            parse_constant=_OutOfRange,
            parse_int=lambda digits: int(digits) if len(digits) < 300 else _OutOfRange(digits),
            parse_float=_parse_float,
        )
    except (ValueError, RecursionError):
        return
    stack: list[tuple[str, object]] = [("", value)]
    while stack:
        path, node = stack.pop()
        match node:
            case _OutOfRange():
                yield Problem(path, f"{path or 'the body'} must be a finite number, got {str(node)[:40]}")
            case str() if SURROGATE.search(node):
                yield Problem(path, f"{path or 'the body'} has a lone surrogate, which is no text: {echo(node)}")
            case dict():
                stack += [(f"{path}.{key}" if path else key, item) for key, item in reversed(node.items())]
                if any(SURROGATE.search(key) for key in node):
                    yield Problem(path, f"a key of {path or 'the body'} has a lone surrogate, which is no text")
            case list():
                stack += [(f"{path}[{index}]", item) for index, item in reversed(list(enumerate(node)))]


def _parse_float(digits: str) -> float | _OutOfRange:
    number = float(digits)
    return _OutOfRange(digits) if number in {float("inf"), float("-inf")} else number


def text(body: bytes) -> str:
    """A plain text body. Raises BadEncoding."""
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as wrong:
        raise BadEncoding(f"the body is not UTF-8: byte {wrong.start} does not belong there") from None
