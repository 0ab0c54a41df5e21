"""Payloads become bytes on the wire: which shape a stream gets, and what each shape looks like."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lmi_chat.frames import DOCUMENT, EVENTS, LINES, OPENAI_EVENTS, Framing, Shape, choose, framing
from lmi_chat.wire import dump
from tests.fakes import brief


@pytest.mark.parametrize(
    ("accept", "formatter", "route", "shape"),
    [
        ("", "", "lines", "lines"),
        ("", "", "events", "events"),
        ("application/json", "", "lines", "lines"),
        ("application/json", "", "events", "events"),
        ("*/*", "", "lines", "lines"),
        ("text/event-stream", "", "lines", "events"),
        ("Text/Event-Stream; charset=utf-8", "", "lines", "events"),
        ("application/jsonlines", "", "events", "lines"),
        ("application/x-jsonlines", "sse", "events", "lines"),
        ("application/json, text/event-stream;q=0.9, application/jsonlines", "", "lines", "events"),
        ("text/html", "sse", "lines", "events"),
        ("", "jsonlines", "events", "lines"),
        ("", "sse", "lines", "events"),
        ("", "json", "lines", "lines"),
        ("", "json", "events", "events"),
        ("text/event-stream", "jsonlines", "lines", "events"),
        (";,;,", "", "lines", "lines"),
    ],
)
def test_header_then_deployment_then_route(accept: str, formatter: str, route: Shape, shape: Shape) -> None:
    assert choose(accept, formatter, route) == shape


@pytest.mark.parametrize(
    ("shape", "has_end", "expected"),
    [
        ("document", True, DOCUMENT),
        ("lines", True, LINES),
        ("lines", False, LINES),
        ("events", True, OPENAI_EVENTS),
        ("events", False, EVENTS),
    ],
)
def test_each_shape_has_its_framing(shape: Shape, has_end: bool, expected: Framing) -> None:  # noqa: FBT001
    assert framing(shape, has_end=has_end) == expected


def test_content_types() -> None:
    types = [each.content_type for each in (DOCUMENT, LINES, EVENTS, OPENAI_EVENTS)]
    assert types == ["application/json", "application/jsonlines", "text/event-stream", "text/event-stream"]


def framed(framing: Framing, payloads: list[bytes]) -> bytes:
    return b"".join(framing.head + payload + framing.tail for payload in payloads) + framing.end


def test_bytes() -> None:
    payloads = [b'{"a":1}', b'{"a":2}']
    assert framed(LINES, payloads) == b'{"a":1}\n{"a":2}\n'
    assert framed(EVENTS, payloads) == b'data: {"a":1}\n\ndata: {"a":2}\n\n'
    assert framed(OPENAI_EVENTS, payloads[:1]) == b'data: {"a":1}\n\ndata: [DONE]\n\n'
    assert framed(DOCUMENT, payloads[:1]) == payloads[0]


@brief
@given(st.lists(st.text()))
def test_a_strict_reader_gets_every_payload_back(texts: list[str]) -> None:
    payloads = [dump({"text": text}) for text in texts]
    lines = framed(LINES, payloads).split(b"\n")
    assert lines.pop() == b""
    assert [json.loads(line)["text"] for line in lines] == texts
    *events, end, rest = framed(OPENAI_EVENTS, payloads).split(b"\n\n")
    assert (end, rest) == (b"data: [DONE]", b"")
    assert all(event.startswith(b"data: ") for event in events)
    assert [json.loads(event.removeprefix(b"data: "))["text"] for event in events] == texts
