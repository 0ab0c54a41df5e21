"""Check what several dialects share: model, prompts, lengths, beams; and close the sampling values."""

from collections.abc import Mapping, Sequence
from typing import Any

from lmi_chat.dialects.deployment import Deployment
from lmi_chat.dialects.reader import BodyReader
from lmi_chat.errors import BadField, NotFound, Problem, PromptTooLong
from lmi_chat.job import Job, SamplingParams
from lmi_chat.text import echo

Prompt = str | list[int]
GREEDY_BELOW = 0.01
PLAIN = SamplingParams()
NO_SEED = -1  # as vLLM has it, and so LMI
UNSEARCHED = (
    *("constraint", "logit_bias", "allowed_token_ids", "bad_words", "prompt_logprobs"),
    *("presence_penalty", "frequency_penalty", "repetition_penalty"),
)


def check_model(name: object, deployment: Deployment) -> None:
    """`model` is optional and may be ""; any other name must be served here. Raises BadField, NotFound."""
    if name is None or name == "":
        return
    if not isinstance(name, str):
        raise BadField([Problem("model", f"model must be a string, got {echo(name)}")])
    if name not in deployment.names:
        raise NotFound(f"model {echo(name)} is not served here; {deployment.model} is", param="model")


def check_prompts(value: object, name: str, reader: BodyReader, most: int) -> Sequence[tuple[str, Prompt]]:
    """Prompts with their paths: one string or array of token ids, or an array of at most `most` of these."""
    if not isinstance(value, list) or not value or type(value[0]) is int:
        _check_prompt(value, name, reader, ", or an array of these")
        return [(name, value)]  # type: ignore[list-item]
    if len(value) > most:
        reader.add_problem(name, f"must have at most {most} prompts, got {len(value)}")
        return []
    several = [(f"{name}[{place}]", one) for place, one in enumerate(value)]
    for path, one in several:
        _check_prompt(one, path, reader)
    return several


def _check_prompt(prompt: object, path: str, reader: BodyReader, others: str = "") -> None:
    if not isinstance(prompt, str | list):
        reader.add_problem(path, f"must be a string or an array of token ids{others}; got {echo(prompt)}")
    elif not prompt:
        reader.add_problem(path, "must not be empty")
    elif isinstance(prompt, list):
        most = reader.deployment.vocabulary_tokens - 1
        wrong = next(
            (place for place, token in enumerate(prompt) if type(token) is not int or not 0 <= token <= most), -1
        )
        if wrong >= 0:
            text = f"must be a token id of at least 0 and at most {most}, got {echo(prompt[wrong])}"
            reader.add_problem(f"{path}[{wrong}]", text)


def check_vocabulary(reader: BodyReader) -> None:
    """Token ids must stand in the vocabulary."""
    most = reader.deployment.vocabulary_tokens
    for key in ("stop_token_ids", "allowed_token_ids", "logit_bias"):
        outside = next((token for token in reader.given.get(key, ()) if token >= most), None)
        if outside is not None:
            reader.add_problem(reader.paths[key], f"has token {echo(outside)}; the vocabulary ends at {most - 1}")


def check_beams(reader: BodyReader, path: str, beams: int) -> None:
    """A beam search ranks the model's own probabilities, token by token: what would change them has no place there."""
    for name in UNSEARCHED if beams else ():
        if reader.given.get(name) not in (None, getattr(PLAIN, name)):
            reader.add_problem(path, f"must ask for no beam search beside {reader.paths[name]}")


def check_length(text: str, deployment: Deployment, path: str) -> None:
    """Refuse a prompt that cannot fit, by its characters alone, before it is tokenised. Raises PromptTooLong."""
    most = deployment.context_tokens * deployment.template.longest_token_chars
    if len(text) > most:
        raise PromptTooLong(
            f"{path} has {len(text)} characters; {deployment.context_tokens} tokens hold at most {most}", param=path
        )


def check_room(ids: Sequence[int], deployment: Deployment, path: str) -> None:
    """Refuse a prompt that leaves no room for a token of the answer, or has too many. Raises PromptTooLong."""
    most = deployment.limits.max_input_tokens
    if most and len(ids) > most:
        raise PromptTooLong(f"{path} has {len(ids)} tokens; this deployment takes at most {most}", param=path)
    if len(ids) >= deployment.context_tokens:
        text = f"{path} has {len(ids)} tokens; the model's context holds {deployment.context_tokens}, "
        text += "one of them generated"
        raise PromptTooLong(text, param=path)


def check_prompt_logprobs(jobs: Sequence[Job], deployment: Deployment, path: str, *, times: int = 1) -> None:
    """Bound the log-probabilities of prompts that one reply holds, each `times` over. Raises BadField."""
    tops = [job.sampling.prompt_logprobs for job in jobs]
    if not any(top is not None for top in tops):
        return
    count = sum(times * len(job.prompt_ids) * (1 + top) for job, top in zip(jobs, tops, strict=True) if top is not None)
    if count > (most := deployment.limits.max_prompt_logprobs):
        text = f"asks for {count} log-probabilities (the prompt's tokens × (1 + alternatives))"
        text += f", at most {most} are given (option.max_prompt_logprobs)"
        raise BadField([Problem(path, f"{path} {text}")])


def sampling(reader: BodyReader, dialect_defaults: Mapping[str, Any], **fixed: object) -> dict[str, Any]:
    """SamplingParams's values: the request's, else the model's, else the dialect's. Near-zero temperature is greedy."""
    values = {**dialect_defaults, **reader.deployment.defaults, **reader.given, **fixed}
    if values.get("temperature", 1.0) < GREEDY_BELOW:
        values["temperature"] = 0.0
    if values.get("seed") == NO_SEED:
        values["seed"] = None
    return values


def expand_sequences(values: dict[str, Any], width: int, *, beams: int = 0) -> int:
    """Make `values` ask for `width` sequences; gives the copies of each (greedy ones are all the same)."""
    is_one_run = beams > 0 or values.get("temperature") == 0
    values["n"] = 1 if is_one_run else width
    return width if is_one_run and not beams else 1


def fit_context(ids: list[int], values: dict[str, Any], reader: BodyReader, *, path: str) -> SamplingParams:
    """Fit prompt and answer into the context and close the sampling values; `path` is the prompt's.

    Only the caller's own limit must fit; a default is cut to what has room. Raises PromptTooLong with counts, BadField.
    """
    check_room(ids, reader.deployment, path)
    context, asked = reader.deployment.context_tokens, reader.given.get("max_tokens", 0)
    room = context - len(ids)
    if asked > room:
        name = reader.paths["max_tokens"]
        text = (
            f"{name} must be at most {room}, got {asked}: the prompt has {len(ids)} of the context's {context} tokens"
        )
        raise PromptTooLong(text, param=name)
    most = min(values.get("max_tokens") or room, room)
    if reader.given.get("min_tokens", 0) > most:
        name = reader.paths["min_tokens"]
        raise BadField([Problem(name, f"{name} must be at most {most}, got {reader.given['min_tokens']}")])
    return SamplingParams(**{**values, "max_tokens": most})
