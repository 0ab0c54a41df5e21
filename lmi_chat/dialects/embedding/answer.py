"""Declare the answers to an embedding request: OpenAI's list, or LMI's bare array."""

from typing import Annotated, Literal

from pydantic import Field
from typing_extensions import TypedDict

from lmi_chat.dialects.answer import Count, ServedModel

Vector = list[float] | Annotated[str, Field(json_schema_extra={"contentEncoding": "base64"})]


class OneEmbedding(TypedDict):
    """The vector of one input."""

    object: Literal["embedding"]
    index: Count
    embedding: Vector


class EmbeddingUsage(TypedDict):
    """Tokens of the inputs."""

    prompt_tokens: Count
    total_tokens: Count


class EmbeddingsEnd(TypedDict):
    """What stands behind the vectors."""

    model: ServedModel
    usage: EmbeddingUsage


class Embeddings(EmbeddingsEnd):
    """The vectors of all inputs, in their order."""

    object: Literal["list"]
    data: list[OneEmbedding]


WHOLE = {"Embeddings": Embeddings, "Vectors": list[Vector]}
