"""Declare the fields of an embedding request."""

from typing import Annotated, Any, Literal

from typing_extensions import TypedDict

from lmi_chat.dialects.body import (
    MAX_INT,
    NOT_YET,
    Adapters,
    AtMost,
    Flag,
    Integer,
    Model,
    Priority,
    Refused,
    Salt,
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


class Pooling(TypedDict, total=False):
    """How vectors are made: beside the inputs, or in `parameters`."""

    encoding_format: Annotated[
        Literal["float", "base64"] | None, field("base64: of little-endian float32 numbers", default="float")
    ]
    dimensions: Annotated[Integer, field("numbers per vector; of Matryoshka models only", ge=1, le=MAX_INT)]
    normalize: _Normalize
    use_activation: _Normalize
    truncate: Annotated[Flag, field("inputs that are longer than the context are cut", default=False)]
    truncate_prompt_tokens: Annotated[
        Integer, field("inputs are cut to so many tokens; -1: to the context", ge=-1, le=MAX_INT)
    ]
    truncation_side: Annotated[Literal["right", "left"] | None, field("where inputs are cut: right"), Sets("side")]
    truncation_direction: Annotated[Literal["Right", "Left"] | None, field("as truncation_side"), Sets("side")]
    add_special_tokens: SpecialTokens
    priority: Priority
    cache_salt: Salt
    stream: Annotated[Any, field("is not served: vectors are given whole"), Refused(False)]  # noqa: FBT003 a value, no switch
    padding: Annotated[Any, field("is not served: vectors do not need it"), Refused("do_not_pad")]
    embed_dtype: Annotated[Any, field("is not served: numbers are float32"), Refused("float32")]
    endianness: Annotated[Any, field("is not served: numbers are little-endian"), Refused("native", "little")]
    prompt_name: Annotated[Any, field(NOT_YET), Refused()]


class EmbeddingBody(Pooling, total=False):
    """An embedding request: OpenAI's `input`, or LMI's `inputs`."""

    input: _Texts
    inputs: _Texts
    parameters: Annotated[Any, field("the fields from encoding_format on may stand here, too", shown="object")]
    model: Model
    adapters: Adapters
    user: User
