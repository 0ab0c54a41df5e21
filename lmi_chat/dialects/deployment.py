"""Describe the deployment that a dialect checks a body against."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from lmi_chat.chat_template import Template
from lmi_chat.dialects.body import Checkers, checkers
from lmi_chat.job import EmbeddingSpec
from lmi_chat.limits import Limits
from lmi_chat.storage.completions_db import StoredCompletion


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
    template_variables: frozenset[str] = frozenset()
    streams_by_default: bool = False
    finish_words: Mapping[str, str] | None = None
    fingerprint: str = ""
    has_priority: bool = False  # the engine serves by priority, not in the order of arrival
    space: EmbeddingSpec | None = None  # the model embeds and generates no text
    is_normalized: bool | None = None  # vectors have length 1; None: as the model has it
    save: Callable[[StoredCompletion], None] | None = None  # keeps a completion, without waiting; None: none is kept
    checkers: Checkers = field(init=False, repr=False, compare=False)  # of bodies, by their types

    def __post_init__(self) -> None:
        """Deployments of the same limits share their checkers."""
        object.__setattr__(self, "checkers", checkers(self.limits))
