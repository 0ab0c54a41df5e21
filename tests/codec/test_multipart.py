"""Forms as clients write them, and forms that nobody should."""

import contextlib

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from lmi_chat.codec.multipart import HEAD_BYTES, Part, parse
from lmi_chat.errors import BadForm
from tests.support.fakes import brief
from tests.support.speech import BOUNDARY, FORM, form


def part(head: str, data: bytes = b"x") -> bytes:
    return f"--{BOUNDARY}\r\n{head}\r\n\r\n".encode() + data + f"\r\n--{BOUNDARY}--".encode()


def test_a_form_by_requests() -> None:
    files = {"file": ('a "b".wav', b"\r\n--\x00\xff\r\n", "audio/wav")}
    made = requests.Request("POST", "http://a", files=files, data={"model": "größe", "empty": ""}).prepare()
    assert isinstance(made.body, bytes)
    assert parse(made.body, made.headers["content-type"], most=8) == [
        Part("model", "größe".encode()),
        Part("empty", b""),
        Part("file", b"\r\n--\x00\xff\r\n", 'a "b".wav', "audio/wav"),
    ]


@pytest.mark.parametrize(
    ("head", "name", "filename"),
    [
        ('Content-Disposition: form-data; name="a"', "a", None),
        ("content-disposition:form-data;name=a", "a", None),
        ('CONTENT-DISPOSITION: Form-Data; NAME="a;b"; filename=""', "a;b", ""),
        (r'Content-Disposition: form-data; name="a\"b\\"', 'a"b\\', None),
        ('Content-Type: text/plain\r\nContent-Disposition: form-data; name="a"; filename="x.wav"', "a", "x.wav"),
        ('Content-Transfer-Encoding: binary\r\nContent-Disposition: form-data; name="a"', "a", None),
    ],
)
def test_heads(head: str, name: str, filename: str | None) -> None:
    (found,) = parse(part(head), FORM, most=1)
    assert (found.name, found.filename, found.data) == (name, filename, b"x")


GOOD = part('content-disposition: form-data; name="a"')


@pytest.mark.parametrize(
    ("body", "content_type", "says"),
    [
        (GOOD, "multipart/form-data", "must have a boundary of 1 to 70"),
        (GOOD, "multipart/form-data; boundary=" + "x" * 71, "must have a boundary of 1 to 70"),
        (GOOD, 'multipart/form-data; boundary="a\r\nb"', "must have a boundary of 1 to 70"),
        (GOOD, "multipart/form-data; boundary=other", "is nowhere in the body"),
        (b"", FORM, "is nowhere in the body"),
        (GOOD.removesuffix(b"--"), FORM, "does not begin on a line of its own"),
        (GOOD[:-10], FORM, "has no end"),
        (GOOD.replace(b"--b0undary\r\n", b"--b0undaryx\r\n", 1), FORM, "does not begin on a line of its own"),
        (part("content-disposition: form-data"), FORM, "with a name"),
        (part('content-disposition: attachment; name="a"'), FORM, "with a name"),
        (part("content-type: text/plain"), FORM, "with a name"),
        (part('content-disposition: form-data; name=""'), FORM, "with a name"),
        (
            part('content-disposition: form-data; name="a"\r\ncontent-transfer-encoding: base64'),
            FORM,
            "send it as binary",
        ),
        (part("x: " + "y" * HEAD_BYTES), FORM, "or more than 4096 bytes"),
        (f"--{BOUNDARY}\r\n".encode() * 3, FORM, "has no headers"),
        (form(dict.fromkeys("abcdefghi", "x")), FORM, "more than 8 parts"),
    ],
)
def test_what_is_no_form(body: bytes, content_type: str, says: str) -> None:
    with pytest.raises(BadForm, match=says):
        parse(body, content_type, most=8)


def test_a_preamble_and_an_epilogue_are_passed_over() -> None:
    assert parse(b"to old readers\r\n" + GOOD + b"\r\nmore", FORM, most=1) == [Part("a", b"x")]


@brief
@given(st.binary(max_size=400))
def test_any_bytes_in_a_part_come_back(data: bytes) -> None:
    body = form({"a": "b"}, data)
    assert [one.data for one in parse(body, FORM, most=2)] == [b"b", data]


@brief
@given(st.binary(max_size=200), st.integers(0, 150), st.integers(0, 3))
def test_a_damaged_form_is_a_form_or_an_error(junk: bytes, at: int, cut: int) -> None:
    body = form({"a": "b", "c": "d"})
    with contextlib.suppress(BadForm):
        assert all(one.name for one in parse(body[:at] + junk + body[at + cut :], FORM, most=4))


def test_the_work_grows_with_the_body_and_no_faster() -> None:
    """What looks like a boundary's beginning, megabytes of it: where each were tried anew, the test would time out."""
    filled = f"\r\n--{BOUNDARY[:-1]}".encode() * 2**20
    (found,) = parse(form({}, filled), FORM, most=1)
    assert found.data == filled
