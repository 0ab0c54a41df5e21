"""Declare the fields of a chat, and of a session's request."""

from typing import Annotated, Any, Literal, get_args

from pydantic import Field
from typing_extensions import TypedDict

from lmi_chat.dialects.body import MAX_INT, NOT_YET, AtMost, Flag, Integer, Model, OpenAI, Refused, Sets, ShownAs, field

PAIRS_MOST, KEY_CHARS, VALUE_CHARS = 16, 64, 512
MaxTokens = Annotated[Integer, field("tokens to generate; absent: what has room", ge=1, le=MAX_INT)]

_Label = Annotated[str, Field(max_length=KEY_CHARS)]
Metadata = Annotated[
    Any,
    ShownAs(
        Annotated[dict[_Label, Annotated[str, Field(max_length=VALUE_CHARS)]], Field(max_length=PAIRS_MOST)] | None
    ),
    field(
        f"labels; keys of at most {KEY_CHARS}, values of at most {VALUE_CHARS} characters", shown="object of strings"
    ),
    AtMost(PAIRS_MOST),
]


class ChatBody(OpenAI, total=False):
    """A chat: OpenAI's chat completions, and vLLM's fields beyond them."""

    messages: Annotated[
        Any, field("the conversation", shown="array of messages", allows={"minItems": 1}), AtMost("max_messages")
    ]
    max_tokens: MaxTokens
    max_completion_tokens: Annotated[MaxTokens, Sets("max_tokens")]
    logprobs: Annotated[Flag, field("log-probabilities of the answer's tokens", default=False)]
    top_logprobs: Annotated[
        Integer, field("alternatives per token; needs logprobs", default=0, ge=0), AtMost("max_logprobs")
    ]
    add_generation_prompt: Annotated[Flag, field("open the assistant's turn; absent: unless a message is continued")]
    continue_final_message: Annotated[Flag, field("go on with the last message instead of a new turn", default=False)]
    echo: Annotated[Flag, field("with continue_final_message: its beginning comes back, too", default=False)]
    chat_template_kwargs: Annotated[
        dict[str, Any] | None, field("variables that the template reads; option.chat_template_kwargs allows others")
    ]
    store: Annotated[Flag, field("keep the completion, where option.store names a file", default=False)]
    metadata: Metadata
    service_tier: Annotated[
        Literal["auto", "default", "flex", "priority"] | None, field("who goes first, where priorities count")
    ]
    modalities: Annotated[Any, field("the served model gives text only", shown='["text"]')]
    audio: Annotated[Any, field("the served model gives text only", shown="null")]
    parallel_tool_calls: Annotated[Flag, field("says nothing without tools", default=True)]
    tools: Annotated[Any, field(NOT_YET), Refused([])]
    tool_choice: Annotated[Any, field(NOT_YET), Refused("none", "auto")]
    functions: Annotated[Any, field(NOT_YET), Refused([])]
    function_call: Annotated[Any, field(NOT_YET), Refused("none", "auto")]
    reasoning_effort: Annotated[Any, field(NOT_YET), Refused("none")]
    chat_template: Annotated[
        Any, field("is never taken from a request; it is configuration (option.chat_template)"), Refused()
    ]


class MetadataBody(TypedDict):
    """Replaces the labels of a stored completion."""

    metadata: Metadata


_Session = Literal["NEW_SESSION", "CLOSE"]
SESSIONS = get_args(_Session)


class SessionBody(TypedDict, total=False):
    """Opens a session, or closes one."""

    requestType: Annotated[_Session | None, field("open a session, or close the header's")]
    model: Model
