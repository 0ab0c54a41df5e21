"""Declare the answers to an embedding request: OpenAI's list, or LMI's bare array."""

from typing import Literal

from typing_extensions import TypedDict

from lmi_chat.dialects.answer import Count, EmbeddingUsage, ServedModel, Vector


class OneEmbedding(TypedDict):
    """The vector of one input."""

    object: Literal["embedding"]
    index: Count
    embedding: Vector


class EmbeddingsEnd(TypedDict):
    """What stands behind the vectors."""

    model: ServedModel
    usage: EmbeddingUsage


class Embeddings(EmbeddingsEnd):
    """The vectors of all inputs, in their order."""

    object: Literal["list"]
    data: list[OneEmbedding]


WHOLE = {"Embeddings": Embeddings, "Vectors": list[Vector]}
