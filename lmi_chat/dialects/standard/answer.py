"""Declare the answers to a standard request: one document per prompt, or a line per token."""

from typing import Annotated, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from lmi_chat.dialects.answer import Count, LmiError, Logprob, PromptScores, TgiLmiError, TokenCounts
from lmi_chat.dialects.sequence import LMI_FINISH

LmiWord = Annotated[str, Field(json_schema_extra={"enum": sorted(LMI_FINISH.values())})]


class GeneratedToken(TypedDict):
    """A token of the text, with its own part of it."""

    id: int
    text: str
    log_prob: Logprob
    logprob: Logprob
    special: bool


class TopToken(TypedDict):
    """A token that might have stood there."""

    id: int
    text: str
    logprob: Logprob
    special: bool


class PrefillToken(TypedDict):
    """A token of the prompt."""

    id: int
    text: str
    log_prob: Logprob
    logprob: Logprob


class SequenceEnd(TypedDict):
    """How a sequence ended."""

    finish_reason: LmiWord
    generated_tokens: Count
    seed: int | None


class TopTokens(TypedDict, total=False):
    """What `top_n_tokens` asks for."""

    top_tokens: list[list[TopToken]]


class SequenceDetails(SequenceEnd, TopTokens):
    """A sequence by its tokens."""

    tokens: list[GeneratedToken]
    prefill: list[PrefillToken]


class OtherSequence(SequenceDetails):
    """A sequence that is not the likeliest."""

    generated_text: str


class MediaCounts(TypedDict, total=False):
    """How many of the prompt's tokens stand for each kind of media, if it has any."""

    multimodal_tokens: dict[str, Count]


class LmiUsage(TokenCounts, MediaCounts):
    """The usage object, in tokens."""

    cached_tokens: Count


class OtherSequences(TypedDict, total=False):
    """What `best_of` and `n` ask for."""

    best_of_sequences: list[OtherSequence]


class GenerationDetails(SequenceDetails, PromptScores, OtherSequences):
    """What `details` asks for."""

    inputs: str
    usage: LmiUsage


class Generation(TypedDict):
    """The whole answer to one prompt."""

    generated_text: str
    details: NotRequired[GenerationDetails]


class LineDetails(SequenceEnd):
    """What the last line of a sequence says of it."""

    input_length: Count


class GenerationLine(TypedDict):
    """One token; the last of a sequence has its whole text."""

    index: Count
    token: GeneratedToken
    generated_text: str | None
    details: LineDetails | None
    top_tokens: NotRequired[list[TopToken]]


class ErrorToken(TypedDict):
    """What stands for a token where there is none."""

    id: Literal[-1]
    text: Literal[""]
    log_prob: float
    special_token: Literal[True]


class ErrorDetails(TypedDict):
    """How far an answer came that breaks off."""

    finish_reason: Literal["error"]
    generated_tokens: Count


class GenerationErrorLine(LmiError):
    """Ends a stream that cannot be completed."""

    token: ErrorToken
    generated_text: str
    details: ErrorDetails


class TgiGenerationErrorLine(GenerationErrorLine, TgiLmiError):
    """Ends a stream that cannot be completed, of a deployment for TGI's clients."""


WHOLE = {"Generation": Generation, "Generations": list[Generation]}
ITEMS = {"GenerationLine": GenerationLine, "GenerationErrorLine": GenerationErrorLine}
