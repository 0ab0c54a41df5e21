"""Render the text of a recording: a stream of events, or one answer as JSON, text or subtitles."""

import math
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from time import time
from typing import Literal

from lmi_chat.codec.framing import DOCUMENT, Framing
from lmi_chat.codec.json_text import dump
from lmi_chat.dialects.deployment import Deployment
from lmi_chat.dialects.openai import error_body
from lmi_chat.dialects.sequence import finish_word
from lmi_chat.dialects.transcription import segments
from lmi_chat.dialects.transcription.answer import (
    DurationUsage,
    EventChoice,
    Segment,
    TokenUsage,
    Transcription,
    TranscriptionDelta,
    TranscriptionDone,
    TranscriptionHead,
    VerboseTranscription,
)
from lmi_chat.dialects.transcription.body import Format
from lmi_chat.errors import Error
from lmi_chat.job import Clip, Delta, Finish, Finished, Recording, SpeechTask

FRAMINGS: Mapping[Format, Framing] = {
    "text": Framing(content_type="text/plain; charset=utf-8"),
    "srt": Framing(content_type="application/x-subrip; charset=utf-8"),
    "vtt": Framing(content_type="text/vtt; charset=utf-8"),
}
"""How a whole answer goes that is no JSON."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wanted:
    """What the answer is to show."""

    id: str
    task: SpeechTask
    recording: Recording
    format: Format
    temperature: float
    has_usage: bool  # so far, in every event


def framing(wanted: Wanted) -> Framing:
    """How a whole answer goes."""
    return FRAMINGS.get(wanted.format, DOCUMENT)


def _space(recording: Recording, deployment: Deployment) -> str:
    """What stands between the texts of two clips."""
    speech = deployment.speech
    return "" if speech is not None and recording.language.lower() in speech.unspaced else " "


@dataclass(slots=True)
class _Heard:
    """What the text of one clip has become."""

    text: str = ""
    tokens: list[segments.Scored] = field(default_factory=list)

    def take(self, delta: Delta) -> None:
        self.text += delta.text
        self.tokens += [
            (token.choice.id, token.choice.logprob) for token in delta.tokens if not token.choice.is_special
        ]


class Whole:
    """A whole answer: the fold of all clips."""

    def __init__(self, wanted: Wanted, deployment: Deployment) -> None:
        """Begin with nothing heard of any clip."""
        self._wanted, self._deployment = wanted, deployment
        self._heard = [_Heard() for _ in wanted.recording.clips]
        self.held_bytes = 0

    def delta(self, delta: Delta) -> Sequence[bytes]:
        """Keep the delta; nothing is sent yet."""
        self._heard[delta.index].take(delta)
        self.held_bytes += len(delta.text)
        return ()

    def done(self, done: Finished) -> Sequence[bytes]:  # noqa: ARG002 a recording is told in seconds
        """The one document."""
        match self._wanted.format:
            case "json":
                answer: Transcription = {"text": self._text(), "usage": self._usage()}
                return (dump(answer),)
            case "text":
                return ((self._text() + "\n").encode(),)
            case "verbose_json":
                return (dump(self._verbose()),)
            case "srt":
                return (segments.srt(self._segments()).encode(),)
            case "vtt":
                return (segments.vtt(self._segments()).encode(),)

    def _text(self) -> str:
        return _space(self._wanted.recording, self._deployment).join(heard.text for heard in self._heard)

    def _usage(self) -> DurationUsage:
        return {"type": "duration", "seconds": math.ceil(self._wanted.recording.seconds)}

    def _verbose(self) -> VerboseTranscription:
        found, recording = self._segments(), self._wanted.recording
        return {
            "task": self._wanted.task,
            "language": recording.language,
            "duration": recording.seconds,
            "text": _space(recording, self._deployment).join(one["text"] for one in found),
            "segments": found,
            "usage": self._usage(),
        }

    def _segments(self) -> list[Segment]:
        clips = zip(self._heard, self._wanted.recording.clips, strict=True)
        found = [one for heard, clip in clips for one in self._of_clip(heard, clip)]
        for place, one in enumerate(found):
            one["id"] = place
        return found

    def _of_clip(self, heard: _Heard, clip: Clip) -> list[Segment]:
        speech = self._deployment.speech
        first = speech.first_time_id if speech else 0
        return list(segments.cut(heard.tokens, clip, first, self._decode, self._wanted.temperature))

    def _decode(self, ids: Sequence[int]) -> str:
        return self._deployment.template.tokenizer.decode(ids, skip_special_tokens=True)

    def fail(self, error: Error) -> bytes:
        """The error in place of the document."""
        return dump(error_body(error))


class Events:
    """A streamed answer: clips are heard side by side, and told one after the other."""

    held_bytes = 0

    def __init__(self, wanted: Wanted, deployment: Deployment) -> None:
        """Begin with the first clip."""
        self._wanted, self._deployment = wanted, deployment
        self._later = [deque[Delta]() for _ in wanted.recording.clips]
        self._place = 0
        self._has_text = False  # of the present clip, sent
        self._text: list[str] = []
        self._prompt_tokens = self._completion_tokens = 0
        kind: Literal["transcription.chunk", "translation.chunk"] = (
            "transcription.chunk" if wanted.task == "transcribe" else "translation.chunk"
        )
        self._head: TranscriptionHead = {
            "id": wanted.id,
            "object": kind,
            "created": int(time()),
            "model": deployment.model,
        }

    def delta(self, delta: Delta) -> Sequence[bytes]:
        """Its event, and those of the next clips that were heard meanwhile."""
        events = list[bytes]()
        self._later[delta.index].append(delta)
        while self._later[self._place]:
            told = self._later[self._place].popleft()
            events += self._tell(told)
            if told.finish is not None and self._place + 1 < len(self._later):
                self._place, self._has_text = self._place + 1, False
        return events

    def _tell(self, delta: Delta) -> list[bytes]:
        self._completion_tokens += len(delta.ids)
        is_last = delta.finish is not None and self._place + 1 == len(self._later)
        text = delta.text
        if text and self._place and not self._has_text:
            text = _space(self._wanted.recording, self._deployment) + text
        self._has_text = self._has_text or bool(text)
        if not text and not is_last:
            return []
        self._text.append(text)
        return [dump(self._event(text, delta.finish if is_last else None))]

    def _event(self, text: str, finish: Finish | None) -> TranscriptionDelta:
        event: TranscriptionDelta = {
            "id": self._head["id"],
            "object": self._head["object"],
            "created": self._head["created"],
            "model": self._head["model"],
            "type": "transcript.text.delta",
            "delta": text,
            "choices": [self._choice(text, finish)],
        }
        if self._wanted.has_usage:
            event["usage"] = self._usage()
        return event

    def _choice(self, text: str, finish: Finish | None) -> EventChoice:
        return {
            "index": 0,
            "delta": {"content": text},
            "finish_reason": finish_word(finish, self._deployment.finish_words),
        }

    def _usage(self) -> TokenUsage:
        heard, written = self._wanted.recording.audio_tokens + self._prompt_tokens, self._completion_tokens
        return {
            "type": "tokens",
            "input_tokens": heard,
            "output_tokens": written,
            "prompt_tokens": heard,
            "completion_tokens": written,
            "total_tokens": heard + written,
        }

    def done(self, done: Finished) -> Sequence[bytes]:
        """All of the text, and the usage."""
        self._prompt_tokens, self._completion_tokens = done.prompt_tokens, done.completion_tokens
        event: TranscriptionDone = {
            **self._head,
            "type": "transcript.text.done",
            "text": "".join(self._text),
            "choices": [],
            "usage": self._usage(),
        }
        return (dump(event),)

    def fail(self, error: Error) -> bytes:
        """The error in place of the rest."""
        return dump(error_body(error))
