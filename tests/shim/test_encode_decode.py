"""Bodies by their content type."""

import json

import pytest

from djl_python import Output
from djl_python.encode_decode import decode, decode_csv, encode
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
        (b"Question,Context\nq,c\n", "text/csv", {"inputs": [{"Question": "q", "Context": "c"}]}),
        (b"a=1", "application/x-www-form-urlencoded", {"inputs": "a=1"}),
        (b"\x01", "audio/wav", {"inputs": b"\x01"}),
    ],
)
def test_decode(data: bytes, content_type: str, expected: object) -> None:
    assert decode(given(data, content_type), content_type) == expected


def test_a_csv_body_without_headers_is_an_array_of_numbers() -> None:
    rows = decode(given(b"1,2.5\n3,4\n", "text/csv"), "text/csv", require_csv_headers=False)
    assert rows.tolist() == [[1.0, 2.5], [3.0, 4.0]]
    assert decode_csv(given(b"1,2\n"), require_headers=False).tolist() == [1.0, 2.0]
    with pytest.raises(ValueError, match="must hold numbers only"):
        decode(given(b"a,2\n"), "text/csv", require_csv_headers=False)


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
