"""What a field may hold: type, low, high, default, meaning; the table of sampling's; the check of a value against one.

The dialects, the OpenAPI document and docs/fields.md read it; fields.py has the dialects' other fields.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any, Literal

from lmi_chat.errors import Problem
from lmi_chat.text import echo

Kind = Literal[
    "integer", "number", "boolean", "string", "strings", "token ids", "bias", "object", "word", "structure", "refused"
]
KINDS = {
    "integer": "an integer",
    "number": "a number",
    "boolean": "true or false",
    "string": "a string",
    "strings": "a string or an array of strings",
    "token ids": "an array of token ids",
    "bias": "an object of token id to bias",
    "object": "an object",
}
GREEDY_BELOW = 0.01
TOKEN_DIGITS = 9


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How much one request may ask for; each is a setting."""

    max_messages: int = 2048
    max_input_tokens: int = 0
    max_n: int = 16
    max_prompts: int = 64
    max_inputs: int = 2048
    max_stop: int = 16
    max_stop_chars: int = 1024
    max_logprobs: int = 20
    max_prompt_logprobs: int = 65_536
    max_logit_bias: int = 1024
    max_json_depth: int = 64
    max_schema_bytes: int = 65_536
    max_schema_depth: int = 32
    max_schema_enum: int = 1000
    max_regex_bytes: int = 4096
    max_grammar_bytes: int = 65_536
    max_choices: int = 1000
    max_choice_bytes: int = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    """A field's type and bounds (of a string or array: of its length); `high` may name a member of Limits.

    `sets`: its name in SamplingParams ("" for none). Of a word, `words` are the possible ones; of a structure, `shown`
    is its type in words; of a field that is refused, `nothing` are the values which ask for nothing.
    """

    kind: Kind
    meaning: str
    sets: str = ""
    low: float | None = None
    high: float | str | None = None
    is_above_low: bool = False
    default: object = None
    words: tuple[str, ...] = ()
    shown: str = ""
    nothing: tuple[object, ...] = ()

    def top(self, limits: Limits) -> float | None:
        """The upper bound as a number."""
        return getattr(limits, self.high) if isinstance(self.high, str) else self.high


SEED_LOW, SEED_HIGH = -(2**63), 2**63 - 1

SAMPLING: Mapping[str, Field] = {
    "n": Field(kind="integer", sets="n", low=1, high="max_n", default=1, meaning="sequences"),
    "temperature": Field(
        kind="number", sets="temperature", low=0, high=2, default=1.0, meaning="randomness; below 0.01 is greedy"
    ),
    "top_p": Field(
        kind="number", sets="top_p", low=0, is_above_low=True, high=1, default=1.0, meaning="nucleus sampling"
    ),
    "top_k": Field(
        kind="integer", sets="top_k", low=-1, high=2**31 - 1, default=0, meaning="most likely tokens kept; 0, −1: all"
    ),
    "min_p": Field(
        kind="number", sets="min_p", low=0, high=1, default=0.0, meaning="least probability beside the best token's"
    ),
    "presence_penalty": Field(
        kind="number", sets="presence_penalty", low=-2, high=2, default=0.0, meaning="against tokens already there"
    ),
    "frequency_penalty": Field(
        kind="number", sets="frequency_penalty", low=-2, high=2, default=0.0, meaning="against frequent tokens"
    ),
    "repetition_penalty": Field(
        kind="number",
        sets="repetition_penalty",
        low=0.01,  # what the engine's 32 bits hold as 0 makes a token that a guide forbids the likeliest
        high=100,
        default=1.0,
        meaning="against tokens of prompt and text; above 1 discourages",
    ),
    "seed": Field(
        kind="integer", sets="seed", low=SEED_LOW, high=SEED_HIGH, meaning="makes sampling repeatable; -1: none"
    ),
    "max_tokens": Field(
        kind="integer", sets="max_tokens", low=1, high=2**31 - 1, meaning="tokens to generate; absent: what has room"
    ),
    "min_tokens": Field(
        kind="integer", sets="min_tokens", low=0, high=2**31 - 1, default=0, meaning="tokens before an end is allowed"
    ),
    "stop": Field(kind="strings", sets="stop", high="max_stop", meaning="strings that end the text"),
    "stop_token_ids": Field(kind="token ids", sets="stop_token_ids", high=1024, meaning="token ids that end the text"),
    "ignore_eos": Field(
        kind="boolean", sets="ignore_eos", default=False, meaning="go on after the end-of-sequence token"
    ),
    "include_stop_str_in_output": Field(
        kind="boolean", sets="include_stop_str_in_output", default=False, meaning="keep the stop string in the text"
    ),
    "skip_special_tokens": Field(
        kind="boolean", sets="skip_special_tokens", default=True, meaning="leave special tokens out of the text"
    ),
    "spaces_between_special_tokens": Field(
        kind="boolean", sets="spaces_between_special_tokens", default=True, meaning="spaces between special tokens"
    ),
    "logit_bias": Field(
        kind="bias", sets="logit_bias", low=-100, high=100, meaning="added to the logits of single tokens"
    ),
    "allowed_token_ids": Field(
        kind="token ids", sets="allowed_token_ids", low=1, high=2**17, meaning="nothing but these tokens"
    ),
    "bad_words": Field(kind="strings", sets="bad_words", high=256, meaning="words that are not generated"),
    "best_of": Field(
        kind="integer", low=1, high="max_n", default=1, meaning="sequences of which the likeliest come back"
    ),
    "num_beams": Field(kind="integer", low=1, high="max_n", default=1, meaning="width of a beam search"),
    "length_penalty": Field(
        kind="number", low=-10, high=10, default=1.0, meaning="beam search: above 1 prefers longer sequences"
    ),
    "top_logprobs": Field(
        kind="integer", low=0, high="max_logprobs", default=0, meaning="alternatives per token; needs logprobs"
    ),
    "prompt_logprobs": Field(
        kind="integer", sets="prompt_logprobs", low=0, high="max_logprobs", meaning="alternatives per prompt token"
    ),
    "truncate_prompt_tokens": Field(
        kind="integer", low=1, high=2**31 - 1, meaning="keep the last tokens of the prompt"
    ),
    "priority": Field(
        kind="integer", low=-(2**31), high=2**31 - 1, default=0, meaning="lower is served first (priority scheduling)"
    ),
}


def check(field: Field, value: object, path: str, limits: Limits, problems: list[Problem]) -> Any:
    """Give back `value` as SamplingParams holds it, or add what is wrong with it to `problems` and give None."""
    text = _wrong(field, value, limits)
    if text:
        problems.append(Problem(path, f"{path} {text}"))
        return None
    match field.kind:
        case "number":
            return float(value)  # type: ignore[arg-type]
        case "strings":
            return (value,) if isinstance(value, str) else tuple(value)  # type: ignore[arg-type]
        case "token ids":
            return tuple(value)  # type: ignore[arg-type]
        case "bias":
            return {int(key): float(bias) for key, bias in value.items()}  # type: ignore[attr-defined]
        case _:
            return value


def _wrong(field: Field, value: object, limits: Limits) -> str:
    match field.kind, value:
        case ("boolean", bool()) | ("object", dict()) | ("structure", _):
            return ""
        case (("word" | "refused"), _):
            return _unlisted(field, value)
        case "string", str():
            return _bad_string(field, value, limits)
        case ("integer", int()) | ("number", int() | float()) if not isinstance(value, bool):
            return _outside(field, value, limits)  # type: ignore[arg-type]
        case "strings", str() | list() if all(isinstance(item, str) for item in value):
            return _bad_strings([value] if isinstance(value, str) else value, field, limits)
        case "token ids", list() if all(type(item) is int for item in value):
            return _bad_ids(value, field, limits)
        case "bias", dict():
            return _bad_bias(value, field, limits)
    is_huge = field.kind == "integer" and isinstance(value, float) and value.is_integer() and abs(value) >= 2**63
    return f"must be {_range(field, limits) if is_huge else KINDS[field.kind]}, got {echo(value)}"


def _unlisted(field: Field, value: object) -> str:
    if field.kind == "word":
        return "" if value in field.words else f"must be one of {', '.join(field.words)}, got {echo(value)}"
    is_nothing = any(value == other and type(value) is type(other) for other in field.nothing)
    return "" if is_nothing else f"{field.meaning}, got {echo(value)}"


def _bad_string(field: Field, value: str, limits: Limits) -> str:
    most = field.top(limits)
    if most is not None and len(value) > most:
        return f"must have at most {most} characters, got {len(value)}"
    return "must not be empty" if field.low and not value else ""


def _outside(field: Field, value: float, limits: Limits) -> str:
    low, high = field.low, field.top(limits)
    is_low = low is not None and not (value > low or (value == low and not field.is_above_low))
    is_high = high is not None and not value <= high
    return f"must be {_range(field, limits)}, got {echo(value)}" if is_low or is_high else ""


def _range(field: Field, limits: Limits) -> str:
    low, high = field.low, field.top(limits)
    if low is None:
        return f"at most {high}"
    words = f"above {low}" if field.is_above_low else f"at least {low}"
    return words if high is None else f"{words} and at most {high}"


def _bad_strings(values: list[str], field: Field, limits: Limits) -> str:
    most = field.top(limits)
    if most is not None and len(values) > most:
        return f"takes at most {most} strings, got {len(values)}"
    for index, value in enumerate(values):
        if not value:
            return f"takes no empty string (item {index})"
        if len(value) > limits.max_stop_chars:
            return f"takes strings of at most {limits.max_stop_chars} characters, item {index} has {len(value)}"
    return ""


def _bad_ids(values: list[int], field: Field, limits: Limits) -> str:
    most = field.top(limits)
    if most is not None and len(values) > most:
        return f"takes at most {most} token ids, got {len(values)}"
    if field.low is not None and len(values) < field.low:
        return f"takes at least {field.low} token id, got {len(values)}"
    wrong = next((value for value in values if value < 0), None)
    return "" if wrong is None else f"takes token ids of at least 0, got {echo(wrong)}"


def _bad_bias(bias: dict[str, object], field: Field, limits: Limits) -> str:
    if len(bias) > limits.max_logit_bias:
        return f"takes at most {limits.max_logit_bias} tokens, got {len(bias)}"
    for key, value in bias.items():
        if not (key.isascii() and key.isdigit() and len(key) <= TOKEN_DIGITS):
            return f"takes token ids as keys, got {echo(key)}"
        if type(value) not in {int, float} or not field.low <= value <= field.high:  # type: ignore[operator]
            return f"takes numbers of at least {field.low} and at most {field.high}, token {key} has {echo(value)}"
    return ""


def nearest(name: str, known: Mapping[str, object] | frozenset[str], likeness: float = 0.6) -> str:
    """The known name most like `name`, or "" when none is near; `likeness` is from 0 to 1, the same."""
    return next(iter(get_close_matches(name, list(known), n=1, cutoff=likeness)), "")
