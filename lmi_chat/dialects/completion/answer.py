"""Declare the answers to a completion, whole and streamed."""

from typing import Literal, NotRequired

from typing_extensions import TypedDict

from lmi_chat.dialects.answer import (
    Choice,
    CompletionUsage,
    Count,
    FinishWord,
    Head,
    Logprob,
    OpenAIError,
    PromptLogprobs,
    StopReason,
)


class CompletionLogprobs(TypedDict):
    """Four arrays in parallel, one entry per token."""

    tokens: list[str]
    token_logprobs: list[Logprob | None]
    top_logprobs: list[dict[str, Logprob] | None]
    text_offset: list[Count]


class CompletionChoice(Choice):
    """One text, or a piece of it."""

    text: str
    logprobs: CompletionLogprobs | None
    finish_reason: FinishWord
    stop_reason: StopReason
    prompt_logprobs: NotRequired[PromptLogprobs]


class CompletionHead(Head):
    """What is the same in every piece of a stream."""

    object: Literal["text_completion"]


class Completion(CompletionHead):
    """A completion, or one piece of its stream."""

    choices: list[CompletionChoice]
    usage: NotRequired[CompletionUsage | None]


WHOLE = {"Completion": Completion}
ITEMS = {"Completion": Completion, "OpenAIError": OpenAIError}
