"""Check the fields that several dialects share: model, prompts, lengths, beams; and close the sampling values."""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from itertools import islice
from typing import Any

from lmi_chat.dialects.deployment import COUNTED_CONTEXTS, Deployment
from lmi_chat.dialects.reader import BodyReader
from lmi_chat.errors import BadField, ModelNotFound, Problem, PromptTooLong
from lmi_chat.job import Job, SamplingParams
from lmi_chat.text import echo

Prompt = str | list[int]
GREEDY_BELOW = 0.01
NAMED = 5  # of the items that are wrong in one array
PLAIN = SamplingParams()
FIRST_CHARS = 6
"""Characters per token of the context, in the part of a long text that is tokenised first."""
BEYOND = 1.25
"""The context's tokens by which that part must exceed it: the rest can change how its last few are cut."""
NO_SEED = -1  # as vLLM has it, and so LMI
UNSEARCHED = (
    *("constraint", "logit_bias", "allowed_token_ids", "bad_words", "prompt_logprobs", "thinking_token_budget"),
    *("presence_penalty", "frequency_penalty", "repetition_penalty"),
)


def check_model(name: object, deployment: Deployment) -> None:
    """`model` is optional and may be ""; any other name must be served here. Raises BadField, ModelNotFound."""
    if name is None or name == "":
        return
    if not isinstance(name, str):
        raise BadField([Problem("model", f"model must be a string, got {echo(name)}")])
    if not deployment.serves(name):
        raise ModelNotFound(f"model {echo(name)} is not served here; {deployment.model} is", param="model")


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
        check_ids(prompt, path, reader)


def check_ids(ids: Sequence[object], path: str, reader: BodyReader) -> None:
    """Token ids at `path` must stand in the vocabulary; the first few that do not are named."""
    most = reader.deployment.vocabulary_tokens - 1
    wrong = (place for place, token in enumerate(ids) if type(token) is not int or not 0 <= token <= most)
    for place in islice(wrong, NAMED):
        reader.add_problem(
            f"{path}[{place}]", f"must be a token id of at least 0 and at most {most}, got {echo(ids[place])}"
        )


def check_vocabulary(reader: BodyReader) -> None:
    """Token ids must stand in the vocabulary."""
    most = reader.deployment.vocabulary_tokens
    for key in ("stop_token_ids", "allowed_token_ids", "logit_bias"):
        ids = reader.given.get(key)
        if ids and max(ids) >= most:
            outside = map(echo, islice((each for each in ids if each >= most), NAMED))
            text = f"has token {', '.join(outside)}; the vocabulary ends at {most - 1}"
            reader.add_problem(reader.paths[key], text)


def check_beams(reader: BodyReader, path: str, beams: int) -> None:
    """A beam search ranks the model's own probabilities, token by token: what would change them has no place there."""
    for name in UNSEARCHED if beams else ():
        if reader.given.get(name) not in (None, getattr(PLAIN, name)):
            reader.add_problem(path, f"must ask for no beam search beside {reader.paths[name]}")


def too_long(text: str, deployment: Deployment, path: str) -> PromptTooLong:
    """Refuse a prompt of which `text` tells the length."""
    return _beyond_context(f"{text}: the prompt is too long", deployment, path)


def _beyond_context(text: str, deployment: Deployment, path: str) -> PromptTooLong:
    """Say how long the context is, in the words by which LiteLLM and others know that they need a longer one.

    Behind SageMaker LiteLLM knows TGI's words alone, whatever the body's kind.
    """
    most = deployment.context_tokens
    tgi = f"`inputs` tokens + `max_new_tokens` must be <= {most}"
    return PromptTooLong(f"{text}. This model's maximum context length is {most} tokens ({tgi})", param=path)


def tokenize(
    text: str, deployment: Deployment, path: str, *, add_special_tokens: bool, is_cut: bool = False
) -> list[int]:
    """Token ids of a prompt, of which the caller keeps a part if it `is_cut`. Raises PromptTooLong.

    One that cannot fit is refused by its characters alone, or by its first part: to tokenise all of it takes seconds.
    """
    check_characters(len(text), deployment, path)
    template, context = deployment.template, deployment.context_tokens
    if not is_cut and len(text) > (chars := context * FIRST_CHARS):
        least = len(template.encode(text[:chars], add_special_tokens=add_special_tokens))
        if least > context * BEYOND:
            raise too_long(
                f"{path} has {len(text)} characters, of which the first {chars} are {least} tokens", deployment, path
            )
    return template.encode(text, add_special_tokens=add_special_tokens)


@contextlib.contextmanager
def counting(deployment: Deployment, path: str) -> Iterator[Deployment]:
    """Let a prompt at `path` be longer than the context, up to a bound. Raises BadField for one beyond that."""
    wide = deployment.counting()
    try:
        yield wide
    except PromptTooLong as error:
        text = f"{path} must have at most {wide.context_tokens} tokens to be counted, {COUNTED_CONTEXTS} contexts"
        raise BadField([Problem(path, text)]) from error


def check_characters(count: int, deployment: Deployment, path: str) -> None:
    """Refuse so many characters where the context cannot hold them. Raises PromptTooLong."""
    most = deployment.context_tokens * deployment.template.longest_token_chars
    if count > most:
        said = f"{path} has {count} characters; {deployment.context_tokens} tokens hold at most {most}"
        raise too_long(said, deployment, path)


def check_room(ids: Sequence[int], deployment: Deployment, path: str) -> None:
    """Refuse a prompt that leaves no room for a token of the answer, or has too many. Raises PromptTooLong."""
    most = deployment.limits.max_input_tokens
    if most and len(ids) > most and not deployment.is_counting:
        raise too_long(f"{path} has {len(ids)} tokens; this deployment takes at most {most}", deployment, path)
    if len(ids) >= deployment.context_tokens:
        raise too_long(f"{path} has {len(ids)} tokens, and at least one is generated", deployment, path)


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
    """SamplingParams's values: the request's, else the model's, else the dialect's.

    A temperature near zero is greedy, and so is a nucleus of nothing, which leaves the likeliest token.
    """
    values = {**dialect_defaults, **reader.deployment.defaults, **reader.given, **fixed}
    is_narrowest = values.get("top_p") == 0
    is_greedy = is_narrowest or reader.extra.get("do_sample") is False
    if is_greedy or values.get("temperature", 1.0) < GREEDY_BELOW:
        values["temperature"] = 0.0
    if is_narrowest:
        values["top_p"] = PLAIN.top_p
    if values.get("seed") == NO_SEED:
        values["seed"] = None
    return values


def expand_sequences(values: dict[str, Any], width: int, *, beams: int = 0) -> int:
    """Make `values` ask for `width` sequences; gives the copies of each (greedy ones are all the same).

    Where nothing is drawn there is no seed.
    """
    is_one_run = beams > 0 or values.get("temperature") == 0
    values["n"] = 1 if is_one_run else width
    if is_one_run:
        values["seed"] = None
    return width if is_one_run and not beams else 1


def fit_context(ids: list[int], values: dict[str, Any], reader: BodyReader, *, path: str) -> SamplingParams:
    """Fit prompt and answer into the context and close the sampling values; `path` is the prompt's.

    A limit of tokens is a cap, no reservation: it is cut to what has room and to what the deployment gives, and the
    caller's own is told so; a strict deployment refuses it. Raises PromptTooLong, BadField.
    """
    deployment = reader.deployment
    check_room(ids, deployment, path)
    if "max_length" in reader.extra and "max_tokens" not in reader.given:
        values = {**values, "max_tokens": _of_total(reader.extra["max_length"], len(ids), reader.paths["max_length"])}
    room = deployment.context_tokens - len(ids)
    most = min(room, deployment.limits.max_output_tokens or room)
    why = f"{path} has {len(ids)} of the context's {deployment.context_tokens} tokens"
    if most < room:
        why = "this deployment generates no more (option.max_output_tokens)"
    if (asked := reader.given.get("max_tokens", 0)) > most:
        name = reader.paths["max_tokens"]
        if deployment.is_strict:
            raise _no_room(name, f"must be at most {most}, got {asked}: {why}", deployment, is_context=most == room)
        reader.warnings.append(f"{name} is cut to {most}: {why}")
    limit = min(values.get("max_tokens") or most, most)
    if (least := reader.given.get("min_tokens", 0)) > limit:
        name = reader.paths["min_tokens"]
        if least > most:
            raise _no_room(name, f"must be at most {most}, got {least}: {why}", deployment, is_context=most == room)
        raise BadField([Problem(name, f"{name} must be at most {limit}, got {least}")])
    return SamplingParams(**{**values, "max_tokens": limit})


def _no_room(name: str, text: str, deployment: Deployment, *, is_context: bool) -> PromptTooLong | BadField:
    if is_context:
        return _beyond_context(f"{name} {text}", deployment, name)
    return BadField([Problem(name, f"{name} {text}")])


def _of_total(total: int, prompt_tokens: int, path: str) -> int:
    """Tokens to generate where prompt and text together may have `total`. Raises BadField."""
    if total <= prompt_tokens:
        raise BadField([Problem(path, f"{path} must be above the prompt's {prompt_tokens} tokens, got {total}")])
    return total - prompt_tokens
