"""Declare the fields of a request for a response, as OpenAI's Responses have them, and vLLM's beyond them."""

from typing import Annotated, Any, Literal

from typing_extensions import TypedDict

from lmi_chat.dialects.body import (
    MAX_INT,
    USER_CHARS,
    Adapters,
    AtMost,
    Flag,
    IgnoreEos,
    Integer,
    LogitBias,
    MinTokens,
    Model,
    Number,
    Priority,
    Refused,
    Salt,
    Sets,
    Stop,
    Stream,
    Text,
    TokenChoice,
    User,
    field,
)
from lmi_chat.dialects.chat.body import Metadata

ID_CHARS = 256
Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
Level = Literal["low", "medium", "high"]
Summary = Literal["auto", "concise", "detailed"]
LOGPROBS = "message.output_text.logprobs"
ENCRYPTED = "reasoning.encrypted_content"
INCLUDED = (LOGPROBS, ENCRYPTED, "message.input_image.image_url")
OF_TOOLS = (
    "web_search_call.action.sources",
    "web_search_call.results",
    "code_interpreter_call.outputs",
    "computer_call_output.output.image_url",
    "file_search_call.results",
)
"""What tools would add that are not served: there is never any of it."""


class ResponsesBody(TokenChoice, total=False):
    """A request for a response."""

    input: Annotated[
        Any,
        field("a text, or the items of the conversation: messages, calls of tools, outputs", shown="string or array"),
        AtMost("max_messages"),
    ]
    instructions: Annotated[Text, field("a system message before the input; not carried on by previous_response_id")]
    previous_response_id: Annotated[
        Text, field("go on with a stored response: its conversation stands before the input", max_length=ID_CHARS)
    ]
    model: Model
    adapters: Adapters
    stream: Stream
    stream_options: Annotated[Any, field("with stream true: include_obfuscation, which adds nothing", shown="object")]
    max_output_tokens: Annotated[
        Integer, field("tokens to generate, reasoning included", ge=1, le=MAX_INT), Sets("max_tokens")
    ]
    temperature: Annotated[Number, field("randomness; below 0.01 is greedy", default=1.0, ge=0, le=2)]
    include: Annotated[Any, field(f"{LOGPROBS}; what is never there is ignored", shown="array of strings")]
    top_logprobs: Annotated[
        Integer,
        field(f"alternatives per token; needs include with {LOGPROBS}", default=0, ge=0),
        AtMost("max_logprobs"),
    ]
    tools: Annotated[
        Any,
        field("functions, custom tools and namespaces of both that the model may call", shown="array of tools"),
        AtMost("max_tools"),
    ]
    tool_choice: Annotated[
        Any, field("none, auto, required, or the one to call; absent: auto with tools", shown="string or object")
    ]
    parallel_tool_calls: Annotated[Flag, field("false: at most one call; says nothing without tools", default=True)]
    max_tool_calls: Annotated[Integer, field("bounds the built-in tools alone, and none is served", ge=1, le=MAX_INT)]
    text: Annotated[Any, field("format: text, json_object or json_schema; verbosity", shown="object")]
    reasoning: Annotated[Any, field("effort; summary asks for nothing that is served", shown="object")]
    store: Annotated[Flag, field("keep the response, where option.store names a file; absent: where it does")]
    metadata: Metadata
    client_metadata: Annotated[Any, field("what Codex tells of itself; asks for nothing", shown="object")]
    service_tier: Annotated[
        Literal["auto", "default", "flex", "priority"] | None, field("who goes first, where priorities count")
    ]
    truncation: Annotated[
        Literal["auto", "disabled"] | None,
        field("auto: the oldest turns go where the context is too short for all", default="disabled"),
    ]
    user: User
    safety_identifier: Annotated[Text, field("as user, where that is absent", max_length=USER_CHARS)]
    prompt_cache_key: Annotated[Text, field("comes back; prefixes are cached without it", max_length=USER_CHARS)]
    prompt_cache_retention: Annotated[
        Literal["in_memory", "in-memory", "24h"] | None, field("asks for nothing: prefixes stay while there is room")
    ]
    background: Annotated[
        Any,
        field("must be false: an answer is not made in the background; POST /async-invocations or stream it"),
        Refused(False),  # noqa: FBT003 a value, no switch
    ]
    conversation: Annotated[
        Any, field("must be absent: conversations are not kept; previous_response_id goes on with one"), Refused()
    ]
    prompt: Annotated[Any, field("must be absent: prompts are not kept here; send instructions and input"), Refused()]
    context_management: Annotated[Any, field("must be absent: nothing is compacted here"), Refused()]
    moderation: Annotated[Any, field("must be absent: nothing is moderated here"), Refused()]
    stop: Stop
    min_tokens: MinTokens
    ignore_eos: IgnoreEos
    skip_special_tokens: Annotated[Flag, field("leave special tokens out of the text", default=True)]
    logit_bias: LogitBias
    chat_template_kwargs: Annotated[
        dict[str, Any] | None, field("variables that the template reads; option.chat_template_kwargs allows others")
    ]
    thinking_token_budget: Annotated[
        Integer, field("tokens to reason with, where the model's reasoning is taken apart; -1: any", ge=-1, le=MAX_INT)
    ]
    priority: Priority
    cache_salt: Salt


class TextOptions(TypedDict, total=False):
    """What stands in `text`."""

    format: Annotated[Any, field("the text's form", shown="object")]
    verbosity: Annotated[Level | None, field("is told to the template, where it reads it")]


class ReasoningOptions(TypedDict, total=False):
    """What stands in `reasoning`."""

    effort: Annotated[Effort | None, field("how much is reasoned"), Sets("reasoning_effort", is_sampling=False)]
    summary: Annotated[Summary | None, field("is ignored: the reasoning itself comes back")]
    generate_summary: Annotated[Summary | None, field("as summary")]
    context: Annotated[Literal["auto", "current_turn", "all_turns"] | None, field("asks for nothing")]


class StreamOptions(TypedDict, total=False):
    """What stands in `stream_options`."""

    include_obfuscation: Annotated[Flag, field("is ignored: events are not padded")]
