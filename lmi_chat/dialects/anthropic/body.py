"""Declare the fields of a request in Anthropic's form."""

from typing import Annotated, Any, Literal

from pydantic.fields import FieldInfo
from typing_extensions import TypedDict

from lmi_chat.dialects.body import (
    MAX_INT,
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

IGNORED = {
    "context_management": "a conversation is taken as it is sent",
    "mcp_servers": "no other server's tools are called here",
    "container": "no code is run here",
    "fallbacks": "no other model is asked here",
    "diagnostics": "what was cached is told by the usage alone",
    "inference_geo": "this server stands where it stands",
    "speed": "there is one speed here",
    "billing_policy": "nobody is billed here",
}
"""What only Anthropic's own server does, and why it is not done here; a warning tells it."""


def _ignored(name: str, shown: str) -> FieldInfo:
    return field(f"is ignored: {IGNORED[name]}", shown=shown)


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
    output_format: Annotated[Any, field("as output_config.format, in older clients' words", shown="object")]
    chat_template_kwargs: Annotated[
        dict[str, Any] | None, field("variables that the template reads; option.chat_template_kwargs allows others")
    ]
    metadata: Annotated[Any, field("{user_id}: who asks; users take turns", shown="object")]
    priority: Priority
    cache_salt: Salt
    service_tier: Annotated[Literal["auto", "standard_only"] | None, field("is taken and has no effect")]
    cache_control: Annotated[Any, field("is taken and has no effect: prefixes are always cached", shown="object")]
    anthropic_version: Annotated[Text, field("any; chooses this kind of request where any kind is taken")]
    anthropic_beta: Annotated[Any, field("is taken and has no effect", shown="array of strings")]
    context_management: Annotated[Any, _ignored("context_management", "object")]
    mcp_servers: Annotated[Any, _ignored("mcp_servers", "array of objects")]
    container: Annotated[Any, _ignored("container", "string or object")]
    fallbacks: Annotated[Any, _ignored("fallbacks", "string or array of objects")]
    diagnostics: Annotated[Any, _ignored("diagnostics", "object")]
    inference_geo: Annotated[Any, _ignored("inference_geo", "string")]
    speed: Annotated[Any, _ignored("speed", "string")]
    billing_policy: Annotated[Any, _ignored("billing_policy", "object")]
    thread: Annotated[Any, field("no conversation is held: each request has all of it"), Refused()]
    compaction: Annotated[Any, field("must be absent: nothing is compacted here"), Refused()]


class ThinkingOptions(TypedDict, total=False):
    """What `thinking` says."""

    type: Annotated[
        Literal["enabled", "adaptive", "between_tools", "disabled"] | None, field("whether the model thinks")
    ]
    budget_tokens: Annotated[Integer, field("tokens to think with; below max_tokens", ge=1, le=MAX_INT)]
    display: Annotated[
        Literal["summarized", "omitted", "updates"] | None, field("omitted: what was thought does not come back")
    ]


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
