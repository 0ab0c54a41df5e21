"""Declare the answers to a request to classify: vLLM's list, or the labels by their scores."""

from typing import Literal

from typing_extensions import TypedDict

from lmi_chat.dialects.answer import Count, EmbeddingUsage, ServedModel


class ClassifiedHead(TypedDict):
    """What the answer begins with."""

    id: str
    object: Literal["list"]
    created: Count
    model: ServedModel


class OneClassified(TypedDict):
    """One input: its likeliest label, and the numbers of all."""

    index: Count
    label: str | None
    probs: list[float]
    num_classes: Count


class Classified(ClassifiedHead):
    """All inputs, in their order."""

    data: list[OneClassified]
    usage: EmbeddingUsage


class LabelScore(TypedDict):
    """One label, and its number."""

    label: str
    score: float


WHOLE = {"Classified": Classified, "Labels": list[LabelScore], "LabelsOfAll": list[list[LabelScore]]}
