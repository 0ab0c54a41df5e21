"""Frame payloads as bytes for the wire; pure functions that know no dialect.

Lines are JSON Lines; events are server-sent events (WHATWG HTML, "Server-sent events"). AWS event-stream messages
(Smithy, "Amazon Event Stream specification") wrap the bytes of any of these; they are written here because the
libraries that encode them want a C runtime (awscrt) or Python 3.12 (smithy-aws-event-stream); botocore only decodes.
"""

import re
from dataclasses import dataclass
from typing import Literal

Shape = Literal["document", "lines", "events"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Framing:
    """How one payload becomes one write: `head + payload + tail`; `end` closes a dialect that has an end marker.

    `is_named`: a payload's type, its first member, is the event's name, too.
    """

    content_type: str
    head: bytes = b""
    tail: bytes = b""
    end: bytes = b""
    is_named: bool = False

    def frame(self, payload: bytes) -> bytes:
        """The bytes of one payload."""
        if self.is_named and payload.startswith(TYPE):
            name = payload[len(TYPE) : payload.index(b'"', len(TYPE))]
            return b"event: " + name + b"\n" + self.head + payload + self.tail
        return self.head + payload + self.tail


TYPE = b'{"type":"'
DOCUMENT = Framing(content_type="application/json")
LINES = Framing(content_type="application/jsonlines", tail=b"\n")
# requests takes text/* for Latin-1 unless told otherwise; it takes JSON and JSON Lines for UTF-8, as all clients do,
# and RFC 8259 knows no charset for them.
EVENT_TYPE = "text/event-stream; charset=utf-8"
EVENTS = Framing(content_type=EVENT_TYPE, head=b"data: ", tail=b"\n\n")
NAMED_EVENTS = Framing(content_type=EVENT_TYPE, head=b"data: ", tail=b"\n\n", is_named=True)
OPENAI_EVENTS = Framing(content_type=EVENT_TYPE, head=b"data: ", tail=b"\n\n", end=b"data: [DONE]\n\n")

JSON_LINES = frozenset(
    f"application/{name}"
    for name in ("jsonlines", "x-jsonlines", "json-lines", "jsonl", "x-jsonl", "ndjson", "x-ndjson")
)
"""What JSON Lines are called; here they are application/jsonlines."""
ACCEPTED: dict[str, Shape] = {**dict.fromkeys(JSON_LINES, "lines"), "text/event-stream": "events"}
FORMATTERS: dict[str, Shape] = {"json": "document", "jsonlines": "lines", "sse": "events"}

PARAMETER = re.compile(r""";((?:"(?:[^"\\]|\\.)*"?|[^;"])*)""", re.DOTALL)
"""A content type's parameters (RFC 9110, 5.6.6); a semicolon in quotes is part of a value.

A quotation that is not closed goes to the end: so each character is looked at once.
"""


def media_type(text: str) -> str:
    """A content type without its parameters, in lower case."""
    if text == "application/json":
        return text  # nearly always
    return text.partition(";")[0].strip().lower()


def charset(text: str) -> str:
    """The charset that a content type names, in lower case; "" where it names none."""
    if ";" not in text:
        return ""
    for parameter in PARAMETER.findall(text):
        name, _, value = parameter.partition("=")
        if name.strip().lower() == "charset":
            return str(value.strip().strip('"').strip().lower())
    return ""


def whole(content_type: str, accept: str) -> Framing:
    """Return the framing of a whole answer: lines bring a line, unless `accept` asks for a JSON document."""
    if media_type(content_type) not in JSON_LINES:
        return DOCUMENT
    return DOCUMENT if DOCUMENT.content_type in map(media_type, accept.split(",")) else LINES


def choose(accept: str, formatter: str, route_default: Shape) -> Shape:
    """Choose the shape of a stream: the Accept header's, else the deployment's formatter, else the route's own.

    `accept` is the header's text ("" when absent); a type that is no stream's (application/json) decides nothing.
    """
    for item in accept.split(","):
        shape = ACCEPTED.get(media_type(item))
        if shape:
            return shape
    configured = FORMATTERS.get(formatter)
    return configured if configured in {"lines", "events"} else route_default


def framing(shape: Shape, *, has_end: bool, has_names: bool = False) -> Framing:
    """Return the framing for a shape; `has_end`: its dialect closes events with `[DONE]`; `has_names`: names them."""
    if shape == "lines":
        return LINES
    if shape == "events" and has_names:
        return NAMED_EVENTS
    if shape == "events":
        return OPENAI_EVENTS if has_end else EVENTS
    return DOCUMENT
