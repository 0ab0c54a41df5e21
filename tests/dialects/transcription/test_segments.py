"""Times among tokens, and what subtitles make of them."""

import pytest

from lmi_chat.dialects.transcription import segments
from lmi_chat.dialects.transcription.answer import Segment
from lmi_chat.job import Clip
from tests.support.speech import FIRST_TIME

CLIP = Clip(None, 30.0, 10.0)


def at(second: float) -> int:
    return FIRST_TIME + round(second / 0.02)


def cut(*tokens: int) -> list[Segment]:
    pairs = [(token, -0.5) for token in tokens]
    return list(segments.cut(pairs, CLIP, FIRST_TIME, lambda ids: bytes(ids).decode(), 0.2))


def times(*tokens: int) -> list[tuple[float, float, str]]:
    return [(one["start"], one["end"], one["text"]) for one in cut(*tokens)]


@pytest.mark.parametrize(
    ("tokens", "expected"),
    [
        ((97, at(1)), [(30, 31, "a")]),
        ((97, at(1), at(1), 98, at(2.5)), [(30, 31, "a"), (31, 32.5, "b")]),
        ((97, at(1), at(3), 98, at(4)), [(30, 31, "a"), (33, 34, "b")]),
        ((at(0.5), 97, at(1)), [(30.5, 31, "a")]),
        ((97, at(1), at(1), 98), [(30, 31, "a"), (31, 40, "b")]),
        ((97, 98), [(30, 40, "ab")]),
        ((97, at(1), at(1), at(1), at(2)), [(30, 31, "a")]),
        ((at(1), at(2)), []),
        ((), []),
    ],
)
def test_a_time_closes_a_segment_where_another_follows_or_nothing(
    tokens: tuple[int, ...], expected: list[tuple[float, float, str]]
) -> None:
    assert times(*tokens) == expected


def test_what_else_a_segment_tells() -> None:
    (one,) = cut(97, 97, 97, at(1))
    assert one == one | {"id": 0, "seek": 3000, "tokens": [97, 97, 97], "temperature": 0.2, "no_speech_prob": None}
    assert one["avg_logprob"] == pytest.approx(-2.0 / 5), "of three tokens and a time, beside the time before them"
    assert 0 < one["compression_ratio"] < 1


def said(text: str, start: float = 0.0, end: float = 3661.5) -> Segment:
    return {**cut(97, at(1))[0], "text": text, "start": start, "end": end}


def test_subtitles() -> None:
    several = [said(" Hello <i>&\n\n there"), said("ok", 1.25, 2)]
    assert segments.srt(several) == (
        "1\n00:00:00,000 --> 01:01:01,500\nHello <i>&\n there\n\n2\n00:00:01,250 --> 00:00:02,000\nok\n"
    )
    assert segments.vtt(several) == (
        "WEBVTT\n\n00:00:00.000 --> 01:01:01.500\nHello &lt;i&gt;&amp;\n there\n\n00:00:01.250 --> 00:00:02.000\nok\n"
    )
    assert segments.vtt([said("a --> b")]).count("-->") == 1
    assert (segments.srt([]), segments.vtt([])) == ("", "WEBVTT\n")
