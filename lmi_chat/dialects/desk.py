"""What all dialects share: the deployment they check a body against, the task they make of it, the checks in common."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from lmi_chat.bounds import GREEDY_BELOW, Field, Limits, check, nearest
from lmi_chat.errors import BadField, Error, NotFound, Problem, PromptTooLong, echo
from lmi_chat.job import Done, Job, Piece, Sampling
from lmi_chat.template import Template
from lmi_chat.wire import Json

UNKNOWN_SHOWN = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class Desk:
    """The deployment as a dialect sees it. `defaults` are the model's own sampling defaults, in Sampling's names."""

    model: str
    names: frozenset[str]
    template: Template
    context_tokens: int
    vocabulary_tokens: int
    limits: Limits = Limits()
    defaults: Mapping[str, Any] = field(default_factory=dict)
    is_strict: bool = False
    streams_by_default: bool = False
    finish_words: Mapping[str, str] | None = None
    fingerprint: str = ""


class Render(Protocol):
    """Events → payloads: each item is one JSON text without its framing. A whole answer is a fold that gives one."""

    def piece(self, piece: Piece) -> Sequence[bytes]:
        """Payloads for one piece."""

    def done(self, done: Done) -> Sequence[bytes]:
        """Payloads that close the answer."""

    def fail(self, error: Error) -> bytes:
        """The payload that ends a stream which cannot be completed."""


@dataclass(slots=True, kw_only=True)
class Task:
    """A parsed request: the job, whether it streams, who renders it, and what is to be said about its keys."""

    dialect: str
    job: Job
    is_stream: bool
    render: Render
    has_end: bool
    unknown: list[str] = field(default_factory=list)
    user: str = ""


@dataclass(slots=True)
class Form:
    """One body being read: collects what it gives, what is wrong and what is unknown."""

    desk: Desk
    prefix: str = ""
    given: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    unknown: list[str] = field(default_factory=list)

    def read(self, body: Json, table: Mapping[str, Field], own: frozenset[str]) -> None:
        """Check every key of `body` that `table` knows; keys in `own` are the dialect's to read; null is absent."""
        for name, value in body.items():
            known = table.get(name)
            if known is None:
                if name not in own:
                    self.unknown.append(self.prefix + name)
            elif value is not None:
                checked = check(known, value, self.prefix + name, self.desk.limits, self.problems)
                (self.given if known.sets else self.extra)[known.sets or name] = checked

    def value(self, body: Json, name: str, field_: Field) -> Any:  # noqa: ANN401 whatever the field's kind is
        """Check one key that is the dialect's own; its default when absent, null or wrong."""
        value = body.get(name)
        if value is None:
            return field_.default
        checked = check(field_, value, self.prefix + name, self.desk.limits, self.problems)
        return field_.default if checked is None else checked

    def wrong(self, path: str, text: str) -> None:
        """Note a problem with one field."""
        self.problems.append(Problem(path, f"{path} {text}"))

    def close(self, table: Mapping[str, Field], own: frozenset[str]) -> None:
        """Raise BadField if anything is wrong; unknown keys are wrong only when the deployment is strict."""
        if self.desk.is_strict:
            for path in self.unknown:
                self.wrong(path, f"is not a known key{self._hint(path, table, own)}")
        if self.problems:
            raise BadField(self.problems)
        self.unknown = [
            f"{path} is ignored{self._hint(path, table, own)}" for path in self.unknown[:UNKNOWN_SHOWN]
        ]

    def _hint(self, path: str, table: Mapping[str, Field], own: frozenset[str]) -> str:
        near = nearest(path.removeprefix(self.prefix), frozenset(table) | own)
        return f"; did you mean {self.prefix}{near}?" if near else ""


def check_model(name: object, desk: Desk) -> None:
    """`model` is optional and may be ""; any other name must be served here. Raises BadField, NotFound."""
    if name is None or name == "":
        return
    if not isinstance(name, str):
        raise BadField([Problem("model", f"model must be a string, got {echo(name)}")])
    if name not in desk.names:
        raise NotFound(f"model {echo(name)} is not served here; {desk.model} is", param="model")


def check_vocabulary(given: Mapping[str, Any], desk: Desk, names: Mapping[str, str], problems: list[Problem]) -> None:
    """Token ids must stand in the vocabulary. `names` gives each field's path in the caller's words."""
    for key in ("stop_token_ids", "allowed_token_ids", "logit_bias"):
        outside = next((token for token in given.get(key) or () if token >= desk.vocabulary_tokens), None)
        if outside is not None:
            path = names.get(key, key)
            text = f"{path} has token {outside}; the vocabulary ends at {desk.vocabulary_tokens - 1}"
            problems.append(Problem(path, text))


def check_length(text: str, desk: Desk, path: str) -> None:
    """Refuse a prompt that cannot fit, by its characters alone, before it is tokenised. Raises PromptTooLong."""
    most = desk.context_tokens * desk.template.longest_token_chars
    if len(text) > most:
        raise PromptTooLong(
            f"{path} has {len(text)} characters; {desk.context_tokens} tokens hold at most {most}", param=path
        )


def sampling(form: Form, dialect_defaults: Mapping[str, Any], **fixed: object) -> dict[str, Any]:
    """Sampling's values: the request's, else the model's, else the dialect's. Near-zero temperature is greedy."""
    values = {**dialect_defaults, **form.desk.defaults, **form.given, **fixed}
    if values.get("temperature", 1.0) < GREEDY_BELOW:
        values["temperature"] = 0.0
    return values


def seat(ids: list[int], values: dict[str, Any], desk: Desk, *, path: str, limit_name: str, asked: int | None) -> Sampling:
    """Fit prompt and answer into the context and close the sampling values.

    `asked` is the caller's own limit (None: the values' default, cut to what has room). Raises PromptTooLong with counts.
    """
    room = desk.context_tokens - len(ids)
    if room < 1:
        text = f"{path} has {len(ids)} tokens; the model's context holds {desk.context_tokens}, one of them generated"
        raise PromptTooLong(text, param=path)
    if asked is not None and asked > room:
        text = (
            f"{limit_name} must be at most {room}, got {asked}: the prompt has {len(ids)} of the context's "
            f"{desk.context_tokens} tokens"
        )
        raise PromptTooLong(text, param=limit_name)
    most = min(values.get("max_tokens") or room, room)
    if values.get("min_tokens", 0) > most:
        text = f"min_tokens must be at most {most}, got {values['min_tokens']}"
        raise BadField([Problem("min_tokens", text)])
    return Sampling(**{**values, "max_tokens": most})
