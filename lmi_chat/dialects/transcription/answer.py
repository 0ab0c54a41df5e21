"""Declare the answers to a transcription request."""

from typing import Annotated, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from lmi_chat.dialects.answer import Count, FinishWord, OpenAIError, ServedModel

Seconds = Annotated[float, Field(ge=0)]


class DurationUsage(TypedDict):
    """How long the recording is, in whole seconds, rounded up."""

    type: Literal["duration"]
    seconds: Count


class Transcription(TypedDict):
    """What is said."""

    text: str
    usage: DurationUsage


class Segment(TypedDict):
    """A part of what is said, with its times in seconds; `seek` is where its clip begins, in hundredths."""

    id: Count
    seek: Count
    start: Seconds
    end: Seconds
    text: str
    tokens: list[Count]
    temperature: Annotated[float, Field(ge=0)]
    avg_logprob: Annotated[float, Field(le=0)]
    compression_ratio: Annotated[float, Field(ge=0)]
    no_speech_prob: None


class VerboseTranscription(TypedDict):
    """What is said, and when."""

    task: Literal["transcribe", "translate"]
    language: Annotated[str, Field(description="its ISO 639-1 code")]
    duration: Seconds
    text: str
    segments: list[Segment]
    usage: DurationUsage


class TokenUsage(TypedDict):
    """Tokens, by OpenAI's names for recordings and by those for texts."""

    type: Literal["tokens"]
    input_tokens: Count
    output_tokens: Count
    prompt_tokens: Count
    completion_tokens: Count
    total_tokens: Count


class TextDelta(TypedDict):
    """The text of an event, as a chat has it."""

    content: str


class EventChoice(TypedDict):
    """The only choice of an event, in vLLM's shape."""

    index: Literal[0]
    delta: TextDelta
    finish_reason: FinishWord


class TranscriptionHead(TypedDict):
    """What every event of a stream begins with."""

    id: str
    object: Literal["transcription.chunk", "translation.chunk"]
    created: Count
    model: ServedModel


class TranscriptionDelta(TranscriptionHead):
    """A piece of the text, in OpenAI's shape and in vLLM's."""

    type: Literal["transcript.text.delta"]
    delta: str
    choices: list[EventChoice]
    usage: NotRequired[TokenUsage]


class TranscriptionDone(TranscriptionHead):
    """The end of a stream, with all of the text."""

    type: Literal["transcript.text.done"]
    text: str
    choices: list[EventChoice]
    usage: TokenUsage


WHOLE = {"Transcription": Transcription, "VerboseTranscription": VerboseTranscription}
ITEMS = {"TranscriptionDelta": TranscriptionDelta, "TranscriptionDone": TranscriptionDone, "OpenAIError": OpenAIError}
