"""Declare the types of a body's fields for pydantic, the fields that several dialects share, and the check.

A dialect's body is a TypedDict of optional keys. Of each field it has the type, the bounds, the default and the
meaning, from which come the check of a request (Checker), its OpenAPI schema and docs/fields.md. Where a bound is a
deployment's own, AtMost names the member of Limits. Whole sentences are made only of what is wrong.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from contextvars import ContextVar
from dataclasses import dataclass
from functools import cache
from itertools import islice
from typing import Annotated, Any, Literal, get_type_hints

from pydantic import (
    AfterValidator,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    Strict,
    TypeAdapter,
)
from pydantic.fields import FieldInfo
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import ErrorDetails, PydanticCustomError, PydanticKnownError, ValidationError, core_schema
from typing_extensions import TypedDict

from lmi_chat.codec.json_text import Json
from lmi_chat.errors import PROBLEMS_SHOWN
from lmi_chat.job import BAD_WORDS_MOST, SamplingParams
from lmi_chat.limits import Limits
from lmi_chat.text import echo

NOT_YET = "is not served by this version"
USER_CHARS = 512
SALT_CHARS = 128  # as vLLM's own servers bound it
TOKEN_DIGITS = 9
MAX_INT = 2**31 - 1
SAMPLED = frozenset(field.name for field in dataclasses.fields(SamplingParams)) - {"logprobs"}
"""Fields whose value is SamplingParams's of the same name; logprobs is read by each dialect in its own way."""
STRINGS, IDS, BIAS = "string or an array of strings", "array of token ids", "object of token id to bias"
_limits: ContextVar[Limits] = ContextVar("limits")  # of the deployment whose checker is being built


@dataclass(frozen=True, slots=True)
class AtMost:
    """An upper bound, or the member of Limits that has it; of a string, an array or an object: of its length."""

    high: int | str

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> Json:
        """The schema of what is bounded, whatever stands around it."""
        schema: Json = handler(source)  # type: ignore[assignment]
        inner = schema
        while "schema" in inner:
            inner = inner["schema"]
        high = getattr(_limits.get(), self.high) if isinstance(self.high, str) else self.high
        if inner["type"] != "any":
            inner["le" if inner["type"] == "int" else "max_length"] = high
        return schema


@dataclass(frozen=True, slots=True)
class Sets:
    """The name under which a value is kept that has several; "": its own, among those that are not sampling's."""

    place: str
    is_sampling: bool = True


class Refused:
    """A field that is known and not served: only null and these values, which ask for nothing, pass."""

    def __init__(self, *nothing: object) -> None:
        self.nothing = nothing

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        """True is not 1 here."""
        return core_schema.no_info_plain_validator_function(self._check)

    def _check(self, value: object) -> None:
        if value is not None and not any(value == one and type(value) is type(one) for one in self.nothing):
            raise PydanticCustomError("refused", "is refused")

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> Json:
        """One of these values."""
        return {"enum": [None, *self.nothing]}


class ShownAs:
    """A field that its dialect checks itself: its JSON Schema is that of `kind`."""

    def __init__(self, kind: Any) -> None:
        self._kind = kind

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> Json:
        """The other type's schema."""
        return handler(TypeAdapter(self._kind).core_schema)


class _Array:
    """An array that is checked up to its first fault; `is_one`: one item stands for an array of one."""

    def __init__(self, *, is_one: bool = False) -> None:
        self._is_one = is_one

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> Any:
        array = {**handler(source), "fail_fast": True}
        return core_schema.no_info_before_validator_function(_listed, array) if self._is_one else array

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> Json:
        shown = handler(schema)
        return {"anyOf": [shown["items"], shown]} if self._is_one else shown


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


class _Switch:
    """A number that may also be written true (1) or false (0)."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> Any:
        return core_schema.no_info_before_validator_function(_counted, handler(source))

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> Json:
        shown = handler(schema)
        return shown | {"anyOf": [*shown["anyOf"], {"type": "boolean"}]}


def _counted(value: object) -> object:
    return int(value) if isinstance(value, bool) else value


def field(
    meaning: str, *, shown: str | None = None, default: object = None, allows: Json | None = None, **bounds: Any
) -> FieldInfo:
    """A field; `shown`: its type in words, where a schema does not say it; `allows`: what JSON Schema says more."""
    more: Json = ({} if default is None else {"default": default}) | (allows or {})
    made: FieldInfo = Field(description=meaning, title=shown, json_schema_extra=more, **bounds)
    return made


Integer = Annotated[int, Strict()] | None
Number = Annotated[float, Strict()] | None
Flag = Annotated[bool, Strict()] | None
Text = Annotated[str, Strict()] | None
_Word = Annotated[str, Strict(), Field(min_length=1), AtMost("max_stop_chars")]


class _Map:
    """An object whose length is checked before its pairs: a fault for each of thousands takes half a second."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        schema: Json = handler(source)  # type: ignore[assignment]

        def check(value: object) -> object:
            most = schema.get("max_length", MAX_INT)
            if isinstance(value, dict) and len(value) > most:
                facts = {"max_length": most, "actual_length": len(value), "field_type": "Dictionary"}
                raise PydanticKnownError("too_long", facts)
            return value

        return core_schema.no_info_before_validator_function(check, schema)

    def __get_pydantic_json_schema__(self, schema: Any, handler: GetJsonSchemaHandler) -> Json:
        """That of the object."""
        return handler(schema["schema"])


_Key = Annotated[str, Field(pattern=rf"^[0-9]{{1,{TOKEN_DIGITS}}}$")]
_Weight = Annotated[float, Strict(), Field(ge=-100, le=100)]
Words = Annotated[tuple[_Word, ...], _Array(is_one=True)] | None
Ids = Annotated[tuple[Annotated[int, Strict(), Field(ge=0)], ...], _Array()] | None
Bias = Annotated[dict[_Key, _Weight], _Map(), AfterValidator(lambda bias: {int(key): bias[key] for key in bias})] | None

Model = Annotated[Text, field('the served model\'s name or an alias; absent or "": the served model')]
Adapters = Annotated[
    Any, field("the adapter to answer with, one for all prompts or one each", shown="name, or an array of names")
]
Stream = Annotated[Flag, field("send the answer as it comes; absent: as option.output_formatter says", default=False)]
User = Annotated[Text, field("who asks; users take turns", default="", max_length=USER_CHARS)]
Salt = Annotated[
    Text, field("only requests with the same salt share cached prefixes", min_length=1, max_length=SALT_CHARS)
]
Priority = Annotated[Integer, field("lower is served first (priority scheduling)", default=0, ge=-(2**31), le=MAX_INT)]
SpecialTokens = Annotated[Flag, field("the tokenizer adds the model's special tokens to a text", default=True)]
Truncate = Annotated[Integer, field("keep the last tokens of the prompt", ge=1, le=MAX_INT)]
BadWords = Annotated[Words, field("words that are not generated", shown=STRINGS), AtMost(BAD_WORDS_MOST)]
Stop = Annotated[Words, field("strings that end the text", shown=STRINGS), AtMost("max_stop")]
MinTokens = Annotated[Integer, field("tokens before an end is allowed", default=0, ge=0, le=MAX_INT)]
NewTokens = Annotated[Integer, field("as max_tokens, in Transformers' words", ge=1, le=MAX_INT), Sets("max_tokens")]
Sequences = Annotated[Integer, field("as n, in Transformers' words", ge=1), AtMost("max_n")]
Logprobs = Annotated[Integer, field("alternatives per token", ge=0), AtMost("max_logprobs"), _Switch()]
LogitBias = Annotated[
    Bias,
    field(
        "added to the logits of single tokens",
        shown=BIAS,
        allows={"propertyNames": {"pattern": rf"^[0-9]{{1,{TOKEN_DIGITS}}}$"}},
    ),
    AtMost("max_logit_bias"),
]
IgnoreEos = Annotated[Flag, field("go on after the end-of-sequence token", default=False)]


class ConstraintFields(TypedDict, total=False):
    """The fields that ask for a form of the text; structured_output reads them."""

    response_format: Annotated[
        Any, field("the text's form: {type: text, json_object, json_schema, json or regex}", shown="object")
    ]
    structured_outputs: Annotated[
        Any, field("the text's form: one of json, regex, choice, grammar, json_object", shown="object")
    ]
    guided_json: Annotated[Any, field("the text is JSON of this schema", shown="JSON Schema")]
    guided_regex: Annotated[Any, field("the text fits this regex", shown="string"), AtMost("max_regex_bytes")]
    guided_choice: Annotated[
        Any, field("the text is one of these", shown="array of strings", allows={"minItems": 1}), AtMost("max_choices")
    ]
    guided_grammar: Annotated[
        Any, field("the text fits this grammar (EBNF or Lark)", shown="string"), AtMost("max_grammar_bytes")
    ]
    guided_whitespace_pattern: Annotated[
        Text,
        field('in JSON: a regex of the whitespace between its parts, "" for none; absent: at most one blank'),
        AtMost("max_regex_bytes"),
    ]


class TokenChoice(TypedDict, total=False):
    """Which of the likely tokens may come, wherever text is generated."""

    top_p: Annotated[Number, field("nucleus sampling; 0: the likeliest token alone", default=1.0, ge=0, le=1)]
    top_k: Annotated[Integer, field("most likely tokens kept; 0, −1: all", default=0, ge=-1, le=MAX_INT)]
    min_p: Annotated[Number, field("least probability beside the best token's", default=0.0, ge=0, le=1)]
    presence_penalty: Annotated[Number, field("against tokens already there", default=0.0, ge=-2, le=2)]
    frequency_penalty: Annotated[Number, field("against frequent tokens", default=0.0, ge=-2, le=2)]
    # What the engine's 32 bits hold as 0 makes a token that a constraint forbids the likeliest.
    repetition_penalty: Annotated[
        Number, field("against tokens of prompt and text; above 1 discourages", default=1.0, ge=0.01, le=100)
    ]
    seed: Annotated[Integer, field("makes sampling repeatable; -1: none", ge=-(2**63), le=2**63 - 1)]


class Sampling(ConstraintFields, TokenChoice, total=False):
    """How tokens are chosen, in every dialect that generates text."""

    best_of: Annotated[Integer, field("sequences of which the likeliest come back", default=1, ge=1), AtMost("max_n")]
    temperature: Annotated[Number, field("randomness; below 0.01 is greedy", default=1.0, ge=0, le=2)]
    min_tokens: MinTokens
    min_new_tokens: Annotated[MinTokens, Sets("min_tokens")]
    max_length: Annotated[
        Integer, field("tokens of prompt and text together; says nothing beside max_tokens", ge=1, le=MAX_INT)
    ]
    stop: Stop
    stop_sequences: Annotated[Stop, Sets("stop")]
    stop_strings: Annotated[Stop, Sets("stop")]
    stop_token_ids: Annotated[Ids, field("token ids that end the text", shown=IDS), AtMost(1024)]
    include_stop_str_in_output: Annotated[Flag, field("keep the stop string in the text", default=False)]
    ignore_eos: IgnoreEos
    skip_special_tokens: Annotated[Flag, field("leave special tokens out of the text", default=True)]
    spaces_between_special_tokens: Annotated[Flag, field("spaces between special tokens", default=True)]
    logit_bias: LogitBias
    prompt_logprobs: Annotated[Integer, field("alternatives per prompt token", ge=0), AtMost("max_logprobs")]
    length_penalty: Annotated[
        Number, field("beam search: above 1 prefers longer sequences", default=1.0, ge=-10, le=10)
    ]


class Usage(TypedDict, total=False):
    """What `stream_options` may ask for."""

    include_usage: Annotated[Flag, field("a last chunk with the usage", default=False)]
    continuous_usage_stats: Annotated[Flag, field("with include_usage: the usage so far in every chunk", default=False)]


USAGE = tuple(Usage.__annotations__)


class OpenAI(Sampling, total=False):
    """What chat and completion have in common."""

    model: Model
    adapters: Adapters
    stream: Stream
    stream_options: Annotated[Any, field(f"with stream true: {', '.join(USAGE)}", shown="object")]
    n: Annotated[Integer, field("sequences", default=1, ge=1), AtMost("max_n")]
    num_return_sequences: Annotated[Sequences, Sets("n")]
    max_new_tokens: NewTokens
    do_sample: Annotated[Flag, field("false: greedy")]
    parameters: Annotated[Any, field("the fields may stand here, too, as in LMI's schema", shown="object")]
    allowed_token_ids: Annotated[Ids, field("nothing but these tokens", shown=IDS, min_length=1), AtMost(2**17)]
    bad_words: BadWords
    truncate_prompt_tokens: Truncate
    priority: Priority
    use_beam_search: Annotated[Flag, field("beam search: n is its width, nothing is sampled", default=False)]
    return_token_ids: Annotated[Flag, field("token ids of the prompt and of the answer, too", default=False)]
    return_tokens_as_token_ids: Annotated[Flag, field("in logprobs, tokens are written token_id:7", default=False)]
    user: User
    cache_salt: Salt


class PooledTexts(TypedDict, total=False):
    """What requests to all models that pool have in common: where their texts are cut, and who asks."""

    truncate: Annotated[Flag, field("inputs that are longer than the context are cut", default=False)]
    truncate_prompt_tokens: Annotated[
        Integer, field("inputs are cut to so many tokens; -1: to the context", ge=-1, le=MAX_INT)
    ]
    truncation_side: Annotated[Literal["right", "left"] | None, field("where inputs are cut: right"), Sets("side")]
    truncation_direction: Annotated[Literal["Right", "Left"] | None, field("as truncation_side"), Sets("side")]
    priority: Priority
    cache_salt: Salt
    stream: Annotated[Any, field("is not served: vectors are given whole"), Refused(False)]  # noqa: FBT003 a value, no switch
    padding: Annotated[Any, field("is not served: vectors do not need it"), Refused("do_not_pad")]


class Encoding(TypedDict, total=False):
    """How vectors are written."""

    encoding_format: Annotated[
        Literal["float", "base64"] | None, field("base64: of little-endian float32 numbers", default="float")
    ]
    embed_dtype: Annotated[Any, field("is not served: numbers are float32"), Refused("float32")]
    endianness: Annotated[Any, field("is not served: numbers are little-endian"), Refused("native", "little")]


class PlainJsonSchema(GenerateJsonSchema):
    """JSON Schema without the titles that only repeat the names."""

    def field_title_should_be_set(self, schema: Any) -> bool:  # noqa: ARG002 pydantic asks
        """None should."""
        return False


class Checker:
    """Checks bodies of one type against the limits of one deployment.

    `properties`: each field's JSON Schema; `defaults`: what stands for it where it is absent; `places`: the name under
    which its value is kept, and whether that is sampling's.
    """

    def __init__(self, body: type, limits: Limits) -> None:
        token = _limits.set(limits)
        adapter: TypeAdapter[Json] = TypeAdapter(body)
        _limits.reset(token)
        self._validate = adapter.validator.validate_python
        self.properties: Mapping[str, Json] = adapter.json_schema(schema_generator=PlainJsonSchema)["properties"]
        self.defaults = {name: row.get("default") for name, row in self.properties.items()}
        hints = marks_of(body)
        self.places = {name: _place(name, marks) for name, marks in hints.items()}
        self._word_chars = limits.max_stop_chars
        self._refused = {name for name, marks in hints.items() if any(isinstance(mark, Refused) for mark in marks)}

    def check(self, body: Json) -> tuple[Json, Mapping[str, str]]:
        """The values that are right, as jobs have them, and a sentence for each field that is wrong."""
        try:
            return self._validate(body), {}
        except ValidationError as error:
            faults = error.errors(include_url=False)
        whole = {str(fault["loc"][0]) for fault in faults if fault["type"] == "int_type" and _is_whole(fault["input"])}
        if whole:
            return self.check(body | {name: _integers(body[name]) for name in whole})
        grouped: dict[str, list[ErrorDetails]] = {}
        for fault in faults:
            grouped.setdefault(str(fault["loc"][0]), []).append(fault)
        wrong = {name: self._sentence(name, group, body[name]) for name, group in grouped.items()}
        return self._validate({name: value for name, value in body.items() if name not in wrong}), wrong

    def _sentence(self, name: str, faults: list[ErrorDetails], value: Any) -> str:
        row, fault = self.properties[name], faults[0]
        shape = next((one for one in row.get("anyOf", ()) if one.get("type") != "null"), row)
        kind = row.get("title", shape.get("type", ""))
        if name in self._refused:
            return f"{row['description']}, got {echo(value)}"
        if len(fault["loc"]) > 1:  # of items
            return _of_bias(faults) if kind == BIAS else self._of_items(kind, value)
        facts = {"count": _length(value), "length": _length(fault["input"])}
        said = SENTENCES.get((kind, fault["type"]))
        if said is not None:
            return said.format(**facts, **fault.get("ctx", {}))
        if fault["type"] == "literal_error":
            wanted = "one of " + ", ".join(shape["enum"])
        elif fault["type"] in RANGE or (kind == "integer" and _is_huge(value)):
            wanted = _range(shape)
        else:
            wanted = "true or false" if kind == "boolean" else f"{'an' if kind[0] in 'aio' else 'a'} {kind}"
        return f"must be {wanted}, got {echo(value)}"

    def _of_items(self, kind: str, value: Any) -> str:
        """What is wrong with the items of an array of strings or token ids."""
        items = enumerate([value] if isinstance(value, str) else value)
        if kind == IDS:
            faulty = (f"item {place} is {echo(item)}" for place, item in items if not _is_token_id(item))
            return f"takes token ids of at least 0, {_named(faulty)}"
        most = self._word_chars
        faults = (f"item {place} {fault}" for place, item in items if (fault := _fault_of_word(item, most)))
        return f"takes strings of at least 1 and at most {most} characters, " + _named(faults)


def _is_token_id(item: Any) -> bool:
    return (type(item) is int or _is_whole(item)) and item >= 0


def _fault_of_word(item: object, most: int) -> str:
    if not isinstance(item, str):
        return f"is {echo(item)}"
    if not item:
        return "is empty"
    return f"has {len(item)}" if len(item) > most else ""


def _of_bias(faults: list[ErrorDetails]) -> str:
    """What is wrong with the keys, which must be token ids, and the weights of an object of these."""
    keys = [echo(fault["input"]) for fault in faults if fault["loc"][-1] == "[key]"]
    weights = [f"token {fault['loc'][1]} has {echo(fault['input'])}" for fault in faults if fault["loc"][-1] != "[key]"]
    of_keys = [f"takes token ids as keys, got {_named(keys)}"] if keys else []
    of_weights = [f"takes numbers of at least -100 and at most 100, {_named(weights)}"] if weights else []
    return ", and ".join((*of_keys, *of_weights))


def _named(items: Iterable[str]) -> str:
    """The first few of what is wrong, and whether that is all."""
    shown = list(islice(items, PROBLEMS_SHOWN + 1))
    return ", ".join(shown) if len(shown) <= PROBLEMS_SHOWN else ", ".join(shown[:-1]) + " and more"


RANGE = ("less_than_equal", "greater_than_equal", "greater_than")
SENTENCES: Mapping[tuple[str, str], str] = {
    ("string", "string_too_long"): "must have at most {max_length} characters, got {length}",
    ("string", "string_too_short"): "must not be empty",
    (STRINGS, "too_long"): "takes at most {max_length} strings, got {count}",
    (IDS, "too_long"): "takes at most {max_length} token ids, got {count}",
    (IDS, "too_short"): "takes at least {min_length} token id, got {count}",
    (BIAS, "too_long"): "takes at most {max_length} tokens, got {count}",
}
"""What is said of a fault, by the field's type in words and the fault's name in pydantic; else _sentence says it."""


def _place(name: str, marks: tuple[Any, ...]) -> tuple[str, bool]:
    given = next((mark for mark in marks if isinstance(mark, Sets)), Sets(name if name in SAMPLED else ""))
    return given.place or name, given.is_sampling and bool(given.place)


def _length(value: object) -> int:
    return len(value) if isinstance(value, str | list | dict) else 0


def _is_whole(value: object) -> bool:
    return isinstance(value, float) and value.is_integer() and not _is_huge(value)


def _integers(value: Any) -> Any:
    """2.0 is an integer, as JSON Schema has it; in an array too."""
    if isinstance(value, list):
        return [int(item) if _is_whole(item) else item for item in value]
    return int(value)


def _is_huge(value: object) -> bool:
    """JSON's decoder gives integers of more than 64 bits as floats."""
    return isinstance(value, float) and value.is_integer() and abs(value) >= 2**63


def _range(shape: Json) -> str:
    above = shape.get("exclusiveMinimum")
    words = f"at least {shape['minimum']}" if above is None else f"above {above}"
    return f"{words} and at most {shape['maximum']}"


def marks_of(body: type) -> Mapping[str, tuple[Any, ...]]:
    """What is noted of each field beside its type."""
    return {name: hint.__metadata__ for name, hint in get_type_hints(body, include_extras=True).items()}


class Checkers(dict[type, Checker]):
    """A deployment's checkers by body, each built when it is first asked for."""

    def __init__(self, limits: Limits) -> None:
        self._limits = limits

    def __missing__(self, body: type) -> Checker:
        self[body] = checker = Checker(body, self._limits)
        return checker


@cache
def checkers(limits: Limits) -> Checkers:
    """The checkers of all deployments with these limits."""
    return Checkers(limits)
