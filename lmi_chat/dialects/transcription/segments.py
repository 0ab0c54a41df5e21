"""Find the segments of a clip by the times among its tokens, and write them as subtitles.

A Whisper model writes a time before and after each segment, as a token; the first one, 0 s, stands in its prompt.
Shapes: OpenAI API reference, "Create transcription"; SubRip, and W3C "WebVTT".
"""

import zlib
from collections.abc import Callable, Iterator, Sequence

from lmi_chat.dialects.transcription.answer import Segment
from lmi_chat.job import Clip

STEP_S = 0.02
SEEK_PER_S = 100
Decode = Callable[[Sequence[int]], str]
Scored = tuple[int, float]
"""A token id and the natural logarithm of its probability."""


def cut(
    tokens: Sequence[Scored], clip: Clip, first_time_id: int, decode: Decode, temperature: float
) -> Iterator[Segment]:
    """The segments of a clip, without ids in a row: all have id 0. What no time closes ends with the clip."""
    for start, inner, end in _groups(tokens, first_time_id):
        ids = [token for token, _ in inner]
        text = decode(ids)
        data = text.encode()
        logprobs = [logprob for _, logprob in (*inner, *([end] if end else []))]
        yield {
            "id": 0,
            "seek": round(clip.begins_s * SEEK_PER_S),
            "start": _second(start, clip, first_time_id),
            "end": round(clip.begins_s + clip.seconds, 2) if end is None else _second(end[0], clip, first_time_id),
            "text": text,
            "tokens": ids,
            "temperature": temperature,
            "avg_logprob": sum(logprobs) / (len(logprobs) + 1),
            "compression_ratio": len(data) / len(zlib.compress(data)),
            "no_speech_prob": None,
        }


def _second(token: int, clip: Clip, first_time_id: int) -> float:
    return round(clip.begins_s + STEP_S * (token - first_time_id), 2)


def _groups(tokens: Sequence[Scored], first_time_id: int) -> Iterator[tuple[int, list[Scored], Scored | None]]:
    """The time before a segment, its tokens, and the time behind it; a time alone within a segment is no end of it.

    The first of two times in a row ends a segment, and the second begins the next one.
    """
    start, inner = first_time_id, list[Scored]()
    for place, (token, logprob) in enumerate(tokens):
        is_time = token >= first_time_id
        is_last = place + 1 == len(tokens)
        if is_time and not inner:
            start = token
        elif is_time and (is_last or tokens[place + 1][0] >= first_time_id):
            yield start, inner, (token, logprob)
            start, inner = token, []
        else:
            inner.append((token, logprob))
    if inner:
        yield start, inner, None


def srt(segments: Sequence[Segment]) -> str:
    """SubRip."""
    blocks = (
        f"{place}\n{_clock(one['start'], ',')} --> {_clock(one['end'], ',')}\n{_lines(one)}\n"
        for place, one in enumerate(segments, 1)
    )
    return "\n".join(blocks)


def vtt(segments: Sequence[Segment]) -> str:
    """WebVTT; its text has & and < escaped, so that no reader takes a part of it for a tag, nor for a time."""
    blocks = (f"{_clock(one['start'], '.')} --> {_clock(one['end'], '.')}\n{_escaped(one)}\n" for one in segments)
    return "\n".join(("WEBVTT\n", *blocks))


def _lines(segment: Segment) -> str:
    """The text without empty lines, at which a reader would take the block for over."""
    return "\n".join(line for line in segment["text"].strip().splitlines() if line.strip())


def _escaped(segment: Segment) -> str:
    return _lines(segment).replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")


def _clock(seconds: float, point: str) -> str:
    thousandths = round(seconds * 1000)
    minutes, rest = divmod(thousandths, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{rest // 1000:02d}{point}{rest % 1000:03d}"
