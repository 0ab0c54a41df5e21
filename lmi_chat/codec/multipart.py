"""Parse a body of multipart/form-data into its parts (RFC 7578, RFC 2046 section 5.1.1)."""

import re
from dataclasses import dataclass

from lmi_chat.codec.framing import PARAMETER, media_type
from lmi_chat.errors import BadForm
from lmi_chat.text import echo

MEDIA = "multipart/form-data"
HEAD_BYTES = 4096
"""Of one part's headers."""
BOUNDARY = re.compile(r"[!-~](?:[ -~]{0,68}[!-~])?")
ESCAPED = re.compile(r'\\(["\\])')
PLAIN = frozenset({"", "7bit", "8bit", "binary"})


@dataclass(frozen=True, slots=True)
class Part:
    """One field of a form; `filename` None: a text's."""

    name: str
    data: bytes
    filename: str | None = None
    content_type: str = ""


def parse(body: bytes, content_type: str, *, most: int) -> list[Part]:
    """The parts of a body, at most `most`. Raises BadForm.

    A part's data is copied once, and nothing is decoded: the work is in proportion to the body.
    """
    mark = b"--" + _boundary(content_type)
    parts: list[Part] = []
    at = 0 if body.startswith(mark) else body.find(b"\r\n" + mark) + 2
    if at == 1:
        raise BadForm(f"the form has no part: its boundary {echo(mark[2:].decode())} is nowhere in the body")
    while True:
        at += len(mark)
        if body.startswith(b"--", at):
            return parts
        if len(parts) == most:
            raise BadForm(f"the form has more than {most} parts (option.max_form_parts)")
        begin, head = _head(body, at, len(parts))
        end = body.find(b"\r\n" + mark, begin)
        if end < 0:
            raise BadForm(
                f"part {len(parts)} of the form has no end: the body is cut off, or its last boundary missing"
            )
        parts.append(_part(head, body[begin:end], len(parts)))
        at = end + 2


def _boundary(content_type: str) -> bytes:
    given = _parameters(content_type).get("boundary", "")
    if not BOUNDARY.fullmatch(given):
        raise BadForm(f"content-type {MEDIA} must have a boundary of 1 to 70 visible characters, got {echo(given)}")
    return given.encode()


def _head(body: bytes, at: int, place: int) -> tuple[int, bytes]:
    """Where the data of a part begins whose boundary ends at `at`, and its headers."""
    line_end = body.find(b"\r\n", at, at + HEAD_BYTES)
    if line_end < 0 or body[at:line_end].strip(b" \t"):
        raise BadForm(f"part {place} of the form does not begin on a line of its own")
    end = body.find(b"\r\n\r\n", line_end, line_end + HEAD_BYTES)
    if end < 0:
        raise BadForm(f"part {place} of the form has no headers, or more than {HEAD_BYTES} bytes of them")
    return end + 4, body[line_end + 2 : end]


def _part(head: bytes, data: bytes, place: int) -> Part:
    lines = (line.partition(":") for line in head.decode("utf-8", "replace").split("\r\n"))
    headers = {name.strip().lower(): value.strip() for name, _, value in lines}
    disposition = headers.get("content-disposition", "")
    named = _parameters(disposition)
    if media_type(disposition) != "form-data" or not named.get("name"):
        raise BadForm(f"part {place} of the form must have a content-disposition of form-data with a name")
    coding = headers.get("content-transfer-encoding", "").lower()
    if coding not in PLAIN:
        raise BadForm(f"part {place} of the form has content-transfer-encoding {echo(coding)}; send it as binary")
    return Part(named["name"], data, named.get("filename"), headers.get("content-type", ""))


def _parameters(text: str) -> dict[str, str]:
    """A header's parameters, names in lower case; the first of the same name counts."""
    found: dict[str, str] = {}
    for parameter in PARAMETER.findall(text):
        name, _, value = parameter.partition("=")
        found.setdefault(name.strip().lower(), _unquoted(value.strip()))
    return found


def _unquoted(value: str) -> str:
    """A quoted value without its quotes; browsers write a quote inside as %22, others as a backslash and it."""
    if len(value) < 2 or not (value.startswith('"') and value.endswith('"')):  # noqa: PLR2004 two quotes
        return value
    return ESCAPED.sub(r"\1", value[1:-1]).replace("%22", '"')
