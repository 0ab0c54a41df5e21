"""Define the nouns in the middle: the Job that an engine is asked for, and its events Delta, Embedding, Finished.

No names of an engine, of HTTP or of a dialect stand here: the inside has one vocabulary.
"""

import asyncio
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from lmi_chat.errors import Error
from lmi_chat.limits import Limits

Reason = Literal["stop", "length", "abort", "time_limit"]
ConstraintKind = Literal["json", "regex", "choice", "grammar", "json_object"]
DeltaKind = Literal["content", "reasoning", "call"]
SpeechTask = Literal["transcribe", "translate"]
ToolChoice = Literal["none", "auto", "required", "named"]
PoolingTask = Literal["embed", "classify", "token_embed", "token_classify"]
BAD_WORDS_MOST = 256
"""Of one request; the engine has room for them."""


@dataclass(frozen=True, slots=True)
class OutputConstraint:
    """The form that the generated text must fit, whichever field asked for it.

    `value` is a JSON Schema's text, a regex, the choices, a grammar (EBNF or Lark) or "" for any JSON object; `path` is
    the field that asked, for an error's sake. `whitespace`: a regex of what may stand between the parts of JSON; None:
    as the engine has it, which bounds it.
    """

    kind: ConstraintKind
    value: str | tuple[str, ...]
    path: str = field(default="", compare=False)
    whitespace: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingParams:
    """How tokens are chosen and when a sequence ends. Values are checked: they stand within bounds."""

    n: int = 1
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    presence_penalty: float = 0.0
    frequency_penalty: float = 0.0
    repetition_penalty: float = 1.0
    seed: int | None = None
    max_tokens: int = 16
    min_tokens: int = 0
    stop: tuple[str, ...] = ()
    stop_token_ids: tuple[int, ...] = ()
    ignore_eos: bool = False
    include_stop_str_in_output: bool = False
    skip_special_tokens: bool = True
    spaces_between_special_tokens: bool = True
    logprobs: int | None = None
    prompt_logprobs: int | None = None
    logit_bias: Mapping[int, float] | None = None
    allowed_token_ids: tuple[int, ...] | None = None
    bad_words: tuple[str, ...] = ()
    constraint: OutputConstraint | None = None
    thinking_token_budget: int | None = None


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call. `parameters`: the JSON Schema of its arguments, None for any object.

    `is_strict`: the arguments fit the schema whatever the model would write.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, Any] | None = None
    is_strict: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class ParsingParams:
    """How the text of an answer is taken apart into reasoning, content and calls of tools.

    `tools` may be called as `choice` says; "named" is the call of `named` alone. `is_parallel`: several at once.
    `is_formed`: a call that begins has its form, though nothing else asks for that.
    `shows_reasoning` False: what reasons is dropped, with its tokens and ids. `variables` are what the chat template
    was rendered with, `messages` the conversation: parsers look at both.
    """

    tools: tuple[Tool, ...] = ()
    choice: ToolChoice = "none"
    named: str = ""
    is_parallel: bool = True
    is_formed: bool = False
    shows_reasoning: bool = True
    variables: Mapping[str, Any] = field(default_factory=dict)
    messages: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolingParams:
    """How a prompt becomes one vector, or one for each of its tokens (`task`). None: as the model has it.

    `is_normalized`: vectors have length 1, and numbers per label are probabilities. `second_from`: the place in the
    prompt from which on it is a pair's second text, for models that tell the two apart.
    """

    task: PoolingTask = "embed"
    dimensions: int | None = None
    is_normalized: bool | None = None
    second_from: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolingSpec:
    """What a model that pools gives: by its `task` one vector of `dimensions` numbers, or one for each token.

    Only a Matryoshka model has `shorter` ones, too. Of a model that classifies the numbers are those of `labels`.
    `is_lower_case`: texts are put in lower case before they are tokenised.
    """

    dimensions: int
    task: PoolingTask = "embed"
    shorter: Sequence[int] = ()
    labels: tuple[str | None, ...] = ()
    is_lower_case: bool = False

    @property
    def gives_scores(self) -> bool:
        """Whether two texts can be compared: by their vectors, or by a number for both."""
        return self.task in {"embed", "token_embed"} or (self.task == "classify" and self.dimensions == 1)


@dataclass(frozen=True, slots=True)
class Adapter:
    """LoRA weights of one version of a registered adapter.

    `id`: of this version alone, never given again; `path`: a folder of ours that stands as long as anything holds it.
    """

    name: str
    id: int
    path: str


@dataclass(frozen=True, slots=True)
class MediaInput:
    """The media of a prompt as the engine takes them; so many of the prompt's `tokens` stand for each kind.

    `nbytes`: what the features have in memory.
    """

    features: Mapping[str, Any]
    tokens: Mapping[str, int]
    nbytes: int = 0


@dataclass(frozen=True, slots=True)
class Clip:
    """A part of a recording that the model hears at once: mono samples (float32, -1 to 1) and the second it begins at.

    `seconds`: how long it is.
    """

    samples: Any
    begins_s: float
    seconds: float


@dataclass(slots=True, kw_only=True, eq=False)
class Recording:
    """A decoded recording. `language`: of what is said; "" until the engine has found it, where it can.

    `audio_tokens`: what all of it counts as in tokens, beside those of the prompts. `lock` is held while its language
    is being found.
    """

    clips: Sequence[Clip]
    seconds: float
    audio_tokens: int = 0
    language: str = ""
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)

    @property
    def nbytes(self) -> int:
        """The bytes of its samples."""
        return sum(int(clip.samples.nbytes) for clip in self.clips)


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechParams:
    """What is to be written of one clip of a recording, the `place`th.

    `prompt` comes before it, `hotwords` are likely in it, `to_language` is what a model writes that can choose.
    `has_times`: the text has tokens for times in it.
    """

    recording: Recording
    place: int
    task: SpeechTask = "transcribe"
    prompt: str = ""
    hotwords: str = ""
    to_language: str = ""
    has_times: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class SpeechSpec:
    """How a model hears speech: `read` makes a Recording of a file's bytes, within limits, and raises BadField.

    `languages` by their ISO 639-1 codes; `others` are taken too, with worse results. `unspaced`: languages without
    spaces between words. `has_times`: it can write times, of which `first_time_id` is 0 s and each further id 0.02 s
    more. `finds_language`: where none is given. `is_only`: it does nothing else.
    """

    read: Callable[[bytes, Limits], Recording]
    languages: Mapping[str, str] = field(default_factory=dict)
    others: Mapping[str, str] = field(default_factory=dict)
    unspaced: frozenset[str] = frozenset()
    has_times: bool = False
    first_time_id: int = 0
    finds_language: bool = False
    is_only: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """One prompt as the engine sees it: token ids, how to sample, who asked.

    `copies`: equal greedy sequences run once and are given so many times. `beams`: beam search of that width, with
    `length_penalty`, which ends with the first `beams` sequences that do if it `stops_early`; 0 for ordinary sampling.
    `pooling`: vectors are wanted, no text, and `sampling` has no effect. `parsing`: the text is taken apart.
    `adapter`: LoRA weights on top of the model's own. `trace_headers`: of the trace that the engine's spans belong to.
    `speech`: the prompt is a clip, and the engine makes its tokens. `media`: what the prompt has beside text.
    """

    id: str
    prompt_ids: list[int]
    prompt_text: str
    sampling: SamplingParams = field(default_factory=SamplingParams)
    pooling: PoolingParams | None = None
    parsing: ParsingParams | None = None
    media: MediaInput | None = None
    adapter: Adapter | None = None
    speech: SpeechParams | None = None
    priority: int = 0
    cache_salt: str | None = None
    trace_headers: Mapping[str, str] | None = None
    copies: int = 1
    beams: int = 0
    length_penalty: float = 1.0
    stops_early: bool = False

    @property
    def prompt_tokens(self) -> int:
        """Tokens of the prompt as far as they are known before it runs; those of a recording stand in its first job."""
        if self.speech is None:
            return len(self.prompt_ids)
        return 0 if self.speech.place else self.speech.recording.audio_tokens

    @property
    def width(self) -> int:
        """Sequences that come back."""
        return self.beams or self.sampling.n * self.copies


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """One candidate for a position: token id, natural log of its probability (−9999.0 for −inf), its own bytes."""

    id: int
    logprob: float
    bytes: bytes
    is_special: bool = False


@dataclass(frozen=True, slots=True)
class Token:
    """A chosen token with the most likely alternatives, best first (empty unless asked for).

    `rank`: its place among all tokens by probability, from 1; 0 where the engine does not tell.
    """

    choice: TokenLogprob
    top: tuple[TokenLogprob, ...] = ()
    rank: int = 0


@dataclass(frozen=True, slots=True)
class Finish:
    """Why a sequence ended; `stop` is the stop string or stop token id that ended it, None for end-of-sequence."""

    reason: Reason
    stop: str | int | None = None


@dataclass(frozen=True, slots=True)
class CallPart:
    """Which of a sequence's calls a delta belongs to: `place` counts from 0; its first delta has `id` and `name`."""

    place: int
    id: str = ""
    name: str = ""


@dataclass(slots=True)
class Delta:
    """The tokens and text that one sequence gained in one engine step.

    `kind`: what the text is; of a "call" it is a piece of the arguments, which joined are the call's JSON text, and
    `call` says of which. One step may give several deltas: each has the ids and tokens since the one before, the last
    the finish.

    `text` may be empty although there are ids (part of a character, or text held back for a stop string), and may
    belong to several ids at once. `tokens` has one entry per id if log-probabilities were asked for, else it is empty.
    `prompt`: if the prompt's were asked for, its tokens, on each sequence's first delta; None for the very first token.
    """

    index: int
    text: str
    ids: list[int]
    tokens: list[Token] = field(default_factory=list)
    finish: Finish | None = None
    prompt: tuple[Token | None, ...] = ()
    kind: DeltaKind = "content"
    call: CallPart | None = None


@dataclass(slots=True)
class Embedding(Delta):
    """The one vector of a job with `pooling`, or `rows` of them: finite little-endian float32 numbers."""

    values: bytes = b""
    rows: int | None = None


@dataclass(frozen=True, slots=True)
class Times:
    """A job's times in seconds: waiting in the engine, to its first token, from there to its last."""

    queue_s: float
    prefill_s: float
    decode_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """All sequences have ended. Counts are tokens, stop tokens too; `parts`: one per prompt, if several.

    `reasons`: why each sequence ended. `times`: None where the engine does not tell. `reasoning_tokens` are those of
    the completion that reason; `called`: the names of the called tools, in order, of all sequences. `media_tokens`: how
    many of the prompt stand for each kind of media.
    """

    prompt_tokens: int
    completion_tokens: int
    cached_tokens: int = 0
    prompt_logprobs: tuple[Token | None, ...] = ()
    parts: "tuple[Finished, ...]" = ()
    reasons: tuple[Reason, ...] = ()
    times: Times | None = None
    reasoning_tokens: int = 0
    called: tuple[str, ...] = ()
    media_tokens: Mapping[str, int] = field(default_factory=dict)


Event = Delta | Finished | Error
Sink = Callable[[Event], None]
"""Takes a job's events in order, ending with Finished or an Error; called from the event loop, returns at once."""


@dataclass(slots=True)
class TokenSink:
    """Takes the tokens between a sequence's first and last without a Delta for each; their text is content.

    `token` is called once per token of the only sequence: id, text as JSON writes it without quotes, never empty, and
    log-probability. With logprobs: exactly one token with text; those without come as Deltas. Without: possibly several
    tokens joined; tokens without text are skipped. It may be replaced at any time, so it is looked up at each token.
    `is_folded`: nothing is wanted before the end, and one Delta may have all.
    """

    token: Callable[[int, bytes, float], None]
    is_folded: bool = False
