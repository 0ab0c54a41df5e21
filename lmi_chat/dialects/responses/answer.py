"""Declare a response, its items, the events of its stream, and the pages of its input."""

from typing import Annotated, Any, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from lmi_chat.dialects.answer import Count, ServedModel
from lmi_chat.dialects.chat.answer import ChatChosenToken, PageEnds

Status = Literal["in_progress", "completed", "incomplete", "failed"]
ItemStatus = Literal["in_progress", "completed", "incomplete"]


class OutputText(TypedDict):
    """What the model says."""

    type: Literal["output_text"]
    text: str
    annotations: list[Any]
    logprobs: list[ChatChosenToken]


class OutputMessage(TypedDict):
    """A message of the model."""

    id: str
    type: Literal["message"]
    status: ItemStatus
    role: Literal["assistant"]
    content: list[OutputText]


class ReasoningText(TypedDict):
    """What the model thinks."""

    type: Literal["reasoning_text"]
    text: str


class ReasoningItem(TypedDict):
    """What the model thinks before it answers."""

    id: str
    type: Literal["reasoning"]
    status: ItemStatus
    summary: list[Any]
    content: list[ReasoningText]


class FunctionCall(TypedDict):
    """A call of a function."""

    id: str
    type: Literal["function_call"]
    status: ItemStatus
    call_id: str
    name: str
    namespace: NotRequired[str]
    arguments: Annotated[str, Field(description="as the model wrote them: JSON, unless the answer was cut")]


class CustomToolCall(TypedDict):
    """A call of a custom tool."""

    id: str
    type: Literal["custom_tool_call"]
    status: ItemStatus
    call_id: str
    name: str
    namespace: NotRequired[str]
    input: Annotated[str, Field(description="a free text")]


OutputItem = OutputMessage | ReasoningItem | FunctionCall | CustomToolCall


class InputDetails(TypedDict):
    """How many of the input's tokens the engine had kept."""

    cached_tokens: Count
    cache_write_tokens: Annotated[Count, Field(description="0: none is written that is counted apart")]


class OutputDetails(TypedDict):
    """How many tokens were no part of the answer."""

    reasoning_tokens: Count


class ResponseUsage(TypedDict):
    """The usage object, in tokens."""

    input_tokens: Count
    input_tokens_details: InputDetails
    output_tokens: Count
    output_tokens_details: OutputDetails
    total_tokens: Count


class ResponseError(TypedDict):
    """Why a response failed."""

    code: str
    message: str


class Incomplete(TypedDict):
    """Why a response is incomplete."""

    reason: Literal["max_output_tokens"]


class Asked(TypedDict):
    """What was asked for, as a response repeats it."""

    background: Literal[False]
    instructions: str | None
    max_output_tokens: int | None
    max_tool_calls: int | None
    parallel_tool_calls: bool
    previous_response_id: str | None
    prompt_cache_key: str | None
    safety_identifier: str | None
    service_tier: str
    store: Annotated[bool, Field(description="whether it is kept")]
    temperature: float
    top_logprobs: Count
    top_p: float
    truncation: str
    user: str | None
    metadata: dict[str, str]
    reasoning: dict[str, Any]
    text: dict[str, Any]
    tool_choice: Any
    tools: list[dict[str, Any]]


class Response(Asked):
    """A response."""

    id: str
    object: Literal["response"]
    created_at: Count
    completed_at: int | None
    status: Status
    error: ResponseError | None
    incomplete_details: Incomplete | None
    model: ServedModel
    output: list[OutputItem]
    usage: ResponseUsage | None


class ResponseEvent(TypedDict):
    """One event of a stream: its members beyond these are those of OpenAI's event of that type."""

    type: str
    sequence_number: Count
    response: NotRequired[Response]
    item: NotRequired[OutputItem]
    part: NotRequired[OutputText | ReasoningText]
    item_id: NotRequired[str]
    output_index: NotRequired[Count]
    content_index: NotRequired[Count]
    delta: NotRequired[str]
    text: NotRequired[str]
    arguments: NotRequired[str]
    input: NotRequired[str]
    name: NotRequired[str]
    logprobs: NotRequired[list[ChatChosenToken]]


class InputItems(PageEnds):
    """A page of what stood before a response: its input, and the conversation that it goes on with."""

    object: Literal["list"]
    data: list[dict[str, Any]]


class DeletedResponse(TypedDict):
    """A stored response that is no more."""

    id: str
    object: Literal["response"]
    deleted: Literal[True]


WHOLE = {"Response": Response}
ITEMS = {"ResponseEvent": ResponseEvent}
STORED = {"ResponseInputItems": InputItems, "DeletedResponse": DeletedResponse}
