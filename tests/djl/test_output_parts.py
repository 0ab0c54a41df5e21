"""The bytes of DJL's asynchronous parts."""

import pytest
from hypothesis import given
from hypothesis import strategies as some

from djl_python import Output
from lmi_chat.djl import output_parts
from lmi_chat.errors import NotFound
from tests.support.fakes import brief


def test_a_part_to_the_byte() -> None:
    """As DJL's own Output.binary_encode({"data": "é", "last": False}) writes it."""
    expected = b"\x00\x02\x00\x00\x00\x04data\x00\x00\x00\x02\xc3\xa9\x00\x00\x00\x04last\x00\x00\x00\x05False"
    assert output_parts.part("é".encode(), is_last=False) == expected
    assert bytes(Output.binary_encode({"data": "é", "last": False})) == expected
    assert output_parts.part(b"", is_last=True).endswith(b"\x00\x00\x00\x04True")


def test_a_refusal_has_code_and_error() -> None:
    expected = {"data": "", "last": "True", "code": "404", "error": "no such thing"}
    assert output_parts.read(output_parts.refusal(NotFound("no such\nthing"))) == expected


@brief
@given(some.dictionaries(some.text(min_size=1, max_size=20), some.text(max_size=20), max_size=5))
def test_pairs_come_back(texts: dict[str, str]) -> None:
    assert output_parts.read(output_parts.pairs(texts.items())) == texts


@brief
@given(some.binary(max_size=40))
def test_anything_else_is_no_part(data: bytes) -> None:
    try:
        texts = output_parts.read(data)
    except ValueError:
        return
    assert output_parts.read(output_parts.pairs(texts.items())) == texts


@pytest.mark.parametrize("cut", [1, 5, 20])
def test_a_part_that_is_cut_is_told(cut: int) -> None:
    with pytest.raises(ValueError, match=r"pairs|part"):
        output_parts.read(output_parts.part(b"hello", is_last=True)[:-cut])


@brief
@given(some.text(max_size=60), some.integers(4, 20))
def test_pieces_end_between_characters(text: str, most: int) -> None:
    data = text.encode()
    deltas = list(output_parts.split(data, most))
    assert b"".join(deltas) == data
    assert all(len(delta) <= most for delta in deltas)
    assert "".join(delta.decode() for delta in deltas) == text
