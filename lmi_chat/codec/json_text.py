"""Parse JSON (RFC 8259) into checked objects, and write objects as JSON that never fails; no field names live here.

Duplicate keys: the last one wins, as in every peer. U+0000 in a string is text like any other.
"""

import codecs
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, NoReturn

import orjson

from lmi_chat.errors import PROBLEMS_SHOWN, BadEncoding, BadField, BadJson, Error, Problem
from lmi_chat.text import echo, one_line

DEPTH = 64
BRACKETS = 100_000
VALUES = 2**19
KEY_VALUES = 8
"""What a key costs to read, in values."""
DUMP_DEPTH = 200
KEY_BYTES = 40
NUMBER_CHARS = 300
DOUBLE_BITS = 1000
SURROGATE = re.compile("[\ud800-\udfff]")
EXPLAINED_BYTES = 2**20
STRING = rb'"[^"\\]*+(?:\\.[^"\\]*+)*+"'
LINE_ENDS = [(end.encode(), b"\\u%04x" % ord(end)) for end in "\x85\u2028\u2029"]
COUNTED = 100_000
IN_BODY, IN_FIELD, COMMA = 1, 2, ord(",")
MARK = re.compile(rb'[^"\[\]{},]*+(?:' + STRING + rb'[^"\[\]{},]*+)*+[\[\]{},]', re.DOTALL)
KEY = re.compile(rb'\s*+"([^"\\]*+)"')
SEPARATOR = re.compile(rb'[^",:]*+(?:' + STRING + rb'[^",:]*+)*+[,:]', re.DOTALL)
BRACKET = re.compile(rb'[^"\[\]{}]*+(?:' + STRING + rb'[^"\[\]{}]*+)*+[\[\]{}]', re.DOTALL)

Json = dict[str, Any]


class _OutOfRange(str):
    """A number literal that JSON's grammar or a double cannot hold, kept as it was written."""

    __slots__ = ()


def read(
    body: bytes,
    *,
    depth: int = DEPTH,
    brackets: int = BRACKETS,
    values: int = VALUES,
    lengths: Mapping[str, int] | None = None,
) -> Json:
    """Parse a body into an object.

    `depth` bounds nesting, `brackets` the number of arrays and objects (a million tiny ones cost seconds to build), and
    `values` that of numbers, strings and others, a key counted as KEY_VALUES: nobody else has the interpreter while
    they are read. Where one is exceeded, `lengths` gives the bounds of single arrays to name.
    Raises BadJson (syntax, with the offset in bytes; not an object; too deep; too many), BadEncoding, or BadField for
    a lone surrogate, NaN, Infinity or a number too large, naming the field.
    """
    if body.count(b"{") + body.count(b"[") > min(depth, brackets):
        _check_structure(body, depth, brackets, lengths or {})
    if len(body) * KEY_VALUES > values and body.count(b",") + KEY_VALUES * body.count(b":") > values:
        _check_values(body, values, lengths or {})
    try:
        value = orjson.loads(body)
    except orjson.JSONDecodeError as error:
        _explain(body, error, depth)
    if not isinstance(value, dict):
        raise BadJson(f"the body must be a JSON object, got {echo(value)}")
    return value


def dump(value: object) -> bytes:
    """Render to compact UTF-8 JSON.

    NaN and infinities become null, lone surrogates their escapes as text, objects of other types text, and what nests
    deeper than DUMP_DEPTH null. No line reader finds the end of a line in it.
    """
    try:
        return escape_line_ends(orjson.dumps(value, option=orjson.OPT_NON_STR_KEYS))
    except TypeError:
        return escape_line_ends(orjson.dumps(_clean(value), option=orjson.OPT_NON_STR_KEYS))


def escape_line_ends(text: bytes) -> bytes:
    """Escape in a JSON text what JSON lets stand in a string and line readers (str.splitlines) take for a line's end.

    The others, U+000A to U+000D and U+001C to U+001E, are control characters, which JSON always escapes.
    """
    if text.isascii():
        return text
    for raw, escaped in LINE_ENDS:
        text = text.replace(raw, escaped)
    return text


class Array:
    """A JSON array that is written item by item, so that no step has to write thousands."""

    __slots__ = ("_parts",)

    def __init__(self) -> None:
        """Begin empty."""
        self._parts: list[bytes] = []

    @property
    def has_any(self) -> bool:
        """Whether it has an item."""
        return bool(self._parts)

    def add(self, items: Sequence[object]) -> int:
        """Write the next items; returns how many bytes they take."""
        if not items:
            return 0
        self._parts.append(dump(items)[1:-1])
        return len(self._parts[-1]) + 1

    def written(self) -> bytes:
        """All of it."""
        if not self._parts:
            return b"[]"
        first, last = b"[" + self._parts[0], b"]"
        if len(self._parts) == 1:
            return first + last
        return b",".join((first, *self._parts[1:-1], self._parts[-1] + last))


def fill(text: bytes, empty: bytes, values: Sequence[bytes]) -> bytes:
    """Put `values`, JSON texts that are dumped already, into `text` where it has `empty`, a key with null, [] or {}.

    That is done by bytes: a string cannot hold `empty`, whose quotes it would escape.
    """
    first, *others = text.split(empty)
    key = empty[: empty.rindex(b":") + 1]
    parts = [first]
    for value, other in zip(values, others, strict=True):
        parts += (key, value, other)
    return b"".join(parts)


def number(value: float) -> bytes:
    """Write one finite number: in a hot path, without a look for what `dump` escapes."""
    return orjson.dumps(value)


def unescape(spelled: bytes) -> str:
    """Decode the characters between the quotes of a JSON string."""
    return str(orjson.loads(b'"%b"' % spelled))


def floats(values: bytes, rows: int | None = None) -> bytes:
    """Write finite little-endian float32 numbers as a JSON array, each in the fewest digits that give it back.

    With `rows` they are an array of so many arrays.
    """
    import numpy as np  # here so that the wire runs in tests without it

    numbers = np.frombuffer(values, "<f4")
    shown = numbers if rows is None else numbers.reshape(rows, -1)
    return orjson.dumps(shown, option=orjson.OPT_SERIALIZE_NUMPY)


def _clean(value: object, room: int = DUMP_DEPTH) -> object:
    match value:
        case dict() | list() | tuple() if not room:
            return None
        case dict():
            return {str(_clean(key)): _clean(item, room - 1) for key, item in value.items()}
        case list() | tuple():
            return [_clean(item, room - 1) for item in value]
        case int() if not -(2**63) <= value < 2**64:
            return float(value) if value.bit_length() < DOUBLE_BITS else None
        case None | int() | float():
            return value
        case _:
            return str(value).encode("utf-8", "backslashreplace").decode()


def _check_structure(body: bytes, depth: int, brackets: int, lengths: Mapping[str, int]) -> None:
    """Follow the brackets outside strings, before anything is built. Raises BadJson, BadField."""
    level = opened = at = 0
    while bracket := BRACKET.match(body, at):
        at = bracket.end()
        if body[at - 1] in b"]}":
            level -= 1
            if level <= 0:
                return
            continue
        level, opened = level + 1, opened + 1
        if level > depth:
            raise BadJson(f"the body nests deeper than {depth} levels")
        if opened > brackets:
            raise _too_many(body, f"more than {brackets} arrays and objects", at, lengths)


def _check_values(body: bytes, values: int, lengths: Mapping[str, int]) -> None:
    """Count commas and colons outside strings, before anything is built. Raises BadJson, BadField."""
    count = at = 0
    while separator := SEPARATOR.match(body, at):
        at = separator.end()
        count += 1 if body[at - 1] == COMMA else KEY_VALUES
        if count > values:
            what = f"more than {values} values (option.max_json_values; a key counts as {KEY_VALUES})"
            raise _too_many(body, what, at, lengths)


def _too_many(body: bytes, what: str, at: int, lengths: Mapping[str, int]) -> Error:
    """Name the field that `at` stands in, without building its values; the body has `what`."""
    name, items = _field_at(body, at)
    if not items:
        return BadJson(f"the body has {what}")
    count = str(items) if items <= COUNTED else f"more than {COUNTED}"
    if items > lengths.get(name, items):
        return BadField([Problem(name, f"{name} must have at most {lengths[name]} items, got {count}")])
    name = one_line(name, KEY_BYTES)
    return BadField([Problem(name, f"{name} has {count} items; the body has {what}")])


def _field_at(body: bytes, at: int) -> tuple[str, int]:
    """The field of an object that `at` stands in, if it is an array, and its items, counted to COUNTED + 1; else 0."""
    level = end = items = 0
    name, is_array = "", False
    while items <= COUNTED and (mark := MARK.match(body, end)):
        end = mark.end()
        match body[end - 1 : end]:
            case b"[" | b"{" as opened:
                level += 1
                if level == IN_FIELD:
                    is_array, items = opened == b"[", 1
            case b"]" | b"}":
                level -= 1
                if end >= at and level < IN_FIELD:
                    break
            case _:
                items += level == IN_FIELD
        if level == IN_BODY and (key := KEY.match(body, end)):
            if end >= at:
                break
            name, is_array = key[1].decode("utf-8", "replace"), False
    return (name, items) if is_array else ("", 0)


def _explain(body: bytes, error: orjson.JSONDecodeError, depth: int) -> NoReturn:
    """Explain a parser's refusal to the caller: encoding, depth, a field's value, or syntax at an offset.

    Bodies above EXPLAINED_BYTES get the offset alone: finding the field would take seconds.
    """
    decoded = text(body)
    if decoded[1:2] == "\0" or decoded.startswith("\0"):
        raise BadEncoding("the body is not UTF-8 but looks like UTF-16 or UTF-32")
    if "depth limit" in str(error):
        raise BadJson(f"the body nests deeper than {depth} levels")
    problems = list(islice(_bad_values(decoded), PROBLEMS_SHOWN)) if len(body) <= EXPLAINED_BYTES else []
    if problems:
        raise BadField(problems)
    offset = len(decoded[: error.pos].encode("utf-8"))
    what = "the body is empty" if not body else f"the body is not JSON: {error.msg} at byte {offset}"
    raise BadJson(what)


def _bad_values(decoded: str) -> Iterator[Problem]:
    try:
        value = json.loads(
            decoded,
            parse_constant=_OutOfRange,
            parse_int=lambda digits: int(digits) if len(digits) < NUMBER_CHARS else _OutOfRange(digits),
            parse_float=_parse_float,
        )
    except (ValueError, RecursionError):
        return
    levels: list[Iterator[tuple[str, object]]] = [iter([("", value)])]
    while levels:
        for path, node in levels[-1]:
            if fault := _fault(node, path or "the body"):
                yield Problem(path, fault)
            if isinstance(node, dict | list):
                levels.append(_children(node, path))
                break
        else:
            levels.pop()


def _fault(node: object, path: str) -> str:
    match node:
        case _OutOfRange():
            return f"{path} must be a finite number, got {str(node)[:40]}"
        case str() if SURROGATE.search(node):
            return f"{path} has a lone surrogate, which is no text: {echo(node)}"
        case dict() if any(SURROGATE.search(key) for key in node):
            return f"a key of {path} has a lone surrogate, which is no text"
        case _:
            return ""


def _children(node: dict[str, object] | list[object], path: str) -> Iterator[tuple[str, object]]:
    if isinstance(node, list):
        yield from ((f"{path}[{index}]", item) for index, item in enumerate(node))
        return
    for key, item in node.items():
        name = one_line(key, KEY_BYTES)
        yield f"{path}.{name}" if path else name, item


def _parse_float(digits: str) -> float | _OutOfRange:
    number = float(digits)
    return _OutOfRange(digits) if number in {float("inf"), float("-inf")} else number


def text(body: bytes) -> str:
    """Decode a plain text body. Raises BadEncoding."""
    if body.startswith(codecs.BOM_UTF8):
        raise BadEncoding("the body begins with a byte order mark; send UTF-8 without one")
    try:
        return body.decode("utf-8")
    except UnicodeDecodeError as wrong:
        raise BadEncoding(f"the body is not UTF-8: byte {wrong.start} does not belong there") from None
