"""An Input by the documented names."""

import pytest

from djl_python import Input
from tests.support.djl import given


def test_an_input_tells_its_body_by_content_type() -> None:
    assert Input().is_empty()
    assert Input().get_as_bytes() is None
    assert given(b'{"a": 1}', "application/json").get_data() == {"a": 1}
    assert given("é".encode(), "text/plain").get_data() == "é"
    assert given(b"raw").get_data() == b"raw"
    assert given(b"x", "text/plain").get_property("content-TYPE") == "text/plain"
    assert given(b"inputs\na\nb\n").get_as_csv() == [{"inputs": "a"}, {"inputs": "b"}]
    with pytest.raises(KeyError, match="other"):
        given(b"x").get_as_bytes("other")


def test_a_batch_comes_apart() -> None:
    inputs = Input()
    inputs.properties = {"batch_size": "2", "batch_000.eula": "no", "batch_001.eula": "yes"}
    for number in range(2):
        inputs.content.add(f"batch_{number:03}.data", f"body {number}".encode())
    batch = inputs.get_batches()
    assert [each.get_as_string() for each in batch] == ["body 0", "body 1"]
    assert [each.get_property("eula") for each in batch] == ["no", "yes"]
    assert given(b"x").get_batches()[0].get_as_bytes() == b"x"


def test_an_input_as_text_shows_its_parts() -> None:
    inputs = given(b'{"a": 1}', "application/json")
    assert str(inputs) == "properties: {'Content-Type': 'application/json'}\ndata: {'a': 1}"
    assert str(given("é".encode(), "text/plain")).endswith("\ndata: é")
    assert str(Input()) == "properties: {}"
