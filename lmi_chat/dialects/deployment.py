"""Describe the deployment that a dialect checks a body against."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

from lmi_chat.chat_template import PairEncoder, Template
from lmi_chat.dialects.body import Checkers, checkers
from lmi_chat.job import PoolingSpec, SpeechSpec
from lmi_chat.limits import Limits
from lmi_chat.media import Media
from lmi_chat.storage.completions_db import StoredCompletion

ReasoningField = Literal["reasoning", "reasoning_content"]
PLACEHOLDERS = frozenset({"tgi", "dummy"})
"""What clients write into `model` by themselves where they were given a URL and no name."""
COUNTED_CONTEXTS = 4
"""So many contexts' worth of a prompt is counted at most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """The deployment as a dialect sees it. `defaults` are the model's own, named as in SamplingParams."""

    model: str
    names: frozenset[str]  # whatever a request may call the model
    template: Template
    context_tokens: int
    vocabulary_tokens: int
    aliases: tuple[str, ...] = ()  # of these, beside `model`, what is listed: no placeholders
    limits: Limits = field(default_factory=Limits)
    defaults: Mapping[str, Any] = field(default_factory=dict)
    is_strict: bool = False
    is_tgi: bool = False
    template_variables: frozenset[str] = frozenset()  # beyond those that the template reads
    streams_by_default: bool = False
    finish_words: Mapping[str, str] | None = None
    fingerprint: str = ""
    engine_version: str = ""
    has_priority: bool = False  # the engine serves by priority, not in the order of arrival
    pooler: PoolingSpec | None = None  # the model pools and generates no text
    pairs: PairEncoder | None = None  # writes two texts into one prompt, for a model that reads both together
    speech: SpeechSpec | None = None  # the model writes what is said in recordings
    is_normalized: bool | None = None  # vectors have length 1; None: as the model has it
    tool_parser: str = ""  # takes calls of tools out of the text; "": none, and requests with tools are refused
    reasoning_parser: str = ""  # takes the reasoning out of the text; "": none
    calls_tools: bool = True  # tool_choice auto is allowed (option.enable_auto_tool_choice)
    template_defaults: Mapping[str, Any] = field(default_factory=dict)  # variables of every chat
    shows_uncalled: bool = False  # the template is shown tools where tool_choice is none
    tool_strict_level: Literal["auto", "function", "parameter"] = "auto"  # what is enforced unasked: vLLM's words
    reasoning_fields: tuple[ReasoningField, ...] = get_args(ReasoningField)  # under what names it is answered
    media: Media | None = None  # what takes images, audio and videos into a prompt; None: the model takes text alone
    save: Callable[[StoredCompletion], None] | None = None  # keeps a completion, without waiting; None: none is kept
    load: Callable[[str, str], StoredCompletion] | None = None  # an owner's kept response; blocks. Raises NotFound
    owner: str = ""  # the name of the API key whose request is parsed
    knows_adapter: Callable[[str], bool] | None = None  # whether one of that name may be there; None: LoRA is off
    is_counting: bool = False  # a prompt's length is asked for, and nothing of it is generated from
    checkers: Checkers = field(init=False, repr=False, compare=False)  # of bodies, by their types

    @property
    def variables(self) -> frozenset[str]:
        """The names that a request may set for the chat template."""
        return self.template.variables | self.template_variables

    def __post_init__(self) -> None:
        """Deployments of the same limits share their checkers."""
        object.__setattr__(self, "checkers", checkers(self.limits))

    def serves(self, model: str) -> bool:
        """Whether `model` names the served model; a placeholder does, unless the deployment is strict."""
        return model in self.names or (model in PLACEHOLDERS and not self.is_strict)

    def counting(self) -> "Deployment":
        """The deployment for a prompt that is only counted: it may be longer than the context."""
        return replace(self, context_tokens=self.context_tokens * COUNTED_CONTEXTS, is_counting=True)

    def also_named(self, name: str) -> "Deployment":
        """The same deployment under one more name."""
        return replace(self, names=self.names | {name})
