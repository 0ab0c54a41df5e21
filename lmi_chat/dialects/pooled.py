"""Read the texts of requests to models that pool: cut, tokenise and count them, and make their jobs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lmi_chat.codec.json_text import Json
from lmi_chat.dialects import checks, openai
from lmi_chat.dialects.answer import EmbeddingUsage
from lmi_chat.dialects.chat.options import NOT_RANKED
from lmi_chat.dialects.checks import Prompt
from lmi_chat.dialects.deployment import Deployment
from lmi_chat.dialects.reader import BodyReader
from lmi_chat.dialects.task import ParsedRequest, Renderer
from lmi_chat.errors import BadField, Problem
from lmi_chat.job import Finished, Job, PoolingParams, PoolingSpec
from lmi_chat.text import echo


@dataclass(frozen=True, slots=True)
class Cut:
    """What is kept of a text: `most` tokens, 0 for all of them, which must fit; on which `side`, "" where not said."""

    most: int = 0
    side: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """How two texts become one prompt: of each at most so many tokens, 0 for all; and what a template is told."""

    query_tokens: int = 0
    document_tokens: int = 0
    instruction: str = ""


def begin(body: Json, kind: type, deployment: Deployment) -> BodyReader:
    """Read the fields of a body of this type. Raises ModelNotFound, BadField."""
    checks.check_model(body.get("model"), deployment)
    reader = BodyReader(deployment)
    reader.read(body, kind)
    return reader


def spec_of(deployment: Deployment) -> PoolingSpec:
    """The PoolingSpec of a model that is known to pool."""
    if deployment.pooler is None:
        raise BadField([Problem("model", f"model must pool texts, and {deployment.model} generates text")])
    return deployment.pooler


def check_shared(reader: BodyReader) -> Cut:
    """Check what all bodies have alike; gives what is kept of each text."""
    openai.check_salt(reader)
    most, context = reader.extra.get("truncate_prompt_tokens"), context_of(reader.deployment)
    if most is not None and (most == 0 or most > context):
        path = reader.paths["truncate_prompt_tokens"]
        reader.add_problem(path, f"must be at least 1 and at most {context}, or -1 for as many as fit; got {most}")
    side = reader.given.get("side", "").lower()
    if most is None:
        return Cut(context if reader.get("truncate") else 0, side)
    return Cut(context if most < 0 else int(most), side)


def context_of(deployment: Deployment) -> int:
    """Tokens that a text may have."""
    return min(deployment.context_tokens, deployment.limits.max_input_tokens or deployment.context_tokens)


def read(prompt: Prompt, path: str, reader: BodyReader, cut: Cut) -> list[int]:
    """Token ids of a text, or of the part that is kept. Raises PromptTooLong, BadField."""
    most, is_end = cut.most, cut.side == "left"
    if isinstance(prompt, list):
        ids = (prompt[-most:] if is_end else prompt[:most]) if most else prompt
    else:
        ids = _encode(prompt, path, reader, most=most, is_end=is_end)
    if not ids:
        raise BadField([Problem(path, f"{path} must have at least 1 token, got {echo(prompt)}")])
    _check_length(len(ids), path, reader.deployment)
    return ids


def _check_length(tokens: int, path: str, deployment: Deployment, least: str = "") -> None:
    """Refuse so many tokens where the model cannot hold them. Raises PromptTooLong."""
    if tokens > (context := context_of(deployment)):
        bound = "" if context == deployment.context_tokens else f"; this deployment takes at most {context}"
        raise checks.too_long(f"{path} has {least}{tokens} tokens{bound} (truncate true cuts it)", deployment, path)


def _encode(text: str, path: str, reader: BodyReader, *, most: int, is_end: bool) -> list[int]:
    """Long texts are cut by their characters first: a tokenizer takes a second for a megabyte."""
    deployment, has_special = reader.deployment, reader.extra.get("add_special_tokens", True)
    if spec_of(deployment).is_lower_case:
        text = text.lower()
    if not most:
        return checks.tokenize(text, deployment, path, add_special_tokens=has_special)
    part = _part(text, deployment, is_end=is_end)
    return deployment.template.encode_part(part, most, is_end=is_end, add_special_tokens=has_special)


def _part(text: str, deployment: Deployment, *, is_end: bool) -> str:
    """The characters of a text that its kept tokens may have."""
    chars = deployment.context_tokens * deployment.template.longest_token_chars
    return text[-chars:] if is_end else text[:chars]


def read_pair(
    query: str, document: str, path: str, reader: BodyReader, cut: Cut, pair: Pair, wanted: PoolingParams
) -> tuple[list[int], PoolingParams]:
    """Token ids of two texts as one prompt (`path` is the second's), and how it is pooled. Raises PromptTooLong."""
    deployment, context = reader.deployment, context_of(reader.deployment)
    if deployment.pairs is None:
        raise BadField([Problem(path, f"{path} must stand alone: {deployment.model} reads no pairs of texts")])
    if cut.most or pair.document_tokens:
        document = _part(document, deployment, is_end=cut.side == "left")
    if cut.most or pair.query_tokens:
        query = _part(query, deployment, is_end=cut.side == "left")
    checks.check_characters(len(query) + len(document) if not cut.most else 0, deployment, path)
    ids, second_from = deployment.pairs.encode(
        query,
        document,
        most=cut.most or context + 1,
        side=cut.side if cut.most else "",
        query_tokens=pair.query_tokens,
        document_tokens=pair.document_tokens,
        instruction=pair.instruction,
    )
    _check_length(len(ids), path, deployment, "at least ")
    return ids, wanted if second_from is None else replace(wanted, second_from=second_from)


def job_of(
    place: int, request_id: str, ids: list[int], text: Prompt, pooling: PoolingParams, reader: BodyReader
) -> Job:
    """The job of the text that stands at `place`."""
    return Job(
        id=f"{request_id}-{place}",
        prompt_ids=ids,
        prompt_text=text if isinstance(text, str) else "",
        pooling=pooling,
        priority=reader.extra.get("priority", 0),
        cache_salt=reader.extra.get("cache_salt"),
    )


def finish(
    dialect: str, jobs: Sequence[Job], render: Renderer, reader: BodyReader, warnings: list[str]
) -> ParsedRequest:
    """The request of these jobs."""
    parsed = ParsedRequest(dialect=dialect, jobs=tuple(jobs), is_stream=False, render=render, has_end=False)
    is_passed_over = reader.extra.get("priority") and not reader.deployment.has_priority
    parsed.unknown = [*warnings, NOT_RANKED] if is_passed_over else warnings
    parsed.user = reader.extra.get("user", "")
    return parsed


def usage(done: Finished) -> EmbeddingUsage:
    """The tokens of all texts."""
    return {"prompt_tokens": done.prompt_tokens, "total_tokens": done.prompt_tokens}


def check_numbers(tokens: Mapping[str, int], spec: PoolingSpec, deployment: Deployment) -> None:
    """Bound the numbers of an answer with a vector for each token; `tokens` are those of each path. Raises BadField."""
    count, most = sum(tokens.values()) * spec.dimensions, deployment.limits.max_pooled_numbers
    if count > most:
        path = next(iter(tokens))
        text = f"asks for {count} numbers (tokens × {spec.dimensions}), at most {most} are given"
        raise BadField([Problem(path, f"{path} {text} (option.max_pooled_numbers)")])


def activation(reader: BodyReader) -> bool | None:
    """Whether scores are made probabilities; None: as the model has it. TEI asks for the others by `raw_scores`."""
    raw: bool | None = reader.extra.get("raw_scores")
    given: Any = reader.given.get("is_normalized")
    if raw is not None and given is not None and given == raw:
        first, second = reader.paths["is_normalized"], reader.paths["raw_scores"]
        reader.add_problem(second, f"and {first} say the same thing with different values; send one of them")
    return given if raw is None else not raw
