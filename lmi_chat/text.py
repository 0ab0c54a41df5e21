"""Write foreign text and values into one short line; find the known name that a foreign one may be meant for."""

from collections.abc import Iterable
from difflib import get_close_matches
from itertools import accumulate

MESSAGE_BYTES = 1400  # with `param` and the rest of its body, an error stays below 2 KiB
ECHO_CHARS = 40
ECHO_BITS = 256
CONTROL = {code: f"\\x{code:02x}" for code in (*range(0x20), *range(0x7F, 0xA0))}


def one_line(text: str, limit: int = MESSAGE_BYTES) -> str:
    """Put `text` on one line, encodable and free of control characters (DJL puts it into the HTTP status line).

    `limit` is in bytes as JSON writes them: UTF-8, with a backslash before quotes and backslashes.
    """
    flat = " ".join(text[: limit * 2].split()).translate(CONTROL).encode("utf-8", "backslashreplace").decode()
    sizes = [2 if character in '"\\' else len(character.encode()) for character in flat]
    if sum(sizes) <= limit:
        return flat
    cut = next(index for index, total in enumerate(accumulate(sizes)) if total > limit - len("…".encode()))
    return flat[:cut] + "…"


def echo(value: object) -> str:
    """Write the caller's value as an error may repeat it: short, on one line, as JSON."""
    match value:
        case None:
            return "null"
        case bool():
            return "true" if value else "false"
        case str():
            return '"' + one_line(value if len(value) <= ECHO_CHARS else value[:ECHO_CHARS] + "…") + '"'
        case int():
            return str(value) if value.bit_length() <= ECHO_BITS else "a number of " + str(value.bit_length()) + " bits"
        case float():
            return repr(value)
        case list():
            return f"an array of {len(value)} items"
        case dict():
            return "an object"
        case _:
            return "a value of another type"


def nearest(name: str, known: Iterable[str], likeness: float = 0.6) -> str:
    """The known name most like `name`, or "" when none is near; `likeness` is from 0 to 1, the same."""
    return next(iter(get_close_matches(name, list(known), n=1, cutoff=likeness)), "")
