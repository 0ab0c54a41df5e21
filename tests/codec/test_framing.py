"""Payloads become bytes on the wire: which shape a stream gets, and what each shape looks like."""

import itertools
import json
from collections.abc import Iterable
from typing import Any

import pytest
from botocore.eventstream import ChecksumMismatch, EventStreamBuffer, ParserError
from hypothesis import given
from hypothesis import strategies as st

from lmi_chat.codec.eventstream import PART_BYTES, exception, parts
from lmi_chat.codec.framing import DOCUMENT, EVENTS, LINES, OPENAI_EVENTS, Framing, Shape, choose, framing
from lmi_chat.codec.json_text import dump
from tests.support.fakes import brief


@pytest.mark.parametrize(
    ("accept", "formatter", "route", "shape"),
    [
        ("", "", "lines", "lines"),
        ("", "", "events", "events"),
        ("application/json", "", "lines", "lines"),
        ("application/json", "", "events", "events"),
        ("*/*", "", "lines", "lines"),
        ("text/event-stream", "", "lines", "events"),
        ("text/event-stream; charset=utf-8", "", "lines", "events"),
        ("application/jsonlines;charset=UTF-8", "", "events", "lines"),
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
    events = "text/event-stream; charset=utf-8"
    assert types == ["application/json", "application/jsonlines", events, events]


def framed(framing: Framing, payloads: list[bytes]) -> bytes:
    return b"".join(framing.head + payload + framing.tail for payload in payloads) + framing.end


def test_bytes() -> None:
    payloads = [b'{"a":1}', b'{"a":2}']
    assert framed(LINES, payloads) == b'{"a":1}\n{"a":2}\n'
    assert framed(EVENTS, payloads) == b'data: {"a":1}\n\ndata: {"a":2}\n\n'
    assert framed(OPENAI_EVENTS, payloads[:1]) == b'data: {"a":1}\n\ndata: [DONE]\n\n'
    assert framed(DOCUMENT, payloads[:1]) == payloads[0]


@brief
@given(st.lists(st.text(max_size=20), max_size=8))
def test_a_strict_reader_gets_every_payload_back(texts: list[str]) -> None:
    payloads = [dump({"text": text}) for text in texts]
    lines = framed(LINES, payloads).split(b"\n")
    assert lines.pop() == b""
    assert [json.loads(line)["text"] for line in lines] == texts
    *events, end, rest = framed(OPENAI_EVENTS, payloads).split(b"\n\n")
    assert (end, rest) == (b"data: [DONE]", b"")
    assert all(event.startswith(b"data: ") for event in events)
    assert [json.loads(event.removeprefix(b"data: "))["text"] for event in events] == texts


PART = {":event-type": "PayloadPart", ":content-type": "application/octet-stream", ":message-type": "event"}
messages = st.lists(
    st.one_of(st.binary(max_size=300).map(lambda data: (True, data)), st.text(max_size=30).map(lambda t: (False, t))),
    max_size=8,
)


def encoded(told: list[tuple[bool, Any]]) -> bytes:
    return b"".join(
        b"".join(parts(what)) if is_part else exception("E", dump({"Message": what})) for is_part, what in told
    )


def read(chunks: Iterable[bytes]) -> list[tuple[dict[str, Any], bytes]]:
    """botocore's own decoder, which checks both sums of each message."""
    buffer, found = EventStreamBuffer(), []
    for chunk in chunks:
        buffer.add_data(chunk)
        found += [(message.headers, message.payload) for message in buffer]
    assert not buffer._data, "nothing is left over"
    return found


@brief
@given(messages, st.data())
def test_botocore_reads_what_we_write_however_it_is_cut(told: list[tuple[bool, Any]], data: st.DataObject) -> None:
    encoded_bytes = encoded(told)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(encoded_bytes)), max_size=20)))
    ends = [0, *cuts, len(encoded_bytes)]
    found = read(encoded_bytes[start:end] for start, end in itertools.pairwise(ends))
    assert len(found) == len(told)
    for (headers, payload), (is_part, what) in zip(found, told, strict=True):
        if is_part:
            assert (headers, payload) == (PART, what)
        else:
            assert (headers[":message-type"], headers[":exception-type"]) == ("exception", "E")
            assert json.loads(payload) == {"Message": what}


def test_every_cut_and_every_flipped_bit() -> None:
    whole = encoded([(True, b'{"a":1}\n'), (False, "boom")])
    expected = read([whole])
    for cut in range(len(whole) + 1):
        assert read([whole[:cut], whole[cut:]]) == expected
    one = b"".join(parts(b"hi"))
    for place, bit in itertools.product(range(len(one)), range(8)):
        broken = bytearray(one)
        broken[place] ^= 1 << bit
        with pytest.raises((ChecksumMismatch, ParserError)):
            read([bytes(broken)])


def test_a_part_has_a_bound() -> None:
    data = bytes(range(256)) * (PART_BYTES // 128) + b"end"
    found = read(parts(data))
    assert [len(payload) for _, payload in found] == [PART_BYTES, PART_BYTES, 3]
    assert b"".join(payload for _, payload in found) == data
    assert len(list(parts(b"x" * PART_BYTES))) == len(list(parts(b""))) == 1
