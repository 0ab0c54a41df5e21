"""Texts of a form as values."""

import pytest

from lmi_chat.codec.json_text import Json
from lmi_chat.dialects.transcription import form
from lmi_chat.dialects.transcription.body import TranscriptionBody
from lmi_chat.errors import BadField, BadForm
from lmi_chat.limits import Limits
from tests.support import speech
from tests.support.fakes import deployment

PROPERTIES = deployment().checkers[TranscriptionBody].properties


def typed(**fields: str) -> Json:
    return form.typed(fields, PROPERTIES)


def test_numbers_and_booleans_are_read_where_a_field_has_them() -> None:
    assert typed(temperature="0.5", seed="-7", top_k="3", prompt="1.5", stream="true", language="1") == {
        "temperature": 0.5,
        "seed": -7,
        "top_k": 3,
        "prompt": "1.5",
        "stream": True,
        "language": "1",
    }
    assert typed(stream="False", temperature=" 1e-1 ", top_p="") == {"stream": False, "temperature": 0.1, "top_p": None}


@pytest.mark.parametrize("text", ["nan", "inf", "1_000", "٣", "0x10", "1e9999", "true", "9" * 30, "1,5"])
def test_what_is_no_number_stays_a_text(text: str) -> None:
    assert typed(temperature=text, top_k=text) == {"temperature": text, "top_k": text}


def test_a_form_becomes_a_body() -> None:
    fields = {"language": "en", "timestamp_granularities[]": ["word", "segment"]}
    body = form.read(speech.form(fields, b"sound"), speech.FORM, Limits())
    assert isinstance(body["file"], form.Upload)
    assert body["file"].data == b"sound"
    assert "sound" not in repr(body)
    assert (body["language"], body["timestamp_granularities"]) == ("en", ["word", "segment"])


def test_bounds_of_a_forms_fields() -> None:
    limits = Limits(max_form_field_bytes=64)
    with pytest.raises(BadField, match="must have at most 64 bytes"):
        form.read(speech.form({"prompt": "a" * 65}), speech.FORM, limits)
    with pytest.raises(BadField, match="more than once"):
        form.read(speech.form({"prompt": ["a", "b"]}), speech.FORM, limits)
    with pytest.raises(BadForm, match="is not UTF-8"):
        form.read(speech.form({"prompt": "a"}).replace(b"\r\na\r\n", b"\r\n\xff\r\n"), speech.FORM, limits)
