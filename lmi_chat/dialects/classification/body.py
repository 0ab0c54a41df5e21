"""Declare the fields of a request to classify."""

from typing import Annotated, Any

from typing_extensions import TypedDict

from lmi_chat.dialects.body import (
    MAX_INT,
    Adapters,
    AtMost,
    Flag,
    Integer,
    Model,
    PooledTexts,
    Sets,
    SpecialTokens,
    User,
    field,
)

PROBABILITIES = "false: the model's own numbers, not probabilities; absent: as the model has it"
RAW = "true: the model's own numbers, as use_activation false"


class Activated(PooledTexts, total=False):
    """Whether the model's numbers come as probabilities."""

    use_activation: Annotated[Flag, field(PROBABILITIES), Sets("is_normalized")]
    raw_scores: Annotated[Flag, field(RAW)]


class LabelOptions(Activated, total=False):
    """What stands beside the inputs, or in `parameters`."""

    top_k: Annotated[
        Integer,
        field("with inputs: labels that come back, the likeliest; absent: all", ge=1, le=MAX_INT),
        Sets("labels", is_sampling=False),
    ]
    add_special_tokens: SpecialTokens


class _Inputs(TypedDict, total=False):
    input: Annotated[
        Any,
        field(
            "what is to be classified", shown="string, array of token ids, or array of these", allows={"minItems": 1}
        ),
        AtMost("max_inputs"),
    ]
    inputs: Annotated[
        Any,
        field("what is to be classified", shown="text, pair, or array of these", allows={"minItems": 1}),
        AtMost("max_inputs"),
    ]


class ClassificationBody(LabelOptions, _Inputs, total=False):
    """A request to classify: vLLM's `input`, or `inputs` of LMI and Text Embeddings Inference."""

    parameters: Annotated[Any, field("the other fields may stand here, too", shown="object")]
    model: Model
    adapters: Adapters
    user: User
