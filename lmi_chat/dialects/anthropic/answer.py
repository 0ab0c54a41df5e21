"""Declare the answers to a request in Anthropic's form."""

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from lmi_chat.dialects.answer import Count, ServedModel

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use"]
ErrorType = Literal[
    "invalid_request_error",
    "authentication_error",
    "permission_error",
    "not_found_error",
    "request_too_large",
    "rate_limit_error",
    "api_error",
    "overloaded_error",
    "timeout_error",
]


class MessageText(TypedDict):
    """What the assistant says."""

    type: Literal["text"]
    text: str


class MessageThinking(TypedDict):
    """What the model thinks."""

    type: Literal["thinking"]
    thinking: str
    signature: Annotated[str, Field(description="a digest of the thought, which is not checked when it comes back")]


class MessageToolUse(TypedDict):
    """A call of a tool."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: Annotated[dict[str, Any], Field(description="of an answer that was cut: what there is of it")]


ContentBlock = MessageText | MessageThinking | MessageToolUse


class ThinkingDetails(TypedDict):
    """How many of the tokens were thought."""

    thinking_tokens: Count


class MessageUsage(TypedDict):
    """Tokens of the prompt that had to be computed, those that were cached, and those of the answer."""

    input_tokens: Count
    cache_creation_input_tokens: Count
    cache_read_input_tokens: Count
    output_tokens: Count
    output_tokens_details: NotRequired[ThinkingDetails]


class AnthropicMessage(TypedDict):
    """A whole message; at the start of a stream, one without content."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: ServedModel
    content: list[ContentBlock]
    stop_reason: StopReason | None
    stop_sequence: str | None
    usage: MessageUsage


class MessageStart(TypedDict):
    """A stream begins."""

    type: Literal["message_start"]
    message: AnthropicMessage


class ContentBlockStart(TypedDict):
    """A block of the content begins."""

    type: Literal["content_block_start"]
    index: Count
    content_block: ContentBlock


class MessageTextDelta(TypedDict):
    """More text."""

    type: Literal["text_delta"]
    text: str


class ThinkingDelta(TypedDict):
    """More thought."""

    type: Literal["thinking_delta"]
    thinking: str


class SignatureDelta(TypedDict):
    """The end of a thought."""

    type: Literal["signature_delta"]
    signature: str


class InputJsonDelta(TypedDict):
    """More of a call's input, as JSON text."""

    type: Literal["input_json_delta"]
    partial_json: str


BlockDelta = MessageTextDelta | ThinkingDelta | SignatureDelta | InputJsonDelta


class ContentBlockDelta(TypedDict):
    """A block grows."""

    type: Literal["content_block_delta"]
    index: Count
    delta: BlockDelta


class ContentBlockStop(TypedDict):
    """A block is complete."""

    type: Literal["content_block_stop"]
    index: Count


class StopDelta(TypedDict):
    """Why the message ended."""

    stop_reason: StopReason
    stop_sequence: str | None


class MessageDelta(TypedDict):
    """The message is complete."""

    type: Literal["message_delta"]
    delta: StopDelta
    usage: MessageUsage


class MessageStop(TypedDict):
    """The stream is complete."""

    type: Literal["message_stop"]


class Ping(TypedDict):
    """Nothing new."""

    type: Literal["ping"]


class FaultDetails(TypedDict):
    """What Anthropic's clients look for."""

    error_code: Literal["thread_unsupported_request"]


class AnthropicFault(TypedDict):
    """What is wrong."""

    type: ErrorType
    message: str
    details: NotRequired[FaultDetails]


class AnthropicError(TypedDict):
    """An error in Anthropic's shape."""

    type: Literal["error"]
    error: AnthropicFault
    request_id: str | None


class CountedTokens(TypedDict):
    """How long a prompt is."""

    input_tokens: Count


WHOLE = {"AnthropicMessage": AnthropicMessage}
COUNTED = {"CountedTokens": CountedTokens}
ITEMS = {
    "MessageStart": MessageStart,
    "Ping": Ping,
    "ContentBlockStart": ContentBlockStart,
    "ContentBlockDelta": ContentBlockDelta,
    "ContentBlockStop": ContentBlockStop,
    "MessageDelta": MessageDelta,
    "MessageStop": MessageStop,
    "AnthropicError": AnthropicError,
}
