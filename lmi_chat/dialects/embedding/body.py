"""Declare the fields of an embedding request."""

from typing import Annotated, Any

from typing_extensions import TypedDict

from lmi_chat.dialects.body import (
    MAX_INT,
    NOT_YET,
    Adapters,
    AtMost,
    Encoding,
    Flag,
    Integer,
    Model,
    PooledTexts,
    Refused,
    Sets,
    SpecialTokens,
    User,
    field,
)

_Normalize = Annotated[Flag, field("vectors of length 1; absent: as option.normalize says"), Sets("is_normalized")]
_Texts = Annotated[
    Any,
    field("what is to be embedded", shown="string, array of token ids, or array of these", allows={"minItems": 1}),
    AtMost("max_inputs"),
]


class VectorOptions(TypedDict, total=False):
    """How vectors are made."""

    dimensions: Annotated[Integer, field("numbers per vector; of Matryoshka models only", ge=1, le=MAX_INT)]
    normalize: _Normalize
    use_activation: _Normalize
    add_special_tokens: SpecialTokens


class Pooling(Encoding, VectorOptions, PooledTexts, total=False):
    """What stands beside the inputs, or in `parameters`."""

    prompt_name: Annotated[Any, field(NOT_YET), Refused()]


class EmbeddingBody(Pooling, total=False):
    """An embedding request: OpenAI's `input`, or LMI's `inputs`."""

    input: _Texts
    inputs: _Texts
    parameters: Annotated[Any, field("the fields from encoding_format on may stand here, too", shown="object")]
    model: Model
    adapters: Adapters
    user: User
