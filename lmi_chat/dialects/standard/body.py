"""Declare the fields of a standard request, and its parameters."""

from typing import Annotated, Any

from typing_extensions import TypedDict

from lmi_chat.dialects.body import (
    MAX_INT,
    Adapters,
    AtMost,
    BadWords,
    Flag,
    IgnoreEos,
    Integer,
    Logprobs,
    MinTokens,
    Model,
    Number,
    Sampling,
    Sequences,
    Sets,
    Stream,
    Text,
    Truncate,
    field,
)

MAX_NEW_TOKENS = 30


class StandardBody(TypedDict, total=False):
    """A request in LMI's schema, which TGI's clients send too."""

    inputs: Annotated[
        Any,
        field(
            "what is to be continued",
            shown="string, chat (array of messages), or array of these",
            allows={"minItems": 1},
        ),
        AtMost("max_prompts"),
    ]
    parameters: Annotated[Any, field("the parameters, below", shown="object")]
    stream: Stream
    model: Model
    adapters: Adapters


class Parameters(Sampling, total=False):
    """What stands in `parameters`."""

    max_new_tokens: Annotated[
        Integer, field("tokens to generate", default=MAX_NEW_TOKENS, ge=1, le=MAX_INT), Sets("max_tokens")
    ]
    do_sample: Annotated[Flag, field("false: greedy; absent: whether a way of sampling is given")]
    num_beams: Annotated[Integer, field("width of a beam search", default=1, ge=1), AtMost("max_n")]
    typical_p: Annotated[
        Number,
        field(
            "below 1 ignored with a warning, as the engine has no typical sampling; `strict_requests`: 400",
            default=1.0,
            gt=0,
            le=1,
        ),
    ]
    watermark: Annotated[
        Flag,
        field(
            "true is ignored with a warning, as the engine writes no watermark; `strict_requests`: 400", default=False
        ),
    ]
    n: Annotated[Integer, field("sequences that come back", default=1, ge=1), AtMost("max_n"), Sets("")]
    adapter_id: Annotated[Text, field("as adapters, in TGI's words")]
    num_return_sequences: Annotated[Sequences, Sets("n", is_sampling=False)]
    max_tokens: Annotated[Integer, field("as max_new_tokens, in OpenAI's words", ge=1, le=MAX_INT)]
    early_stopping: Annotated[Flag, field("beam search: end as soon as num_beams sequences have ended", default=False)]
    ignore_eos_token: Annotated[IgnoreEos, Sets("ignore_eos")]
    min_length: Annotated[MinTokens, Sets("min_tokens")]
    bad_sequences: Annotated[BadWords, Sets("bad_words")]
    truncate: Truncate
    logprobs: Logprobs
    top_n_tokens: Annotated[
        Integer, field("alternatives per token, in details.top_tokens", default=0, ge=0), AtMost("max_logprobs")
    ]
    details: Annotated[Flag, field("tokens, counts and reasons; absent: as option.tgi_compat says")]
    decoder_input_details: Annotated[
        Flag, field("with details: the prompt's tokens, in details.prefill", default=False)
    ]
    return_full_text: Annotated[Flag, field("the prompt before the text", default=False)]
    stream: Stream
    grammar: Annotated[Any, field("TGI's: {type: json, json_object, json_schema or regex, value}", shown="object")]
