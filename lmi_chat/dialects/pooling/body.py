"""Declare the fields of a pooling request."""

from typing import Annotated, Any, Literal

from typing_extensions import TypedDict

from lmi_chat.dialects.body import Adapters, AtMost, Encoding, Model, PooledTexts, User, field
from lmi_chat.dialects.embedding.body import VectorOptions

_Texts = Annotated[
    Any,
    field("what is to be pooled", shown="string, array of token ids, or array of these", allows={"minItems": 1}),
    AtMost("max_inputs"),
]


class PoolOptions(Encoding, VectorOptions, PooledTexts, total=False):
    """What stands beside the inputs, or in `parameters`."""

    task: Annotated[
        Literal["embed", "classify", "token_embed", "token_classify"] | None,
        field("the model's own task: other ones need option.pooler_config"),
    ]


class _Inputs(TypedDict, total=False):
    input: _Texts
    inputs: _Texts


class PoolingBody(PoolOptions, _Inputs, total=False):
    """A pooling request: `input` as vLLM has it, or `inputs`, whose answer is a bare array."""

    parameters: Annotated[Any, field("the other fields may stand here, too", shown="object")]
    model: Model
    adapters: Adapters
    user: User
