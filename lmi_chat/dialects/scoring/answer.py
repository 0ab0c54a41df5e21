"""Declare the answers to requests to score and to rank: vLLM's, Text Embeddings Inference's and LMI's."""

from typing import Annotated, Literal, NotRequired

from pydantic import Field
from typing_extensions import TypedDict

from lmi_chat.dialects.answer import Count, EmbeddingUsage, ServedModel


class OneScore(TypedDict):
    """The score of one pair."""

    index: Count
    object: Literal["score"]
    score: float


class ScoredHead(TypedDict):
    """What the answer begins with."""

    id: str
    object: Literal["list"]
    created: Count
    model: ServedModel


class Scored(ScoredHead):
    """The scores of all pairs, in their order."""

    data: list[OneScore]
    usage: EmbeddingUsage


class RankedText(TypedDict):
    """A document as it was sent."""

    text: str


class RankedDocument(TypedDict):
    """A document by its place in the request, and its score."""

    index: Count
    document: NotRequired[Annotated[RankedText, Field(description="unless return_documents is false")]]
    relevance_score: float


class Ranked(TypedDict):
    """The documents, the most relevant first."""

    id: str
    model: ServedModel
    usage: EmbeddingUsage
    results: list[RankedDocument]


class RankedRow(TypedDict):
    """A text by its place in the request, and its score, as Text Embeddings Inference has it."""

    index: Count
    text: NotRequired[Annotated[str, Field(description="with return_text")]]
    score: float


SCORED = {"Scored": Scored, "PairScores": list[float]}
RANKED = {"Ranked": Ranked, "RankedRows": list[RankedRow]}
