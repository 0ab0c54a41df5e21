"""Bodies by their content type."""

import json

import pytest

from djl_python import Output
from djl_python.encode_decode import decode, encode
from tests.support.djl import given


@pytest.mark.parametrize(
    ("data", "content_type", "expected"),
    [
        (b'{"a":1}', "application/json; charset=utf-8", {"a": 1}),
        (b'{"a":1}', "", {"a": 1}),
        (b"", "", {"inputs": ""}),
        (b"hi", "text/plain", {"inputs": ["hi"]}),
        (b"inputs\nx\n", "text/csv", {"inputs": ["x"]}),
        (b"question,context\nq,c\n", "text/csv", {"inputs": [{"question": "q", "context": "c"}]}),
        (b"a=1", "application/x-www-form-urlencoded", {"inputs": "a=1"}),
        (b"\x01", "audio/wav", {"inputs": b"\x01"}),
    ],
)
def test_decode(data: bytes, content_type: str, expected: object) -> None:
    assert decode(given(data, content_type), content_type) == expected


def test_decode_and_encode_refuse_and_tell() -> None:
    with pytest.raises(ValueError, match="header row"):
        decode(given(b"a,b\n1,2\n", "text/csv"), "text/csv")
    output = Output()
    encode(output, {"a": [1]}, "application/json")
    assert json.loads(output.content.value_at(0)) == {"a": [1]}
    assert output.get_property("Content-Type") == "application/json"
    table = Output()
    encode(table, [{"a": 1}], "text/csv")
    assert bytes(table.content.value_at(0)) == b"a\r\n1\r\n"
