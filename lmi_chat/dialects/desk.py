"""What all dialects share: the deployment they check a body against, the task they make of it, the checks in common."""

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Protocol

from lmi_chat.bounds import GREEDY_BELOW, Field, check, nearest
from lmi_chat.chat_template import Template
from lmi_chat.codec.framing import Shape
from lmi_chat.codec.json_text import Json
from lmi_chat.errors import PROBLEMS_MOST, BadField, Error, NotFound, Problem, PromptTooLong, echo, one_line
from lmi_chat.job import Delta, EmbeddingSpec, Finished, Job, SamplingParams
from lmi_chat.limits import Limits
from lmi_chat.storage.completions_db import StoredCompletion

Prompt = str | list[int]
UNKNOWN_SHOWN = 8
NAME_BYTES = 40
PLAIN = SamplingParams()
NO_SEED = -1  # as vLLM has it, and so LMI
UNSEARCHED = (
    *("guide", "logit_bias", "allowed_token_ids", "bad_words", "prompt_logprobs"),
    *("presence_penalty", "frequency_penalty", "repetition_penalty"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Deployment:
    """The deployment as a dialect sees it. `defaults` are the model's own, named as in SamplingParams."""

    model: str
    names: frozenset[str]
    template: Template
    context_tokens: int
    vocabulary_tokens: int
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


class Renderer(Protocol):
    """Events → payloads: each item is one JSON text without its framing. A whole answer is a fold that gives one."""

    def piece(self, piece: Delta) -> Sequence[bytes]:
        """Payloads for one piece."""

    def done(self, done: Finished) -> Sequence[bytes]:
        """Payloads that close the answer."""

    def fail(self, error: Error) -> bytes:
        """The payload that ends a stream which cannot be completed."""


class TokenRenderer:
    """A render that can take a streamed token without its piece, as it says for each request by `is_quick`.

    `ends`: what stands around the text of each token once the answer has begun; None where that is not always the same.
    """

    is_quick: bool
    ends: tuple[bytes, bytes] | None = None

    def token(self, token_id: int, spelled: bytes, logprob: float) -> bytes:  # noqa: ARG002 what TokenSink hands over
        """The payload of one token of the only sequence: here its text between the ends; without them, its own way."""
        head, tail = self.ends or (b"", b"")
        return head + spelled + tail


@dataclass(slots=True, kw_only=True)
class ParsedRequest:
    """A parsed request: its jobs (one per prompt), whether it streams, who renders it, what its keys call for."""

    dialect: str
    jobs: tuple[Job, ...]
    is_stream: bool
    render: Renderer
    has_end: bool
    shape: Shape | None = None
    unknown: list[str] = field(default_factory=list)
    user: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)

    @property
    def job(self) -> Job:
        """The first job; most requests have no other."""
        return self.jobs[0]


@dataclass(slots=True)
class BodyReader:
    """One body being read: collects what it gives and under which paths, what is wrong and what is unknown.

    `unknown` has each unknown key's path and the path of the known key that it may have been meant for, or "".
    """

    desk: Deployment
    prefix: str = ""
    given: dict[str, Any] = field(default_factory=dict)
    extra: dict[str, Any] = field(default_factory=dict)
    paths: dict[str, str] = field(default_factory=dict)
    problems: list[Problem] = field(default_factory=list)
    unknown: list[tuple[str, str]] = field(default_factory=list)
    table: Mapping[str, Field] = field(default_factory=dict)

    def read(self, body: Json, table: Mapping[str, Field]) -> None:
        """Check the keys of `body` against `table`; null is absent."""
        self.table = table
        for name, value in body.items():
            if value is not None and name in table:
                self._keep(name, table[name], value)
        self.check_keys(body, table, self.prefix.removesuffix("."))

    def own(self, name: str) -> Any:
        """What was given for a field that is not sampling's, or its default."""
        return self.extra.get(name, self.table[name].default)

    def check_keys(self, value: Mapping[str, object], known: Collection[str], path: str) -> None:
        """Note the keys of `value`, which stands at `path` ("": the body itself), that are not among `known`."""
        others = [name for name in value if name not in known]
        if others:
            prefix = f"{path}." if path else ""
            self.ignore(others, {name: prefix + name for name in known}, prefix)

    def _keep(self, name: str, known: Field, value: object) -> None:
        path, place = self.prefix + name, known.sets or name
        checked = check(known, value, path, self.desk.limits, self.problems)
        if checked is None:
            return
        store = self.given if known.sets else self.extra
        if store.setdefault(place, checked) != checked:
            self.wrong(path, f"and {self.paths[place]} say the same thing with different values; send one of them")
        self.paths.setdefault(place, path)

    def ignore(self, names: Iterable[str], known: Mapping[str, str], prefix: str) -> None:
        """Note unknown keys; `known` gives the paths of the names that they may have been meant for."""
        for name in islice(names, PROBLEMS_MOST - len(self.unknown)):
            has_hint = len(name) <= NAME_BYTES and len(self.unknown) < UNKNOWN_SHOWN
            near = nearest(name, known) if has_hint else ""
            self.unknown.append((prefix + one_line(name, NAME_BYTES), known[near] if near else ""))

    def wrong(self, path: str, text: str) -> None:
        """Note a problem with one field."""
        self.problems.append(Problem(path, f"{path} {text}"))

    def close(self) -> list[str]:
        """What is to be said about unknown keys; in a strict deployment they are wrong. Raises BadField.

        Where another key is wrong, an unknown one that it may have been meant by is named beside it.
        """
        if self.unknown:
            wrong = {problem.path for problem in self.problems}
            for path, near in self.unknown:
                if self.desk.is_strict or near in wrong:
                    self.wrong(path, f"is not a known key{_hint(near)}")
        if self.problems:
            raise BadField(self.problems)
        told = [f"{path} is ignored{_hint(near)}" for path, near in self.unknown[:UNKNOWN_SHOWN]]
        more = len(self.unknown) - UNKNOWN_SHOWN
        least = "at least " if len(self.unknown) >= PROBLEMS_MOST else ""
        return told if more <= 0 else [*told, f"so are {least}{more} more"]


def _hint(near: str) -> str:
    return f"; did you mean {near}?" if near else ""


def check_model(name: object, desk: Deployment) -> None:
    """`model` is optional and may be ""; any other name must be served here. Raises BadField, NotFound."""
    if name is None or name == "":
        return
    if not isinstance(name, str):
        raise BadField([Problem("model", f"model must be a string, got {echo(name)}")])
    if name not in desk.names:
        raise NotFound(f"model {echo(name)} is not served here; {desk.model} is", param="model")


def check_prompts(value: object, name: str, form: BodyReader, most: int) -> Sequence[tuple[str, Prompt]]:
    """Prompts with their paths: one string or array of token ids, or an array of at most `most` of these."""
    if not isinstance(value, list) or not value or type(value[0]) is int:
        _check_prompt(value, name, form, ", or an array of these")
        return [(name, value)]  # type: ignore[list-item]
    if len(value) > most:
        form.wrong(name, f"must have at most {most} prompts, got {len(value)}")
        return []
    several = [(f"{name}[{place}]", one) for place, one in enumerate(value)]
    for path, one in several:
        _check_prompt(one, path, form)
    return several


def _check_prompt(prompt: object, path: str, form: BodyReader, others: str = "") -> None:
    if not isinstance(prompt, str | list):
        form.wrong(path, f"must be a string or an array of token ids{others}; got {echo(prompt)}")
    elif not prompt:
        form.wrong(path, "must not be empty")
    elif isinstance(prompt, list):
        most = form.desk.vocabulary_tokens - 1
        wrong = next(
            (place for place, token in enumerate(prompt) if type(token) is not int or not 0 <= token <= most), -1
        )
        if wrong >= 0:
            text = f"must be a token id of at least 0 and at most {most}, got {echo(prompt[wrong])}"
            form.wrong(f"{path}[{wrong}]", text)


def check_vocabulary(form: BodyReader) -> None:
    """Token ids must stand in the vocabulary."""
    most = form.desk.vocabulary_tokens
    for key in ("stop_token_ids", "allowed_token_ids", "logit_bias"):
        outside = next((token for token in form.given.get(key, ()) if token >= most), None)
        if outside is not None:
            form.wrong(form.paths[key], f"has token {echo(outside)}; the vocabulary ends at {most - 1}")


def check_beams(form: BodyReader, path: str, beams: int) -> None:
    """A beam search ranks the model's own probabilities, token by token: what would change them has no place there."""
    for name in UNSEARCHED if beams else ():
        if form.given.get(name) not in (None, getattr(PLAIN, name)):
            form.wrong(path, f"must ask for no beam search beside {form.paths[name]}")


def check_length(text: str, desk: Deployment, path: str) -> None:
    """Refuse a prompt that cannot fit, by its characters alone, before it is tokenised. Raises PromptTooLong."""
    most = desk.context_tokens * desk.template.longest_token_chars
    if len(text) > most:
        raise PromptTooLong(
            f"{path} has {len(text)} characters; {desk.context_tokens} tokens hold at most {most}", param=path
        )


def check_room(ids: Sequence[int], desk: Deployment, path: str) -> None:
    """Refuse a prompt that leaves no room for a token of the answer, or has too many. Raises PromptTooLong."""
    most = desk.limits.max_input_tokens
    if most and len(ids) > most:
        raise PromptTooLong(f"{path} has {len(ids)} tokens; this deployment takes at most {most}", param=path)
    if len(ids) >= desk.context_tokens:
        text = f"{path} has {len(ids)} tokens; the model's context holds {desk.context_tokens}, one of them generated"
        raise PromptTooLong(text, param=path)


def check_prompt_logprobs(jobs: Sequence[Job], desk: Deployment, path: str, *, times: int = 1) -> None:
    """Bound the log-probabilities of prompts that one reply holds, each `times` over. Raises BadField."""
    tops = [job.sampling.prompt_logprobs for job in jobs]
    if not any(top is not None for top in tops):
        return
    count = sum(times * len(job.prompt_ids) * (1 + top) for job, top in zip(jobs, tops, strict=True) if top is not None)
    if count > (most := desk.limits.max_prompt_logprobs):
        text = f"asks for {count} log-probabilities (the prompt's tokens × (1 + alternatives))"
        text += f", at most {most} are given (option.max_prompt_logprobs)"
        raise BadField([Problem(path, f"{path} {text}")])


def sampling(form: BodyReader, dialect_defaults: Mapping[str, Any], **fixed: object) -> dict[str, Any]:
    """SamplingParams's values: the request's, else the model's, else the dialect's. Near-zero temperature is greedy."""
    values = {**dialect_defaults, **form.desk.defaults, **form.given, **fixed}
    if values.get("temperature", 1.0) < GREEDY_BELOW:
        values["temperature"] = 0.0
    if values.get("seed") == NO_SEED:
        values["seed"] = None
    return values


def spread(values: dict[str, Any], width: int, *, beams: int = 0) -> int:
    """Make `values` ask for `width` sequences; gives the copies of each (greedy ones are all the same)."""
    is_one_run = beams > 0 or values.get("temperature") == 0
    values["n"] = 1 if is_one_run else width
    return width if is_one_run and not beams else 1


def seat(ids: list[int], values: dict[str, Any], form: BodyReader, *, path: str) -> SamplingParams:
    """Fit prompt and answer into the context and close the sampling values; `path` is the prompt's.

    Only the caller's own limit must fit; a default is cut to what has room. Raises PromptTooLong with counts, BadField.
    """
    check_room(ids, form.desk, path)
    context, asked = form.desk.context_tokens, form.given.get("max_tokens", 0)
    room = context - len(ids)
    if asked > room:
        name = form.paths["max_tokens"]
        text = (
            f"{name} must be at most {room}, got {asked}: the prompt has {len(ids)} of the context's {context} tokens"
        )
        raise PromptTooLong(text, param=name)
    most = min(values.get("max_tokens") or room, room)
    if form.given.get("min_tokens", 0) > most:
        name = form.paths["min_tokens"]
        raise BadField([Problem(name, f"{name} must be at most {most}, got {form.given['min_tokens']}")])
    return SamplingParams(**{**values, "max_tokens": most})
