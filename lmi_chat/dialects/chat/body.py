"""Declare the fields of a chat, and of a session's request."""

from typing import Annotated, Any, Literal, get_args

from pydantic import Field
from typing_extensions import TypedDict

from lmi_chat.dialects.body import MAX_INT, AtMost, Flag, Integer, Model, OpenAI, Refused, Sets, ShownAs, field

PAIRS_MOST, KEY_CHARS, VALUE_CHARS = 16, 64, 512
MaxTokens = Annotated[Integer, field("tokens to generate; absent: what has room", ge=1, le=MAX_INT)]

Messages = Annotated[
    Any, field("the conversation", shown="array of messages", allows={"minItems": 1}), AtMost("max_messages")
]
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

    messages: Messages
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
    tools: Annotated[Any, field("functions that the model may call", shown="array of tools"), AtMost("max_tools")]
    tool_choice: Annotated[
        Any, field("none, auto, required, or the one to call; absent: auto with tools", shown="string or object")
    ]
    parallel_tool_calls: Annotated[Flag, field("false: at most one call; says nothing without tools", default=True)]
    functions: Annotated[
        Any,
        field("as tools, in OpenAI's older words; the answer has tool_calls", shown="array of functions"),
        AtMost("max_tools"),
    ]
    function_call: Annotated[Any, field("as tool_choice, in OpenAI's older words", shown="string or object")]
    reasoning_effort: Annotated[
        Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None,
        field("how much is reasoned: a variable of the template, and none switches thinking off where it can be"),
    ]
    include_reasoning: Annotated[Flag, field("false: what was reasoned does not come back", default=True)]
    thinking_token_budget: Annotated[
        Integer, field("tokens to reason with, where the model's reasoning is taken apart; -1: any", ge=-1, le=MAX_INT)
    ]
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
