"""Declare the fields of a request in Anthropic's form."""

from typing import Annotated, Any, Literal

from typing_extensions import TypedDict

from lmi_chat.dialects.body import (
    MAX_INT,
    NOT_YET,
    Adapters,
    AtMost,
    Flag,
    Integer,
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


class MessagesBody(TokenChoice, total=False):
    """A request for a message: Anthropic's Messages, and the fields of how tokens are chosen."""

    model: Model
    adapters: Adapters
    max_tokens: Annotated[Integer, field("tokens to generate; must be given", ge=1, le=MAX_INT)]
    messages: Annotated[
        Any, field("the conversation", shown="array of messages", allows={"minItems": 1}), AtMost("max_messages")
    ]
    system: Annotated[Any, field("what stands before the conversation", shown="string or array of texts")]
    stream: Stream
    temperature: Annotated[Number, field("randomness; below 0.01 is greedy", default=1.0, ge=0, le=2)]
    stop_sequences: Annotated[Stop, Sets("stop")]
    tools: Annotated[Any, field("what the model may call", shown="array of tools"), AtMost("max_tools")]
    tool_choice: Annotated[Any, field("{type: auto, any, tool or none}; absent: auto with tools", shown="object")]
    thinking: Annotated[
        Any, field("{type: enabled, adaptive or disabled}; absent: as the model's template has it", shown="object")
    ]
    output_config: Annotated[Any, field("{effort, format: {type: json_schema, schema}}", shown="object")]
    metadata: Annotated[Any, field("{user_id}: who asks; users take turns", shown="object")]
    priority: Priority
    cache_salt: Salt
    service_tier: Annotated[Literal["auto", "standard_only"] | None, field("is taken and has no effect")]
    cache_control: Annotated[Any, field("is taken and has no effect: prefixes are always cached", shown="object")]
    anthropic_version: Annotated[Text, field("any; chooses this kind of request where any kind is taken")]
    anthropic_beta: Annotated[Any, field("is taken and has no effect", shown="array of strings")]
    mcp_servers: Annotated[Any, field(f"{NOT_YET}"), Refused([])]
    thread: Annotated[Any, field("no conversation is held: each request has all of it"), Refused()]
    container: Annotated[Any, field(f"{NOT_YET}"), Refused()]


class ThinkingOptions(TypedDict, total=False):
    """What `thinking` says."""

    type: Annotated[
        Literal["enabled", "adaptive", "between_tools", "disabled"] | None, field("whether the model thinks")
    ]
    budget_tokens: Annotated[Integer, field("tokens to think with; below max_tokens", ge=1, le=MAX_INT)]
    display: Annotated[Literal["summarized", "omitted"] | None, field("omitted: what was thought does not come back")]


class OutputOptions(TypedDict, total=False):
    """What `output_config` says."""

    effort: Annotated[
        Literal["low", "medium", "high", "xhigh", "max"] | None,
        field("how much is thought, where the template reads it"),
    ]
    format: Annotated[Any, field("the text's form: {type: json_schema, schema}", shown="object")]


class RequestMetadata(TypedDict, total=False):
    """What `metadata` says."""

    user_id: User


class ToolChoiceOptions(TypedDict, total=False):
    """What `tool_choice` says."""

    type: Annotated[Literal["auto", "any", "tool", "none"] | None, field("whether tools are called")]
    name: Annotated[Text, field("the tool to call", min_length=1)]
    disable_parallel_tool_use: Annotated[Flag, field("true: at most one call", default=False)]
