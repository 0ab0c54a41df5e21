"""Declare the answers to a pooling request: vLLM's list, or a bare array."""

from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import TypedDict

from lmi_chat.dialects.answer import Count, EmbeddingUsage, ServedModel, Vector

Numbers = Vector | Annotated[list[list[float]], Field(description="a vector for each token")]


class OnePooled(TypedDict):
    """What the model gives for one input."""

    index: Count
    object: Literal["pooling"]
    data: Numbers


class PooledHead(TypedDict):
    """What the answer begins with."""

    id: str
    object: Literal["list"]
    created: Count
    model: ServedModel


class Pooled(PooledHead):
    """What the model gives for all inputs, in their order."""

    data: list[OnePooled]
    usage: EmbeddingUsage


WHOLE = {"Pooled": Pooled, "PooledNumbers": list[Numbers]}
