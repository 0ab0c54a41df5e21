"""The dialects' own fields, beside those of sampling (bounds.SAMPLING): type, bounds, default and meaning.

What stands inside a structure is checked by the room that reads it; here is what it is called and what it means.
"""

import json
from collections.abc import Mapping
from dataclasses import replace

from lmi_chat.bounds import KINDS, SAMPLING, Field

USER_CHARS = 512
SALT_CHARS = 128  # as vLLM's own servers bound it
PAIRS_MOST, KEY_CHARS, VALUE_CHARS = 16, 64, 512
TIERS = ("auto", "default", "flex", "priority")
NOT_YET = "is not served by this version"


def flag(meaning: str, *, default: bool | None = False) -> Field:
    """True or false."""
    return Field(kind="boolean", default=default, meaning=meaning)


def structure(shown: str, meaning: str, *, low: int | None = None, high: int | str | None = None) -> Field:
    """What has an inside; `shown` is its type in words, `low` and `high` bound its length."""
    return Field(kind="structure", shown=shown, low=low, high=high, meaning=meaning)


def refused(why: str, *nothing: object) -> Field:
    """A field that is known and not served: only null and the values in `nothing`, which ask for nothing, pass."""
    return Field(kind="refused", nothing=nothing, meaning=why)


def sampling(*names: str) -> dict[str, Field]:
    """Rows of bounds.SAMPLING."""
    return {name: SAMPLING[name] for name in names}


MODEL = Field(kind="string", meaning='the served model\'s name or an alias; absent or "": the served model')
STREAM = flag("send the answer as it comes; absent: as option.output_formatter says")
USAGE: Mapping[str, Field] = {
    "include_usage": flag("a last chunk with the usage"),
    "continuous_usage_stats": flag("the usage so far in every chunk"),
}
GUIDES: Mapping[str, Field] = {
    "response_format": structure("object", "the text's form: {type: text, json_object or json_schema}"),
    "structured_outputs": structure("object", "the text's form: one of json, regex, choice, grammar, json_object"),
    "guided_json": structure("JSON Schema", "the text is JSON of this schema"),
    "guided_regex": structure("string", "the text fits this regex", high="max_regex_bytes"),
    "guided_choice": structure("array of strings", "the text is one of these", low=1, high="max_choices"),
    "guided_grammar": structure("string", "the text fits this grammar (EBNF or Lark)", high="max_grammar_bytes"),
}
ADAPTERS = structure("name, or an array of names", "the adapter to answer with, one for all prompts or one each")
SHARED: Mapping[str, Field] = {
    "model": MODEL,
    "adapters": ADAPTERS,
    "stream": STREAM,
    "stream_options": structure("object", f"with stream true: {', '.join(USAGE)}"),
    **GUIDES,
    **sampling(
        *("n", "best_of", "temperature", "top_p", "top_k", "min_p", "presence_penalty", "frequency_penalty"),
        *("repetition_penalty", "seed", "min_tokens", "stop", "stop_token_ids", "include_stop_str_in_output"),
        *("ignore_eos", "skip_special_tokens", "spaces_between_special_tokens", "logit_bias", "allowed_token_ids"),
        *("bad_words", "prompt_logprobs", "truncate_prompt_tokens", "length_penalty", "priority"),
    ),
    "use_beam_search": flag("beam search: n is its width, nothing is sampled"),
    "return_token_ids": flag("token ids of the prompt and of the answer, too"),
    "user": Field(kind="string", default="", high=USER_CHARS, meaning="who asks; users take turns"),
    "cache_salt": Field(
        kind="string", low=1, high=SALT_CHARS, meaning="only requests with the same salt share cached prefixes"
    ),
}
CHAT: Mapping[str, Field] = {
    "messages": structure("array of messages", "the conversation", low=1, high="max_messages"),
    **SHARED,
    "max_tokens": SAMPLING["max_tokens"],
    "max_completion_tokens": SAMPLING["max_tokens"],
    "logprobs": flag("log-probabilities of the answer's tokens"),
    "top_logprobs": SAMPLING["top_logprobs"],
    "add_generation_prompt": flag("open the assistant's turn; absent: unless a message is continued", default=None),
    "continue_final_message": flag("go on with the last message instead of a new turn"),
    "echo": flag("with continue_final_message: its beginning comes back, too"),
    "chat_template_kwargs": Field(
        kind="object", meaning="variables of the template; option.chat_template_kwargs names those allowed"
    ),
    "store": flag("keep the completion, where option.store names a file"),
    "metadata": structure(
        "object of strings",
        f"labels; keys of at most {KEY_CHARS}, values of at most {VALUE_CHARS} characters",
        high=PAIRS_MOST,
    ),
    "service_tier": Field(kind="word", words=TIERS, meaning="who goes first, where priorities count"),
    "modalities": structure('["text"]', "the served model gives text only"),
    "audio": structure("null", "the served model gives text only"),
    "parallel_tool_calls": flag("says nothing without tools", default=True),
    "tools": refused(NOT_YET, []),
    "tool_choice": refused(NOT_YET, "none", "auto"),
    "functions": refused(NOT_YET, []),
    "function_call": refused(NOT_YET, "none", "auto"),
    "reasoning_effort": refused(NOT_YET),
    "chat_template": refused("is never taken from a request; it is configuration (option.chat_template)"),
}
COMPLETION: Mapping[str, Field] = {
    "prompt": structure(
        "string, array of token ids, or array of these", "what is to be continued", low=1, high="max_prompts"
    ),
    **SHARED,
    "max_tokens": replace(SAMPLING["max_tokens"], low=0, default=16, meaning="tokens to generate; 0 only with echo"),
    "logprobs": replace(SAMPLING["top_logprobs"], high=5, default=None, meaning="alternatives per token"),
    "echo": flag("the prompt comes back before its continuation"),
    "suffix": refused("is not supported by the served model", ""),
    "add_special_tokens": flag("the tokenizer adds the model's special tokens to a text", default=True),
    "return_tokens_as_token_ids": flag("in logprobs, tokens are written token_id:7"),
    "prompt_embeds": refused("is not served: a prompt is text or token ids"),
}
STANDARD: Mapping[str, Field] = {
    "inputs": structure("string or array of strings", "what is to be continued", low=1, high="max_prompts"),
    "parameters": structure("object", "the parameters, below"),
    "stream": STREAM,
    "model": MODEL,
    "adapters": ADAPTERS,
}
PARAMETERS: Mapping[str, Field] = {
    "max_new_tokens": replace(SAMPLING["max_tokens"], default=30, meaning="tokens to generate"),
    "do_sample": flag("false: greedy; absent: whether a way of sampling is given", default=None),
    **sampling(
        *("temperature", "top_p", "top_k", "min_p", "repetition_penalty", "presence_penalty", "frequency_penalty"),
        *("length_penalty", "seed", "stop", "best_of", "num_beams", "min_tokens", "stop_token_ids", "ignore_eos"),
        *("include_stop_str_in_output", "skip_special_tokens", "spaces_between_special_tokens", "logit_bias"),
        *("prompt_logprobs",),
    ),
    "typical_p": Field(
        kind="number",
        low=0,
        is_above_low=True,
        high=1,
        default=1.0,
        meaning="below 1 ignored with a warning, as the engine has no typical sampling; `strict_requests`: 400",
    ),
    "watermark": refused("is not served: the engine writes no watermark", False),  # noqa: FBT003 a value, no switch
    "stop_sequences": SAMPLING["stop"],
    "n": replace(SAMPLING["n"], sets="", meaning="sequences that come back"),
    "early_stopping": flag("beam search: end as soon as num_beams sequences have ended"),
    "ignore_eos_token": SAMPLING["ignore_eos"],
    "min_length": SAMPLING["min_tokens"],
    "bad_sequences": SAMPLING["bad_words"],
    "truncate": SAMPLING["truncate_prompt_tokens"],
    "logprobs": replace(SAMPLING["top_logprobs"], default=None, meaning="as top_n_tokens"),
    "top_n_tokens": replace(SAMPLING["top_logprobs"], meaning="alternatives per token, in details.top_tokens"),
    "details": flag("tokens, counts and reasons; absent: as option.tgi_compat says", default=None),
    "decoder_input_details": flag("with details: the prompt's tokens, in details.prefill"),
    "return_full_text": flag("the prompt before the text"),
    "stream": STREAM,
    **GUIDES,
    "grammar": structure("object", "TGI's: {type: json, json_schema or regex, value}"),
}
NORMALIZE = Field(kind="boolean", sets="is_normalized", meaning="vectors of length 1; absent: as option.normalize says")
POOLING: Mapping[str, Field] = {
    "encoding_format": Field(
        kind="word", words=("float", "base64"), default="float", meaning="base64: of little-endian float32 numbers"
    ),
    "dimensions": Field(kind="integer", low=1, high=2**31 - 1, meaning="numbers per vector; of Matryoshka models only"),
    "normalize": NORMALIZE,
    "use_activation": NORMALIZE,
    "truncate": flag("inputs that are longer than the context are cut"),
    "truncate_prompt_tokens": Field(
        kind="integer", low=-1, high=2**31 - 1, meaning="inputs are cut to so many tokens; -1: to the context"
    ),
    "truncation_side": Field(kind="word", words=("right", "left"), sets="side", meaning="where inputs are cut: right"),
    "truncation_direction": Field(kind="word", words=("Right", "Left"), sets="side", meaning="as truncation_side"),
    "add_special_tokens": COMPLETION["add_special_tokens"],
    "priority": SAMPLING["priority"],
    "cache_salt": SHARED["cache_salt"],
    "stream": refused("is not served: vectors are given whole", False),  # noqa: FBT003 a value, no switch
    "padding": refused("is not served: vectors do not need it", "do_not_pad"),
    "embed_dtype": refused("is not served: numbers are float32", "float32"),
    "endianness": refused("is not served: numbers are little-endian", "native", "little"),
    "prompt_name": refused(NOT_YET),
}
TEXTS = structure("string, array of token ids, or array of these", "what is to be embedded", low=1, high="max_inputs")
EMBEDDING: Mapping[str, Field] = {
    "input": TEXTS,
    "inputs": TEXTS,
    "parameters": structure("object", f"the fields from {next(iter(POOLING))} on may stand here, too"),
    "model": MODEL,
    "adapters": ADAPTERS,
    "user": SHARED["user"],
    **POOLING,
}
SESSION: Mapping[str, Field] = {
    "requestType": Field(kind="word", words=("NEW_SESSION", "CLOSE"), meaning="open a session, or close the header's"),
    "model": MODEL,
}
DIALECTS: Mapping[str, tuple[Mapping[str, Field], ...]] = {
    "chat": (CHAT,),
    "standard": (STANDARD, PARAMETERS),
    "completion": (COMPLETION,),
    "embedding": (EMBEDDING,),
    "session": (SESSION,),
}


def table() -> str:
    """docs/fields.md's table, in Markdown: a row per field, and a further one where a dialect has it otherwise."""
    rows: dict[str, dict[str, None]] = {}
    for dialect, tables in DIALECTS.items():
        for name, field in (item for fields in tables for item in fields.items()):
            default = "" if field.default is None else f"`{json.dumps(field.default)}`"
            meaning = ("400: " if field.kind == "refused" else "") + field.meaning
            cells = (f"`{name}`", _type(field), _bounds(field), default, meaning)
            rows.setdefault(" | ".join(cells), {})[dialect] = None
    lines = ["| field | type | bounds | default | meaning | dialects |", "|---|---|---|---|---|---|"]
    return "\n".join([*lines, *(f"| {cells} | {', '.join(names)} |" for cells, names in rows.items())])


def _type(field: Field) -> str:
    match field.kind:
        case "word":
            return " · ".join(f"`{word}`" for word in field.words)
        case "structure":
            return field.shown
        case "refused":
            return "null" + "".join(f", `{json.dumps(value)}`" for value in field.nothing)
        case kind:
            return KINDS[kind].removeprefix("an ").removeprefix("a ")


def _bounds(field: Field) -> str:
    high = f"`{field.high}`" if isinstance(field.high, str) else field.high
    if high is None:
        return ""
    low = "" if field.low is None else f"above {field.low}, to " if field.is_above_low else f"{field.low} to "
    units = {"string": " characters", "strings": " of at most `max_stop_chars` characters", "token ids": " ids"}
    units["bias"] = ", at most `max_logit_bias` tokens"
    return f"{low or 'at most '}{high}{units.get(field.kind, '')}"
