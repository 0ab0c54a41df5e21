"""Declare the answers to a chat, to a session's request and of stored completions."""

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from lmi_chat.dialects.answer import (
    ByDeployment,
    Choice,
    CompletionUsage,
    Count,
    Head,
    Logprob,
    OpenAIError,
    PromptLogprobs,
    StopReason,
    words,
)
from lmi_chat.dialects.deployment import Deployment
from lmi_chat.dialects.sequence import CALLED


def _words(deployment: Deployment) -> list[str]:
    has_called = bool(deployment.tool_parser) and deployment.finish_words is None
    return [*words(deployment), *([CALLED] if has_called else [])]


FinishWord = Annotated[str | None, ByDeployment(lambda deployment: {"enum": [*_words(deployment), None]})]
LastWord = Annotated[str | None, ByDeployment(lambda deployment: {"enum": _words(deployment)})]
"""A whole answer's: every sequence has ended."""


class ChatTokenLogprob(TypedDict):
    """A token and its log-probability."""

    token: str
    logprob: Logprob
    bytes: list[Annotated[int, Field(ge=0, le=255)]]


class ChatChosenToken(ChatTokenLogprob):
    """A token of the answer, and those that might have stood there."""

    top_logprobs: list[ChatTokenLogprob]


class ChatLogprobs(TypedDict):
    """The log-probabilities of an answer's tokens."""

    content: list[ChatChosenToken]


class Reasoning(TypedDict, total=False):
    """What the model thinks before it answers, by the names of `option.reasoning_field`; absent where it does not."""

    reasoning: str
    reasoning_content: str


class CalledFunction(TypedDict):
    """A tool that is called."""

    name: str
    arguments: Annotated[str, Field(description="as the model wrote them: JSON, unless the answer was cut")]


class ChatToolCall(TypedDict):
    """A call of a tool."""

    id: str
    type: Literal["function"]
    function: CalledFunction


class CalledFunctionDelta(TypedDict):
    """More of a call: its name at first, then its arguments piece by piece."""

    name: NotRequired[str]
    arguments: str


class ChatToolCallDelta(TypedDict):
    """A piece of a call: the first one names it, `index` says which of the answer's calls it is."""

    index: Count
    id: NotRequired[str]
    type: NotRequired[Literal["function"]]
    function: CalledFunctionDelta


class ChatAnswerMessage(Reasoning):
    """What the assistant says; `content` is null where it calls tools and says nothing."""

    role: Literal["assistant"]
    content: str | None
    refusal: None
    tool_calls: NotRequired[list[ChatToolCall]]


class ChatDelta(Reasoning):
    """What the assistant says more; the first piece of a sequence names the role, the last one is empty."""

    role: NotRequired[Literal["assistant"]]
    content: NotRequired[str]
    tool_calls: NotRequired[list[ChatToolCallDelta]]


class ChatChoice(Choice):
    """One answer."""

    message: ChatAnswerMessage
    logprobs: ChatLogprobs | None
    finish_reason: LastWord
    stop_reason: StopReason


class ChatChunkChoice(Choice):
    """A piece of one answer."""

    delta: ChatDelta
    logprobs: ChatLogprobs | None
    finish_reason: FinishWord
    stop_reason: NotRequired[StopReason]


class ChatCompletion(Head):
    """A whole chat completion."""

    object: Literal["chat.completion"]
    service_tier: str | None
    choices: list[ChatChoice]
    usage: CompletionUsage
    prompt_logprobs: NotRequired[PromptLogprobs]
    metadata: NotRequired[Annotated[dict[str, str], Field(description="of a stored completion")]]


class ChatChunkHead(Head):
    """What is the same in every piece of a stream."""

    object: Literal["chat.completion.chunk"]
    service_tier: NotRequired[str | None]


class ChatCompletionChunk(ChatChunkHead):
    """One piece of a stream."""

    choices: list[ChatChunkChoice]
    usage: NotRequired[CompletionUsage | None]


class SessionAnswer(TypedDict):
    """What has become of a session."""

    result: str


class PageEnds(TypedDict):
    """Where a page of a list begins and ends."""

    first_id: str | None
    last_id: str | None
    has_more: bool


class StoredCompletions(PageEnds):
    """A page of stored completions."""

    object: Literal["list"]
    data: list[ChatCompletion]


class StoredMessage(TypedDict):
    """A message as it was sent, with an id."""

    id: str
    role: str
    content: str | None
    name: str | None
    content_parts: list[dict[str, Any]] | None
    tool_calls: NotRequired[list[dict[str, Any]]]
    tool_call_id: NotRequired[str]
    reasoning: NotRequired[str]
    reasoning_content: NotRequired[str]
    refusal: NotRequired[str]


class StoredMessages(PageEnds):
    """A page of what was asked in a stored completion."""

    object: Literal["list"]
    data: list[StoredMessage]


class Deleted(TypedDict):
    """A stored completion that is no more."""

    object: Literal["chat.completion.deleted"]
    id: str
    deleted: Literal[True]


WHOLE = {"ChatCompletion": ChatCompletion}
ITEMS = {"ChatCompletionChunk": ChatCompletionChunk, "OpenAIError": OpenAIError}
SESSION = {"Session": SessionAnswer}
STORED = {"StoredCompletions": StoredCompletions, "StoredMessages": StoredMessages, "Deleted": Deleted}
