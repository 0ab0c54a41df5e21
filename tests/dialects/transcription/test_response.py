"""What is said in clips, as events and as documents."""

import json
from typing import Any

import pytest

from lmi_chat.dialects.transcription.response import Events, Wanted, Whole, framing
from lmi_chat.errors import Bug
from lmi_chat.job import Clip, Delta, Finish, Finished, Recording, Token, TokenLogprob
from tests.support.fakes import deployment, rendered
from tests.support.speech import FIRST_TIME, SPEECH

DONE = Finished(prompt_tokens=9, completion_tokens=4)
END = Finish("stop")


def wanted(count: int = 2, language: str = "en", **changes: Any) -> Wanted:
    clips = [Clip(None, 30.0 * place, 30.0) for place in range(count)]
    heard = Recording(clips=clips, seconds=30 * count - 0.5, audio_tokens=100, language=language)
    values: dict[str, Any] = {"id": "trsc-r", "task": "transcribe", "format": "json", "temperature": 0.0}
    return Wanted(**values | {"recording": heard, "has_usage": False} | changes)


def said(index: int, text: str, *, finish: Finish | None = None, time: int | None = None) -> Delta:
    ids = [*text.encode(), *([] if time is None else [FIRST_TIME + time])]
    return Delta(index, text, ids, [Token(TokenLogprob(one, -0.5, b"")) for one in ids], finish)


def events(deltas: list[Delta], **changes: Any) -> list[Any]:
    return rendered(Events(wanted(**changes), deployment(speech=SPEECH)), *deltas, DONE)


def test_a_stream_tells_clips_in_their_order() -> None:
    """OpenAI's events and vLLM's chunks are the same objects."""
    deltas = [said(1, "c"), said(0, "a"), said(1, "", finish=END), said(0, "b"), said(0, "", finish=END)]
    *told, done = events(deltas)
    assert [event["delta"] for event in told] == ["a", "b", " c", ""]
    assert [event["choices"][0]["delta"]["content"] for event in told] == ["a", "b", " c", ""]
    assert [event["choices"][0]["finish_reason"] for event in told] == [None, None, None, "stop"]
    assert {event["type"] for event in told} == {"transcript.text.delta"}
    assert {(event["object"], event["model"], event["id"]) for event in (*told, done)} == {
        ("transcription.chunk", "tiny", "trsc-r")
    }
    assert (done["type"], done["text"], done["choices"]) == ("transcript.text.done", "ab c", [])
    assert done["usage"] == done["usage"] | {"type": "tokens", "input_tokens": 109, "prompt_tokens": 109}
    assert done["usage"] == done["usage"] | {"output_tokens": 4, "completion_tokens": 4, "total_tokens": 113}
    counted = events(deltas, has_usage=True)
    assert [event["usage"]["output_tokens"] for event in counted] == [1, 2, 3, 3, 4]


def test_three_clips_of_which_the_last_is_heard_first() -> None:
    last = [said(2, "c"), said(2, "", finish=END)]
    deltas = [*last, said(1, "b", finish=END), said(0, "a", finish=END)]
    *told, done = events(deltas, count=3, language="ja")
    assert [event["delta"] for event in told] == ["a", "b", "c", ""]
    assert done["text"] == "abc", "Japanese has no spaces between words"


def test_a_clip_in_which_nothing_is_said_brings_no_event() -> None:
    *told, _ = events([said(0, "", finish=END), said(1, "", finish=END)])
    assert [event["delta"] for event in told] == [""]


def test_a_translations_events_have_its_name() -> None:
    assert {event["object"] for event in events([said(0, "a", finish=END)], task="translate")} == {"translation.chunk"}


def whole(**changes: Any) -> bytes:
    render = Whole(wanted(**changes), deployment(speech=SPEECH))
    for delta in (
        said(1, "c"),
        said(0, "a", time=50),
        Delta(1, "", [1], [Token(TokenLogprob(1, -0.1, b"", is_special=True))], END),
        said(0, "", time=50),
        said(0, "b", finish=END),
    ):
        assert render.delta(delta) == ()
    assert render.held_bytes == 3
    (document,) = render.done(DONE)
    return document


def test_each_form_of_a_whole_answer() -> None:
    assert json.loads(whole()) == {"text": "ab c", "usage": {"type": "duration", "seconds": 60}}
    assert whole(format="text") == b"ab c\n"
    verbose = json.loads(whole(format="verbose_json"))
    assert verbose == verbose | {"task": "transcribe", "language": "en", "duration": 59.5, "text": "a b c"}
    found = [(one["id"], one["start"], one["end"], one["text"]) for one in verbose["segments"]]
    assert found == [(0, 0, 1, "a"), (1, 1, 30, "b"), (2, 30, 60, "c")]
    assert whole(format="srt").startswith(b"1\n00:00:00,000 --> 00:00:01,000\na\n\n2\n")
    assert whole(format="vtt").startswith(b"WEBVTT\n\n00:00:00.000 --> 00:00:01.000\na\n")


@pytest.mark.parametrize(
    ("form", "content_type"),
    [
        ("json", "application/json"),
        ("verbose_json", "application/json"),
        ("text", "text/plain; charset=utf-8"),
        ("srt", "application/x-subrip; charset=utf-8"),
        ("vtt", "text/vtt; charset=utf-8"),
    ],
)
def test_the_content_type_is_the_forms(form: str, content_type: str) -> None:
    assert framing(wanted(format=form)).content_type == content_type


def test_an_error_is_openais_in_both() -> None:
    for render in (Events(wanted(), deployment(speech=SPEECH)), Whole(wanted(), deployment(speech=SPEECH))):
        assert json.loads(render.fail(Bug("it broke")))["error"]["message"] == "it broke"
