"""Parse completion requests in the form of OpenAI's legacy completions, of one prompt or several.

Shapes: OpenAI API reference, "Completions (legacy)". `echo` with `max_tokens: 0` scores the prompt, which is how
evaluation tools (lm-eval and the like) ask for the likelihood of a text.
"""

from typing import Any

from lmi_chat.codec.json_text import Json
from lmi_chat.dialects import checks, openai, structured_output
from lmi_chat.dialects.chat.options import NOT_RANKED
from lmi_chat.dialects.checks import Prompt
from lmi_chat.dialects.completion.body import MAX_TOKENS, CompletionBody
from lmi_chat.dialects.completion.response import Chunks, Scored, Wanted, Whole
from lmi_chat.dialects.deployment import Deployment
from lmi_chat.dialects.openai import error_body
from lmi_chat.dialects.reader import BodyReader
from lmi_chat.dialects.task import ParsedRequest, Renderer
from lmi_chat.errors import BadField, Problem
from lmi_chat.job import Job
from lmi_chat.text import echo

ENGINES = ("priority", "length_penalty", "cache_salt")


def parse(body: Json, deployment: Deployment, request_id: str) -> ParsedRequest:
    """A completion body → ParsedRequest. Raises BadField, NotFound or PromptTooLong; the paths are the caller's."""
    checks.check_model(body.get("model"), deployment)
    reader = BodyReader(deployment)
    body = reader.lift(body, openai.OWN)
    reader.read(body, CompletionBody)
    prompts = checks.check_prompts(body.get("prompt"), "prompt", reader, deployment.limits.max_prompts)
    is_stream = reader.extra.get("stream", deployment.streams_by_default)
    wanted = _check_wanted(body, reader, request_id, is_stream=is_stream)
    structured_output.read(body, reader)
    checks.check_beams(reader, "use_beam_search", wanted.beams)
    checks.check_vocabulary(reader)
    openai.check_salt(reader)
    reader.finish()

    values = _sampling(reader, wanted)
    shared: dict[str, Any] = {
        "copies": checks.expand_sequences(values, wanted.width, beams=wanted.beams),
        "beams": wanted.beams,
    }
    shared |= {name: reader.extra[name] for name in ENGINES if name in reader.extra}
    jobs: list[Job] = []
    for place, (path, prompt) in enumerate(prompts):
        job_id = request_id if path == "prompt" else f"{request_id}-{place}"
        text, ids = _read(prompt, path, reader, has_special=reader.get("add_special_tokens"))
        sampling = checks.fit_context(ids, dict(values), reader, path=path)
        jobs.append(Job(id=job_id, prompt_text=text, prompt_ids=ids, sampling=sampling, **shared))
    checks.check_prompt_logprobs(
        jobs, deployment, "prompt_logprobs" if "prompt_logprobs" in reader.given else "logprobs", times=wanted.width
    )
    render: Renderer = Chunks(jobs, deployment, wanted) if is_stream else Whole(jobs, deployment, wanted)
    render = Scored(render) if wanted.is_scoring else render
    task = ParsedRequest(dialect="completion", jobs=tuple(jobs), is_stream=is_stream, render=render, has_end=True)
    if reader.extra.get("priority") and not deployment.has_priority:
        reader.warnings.append(NOT_RANKED)
    task.unknown, task.user = reader.warnings, reader.get("user")
    return task


def _check_wanted(body: Json, reader: BodyReader, request_id: str, *, is_stream: bool) -> Wanted:
    """What the reply is to show. Nothing to generate is fine where the prompt is shown."""
    returned, width, beams = openai.check_sequences(reader, is_stream=is_stream)
    logprobs, has_echo = reader.get("logprobs"), reader.get("echo")
    is_scoring = reader.given.get("max_tokens") == 0
    if is_scoring and not has_echo:
        reader.add_problem("max_tokens", "must be at least 1 unless echo is true, got 0")
    if is_scoring and reader.given.get("min_tokens"):
        reader.add_problem("min_tokens", f"must be 0 with max_tokens 0, got {reader.given['min_tokens']}")
    openai.check_prompt_logprobs(reader, is_stream=is_stream)
    if beams and has_echo and logprobs is not None:
        reader.add_problem("use_beam_search", "must be false with both echo and logprobs, got true")
    return Wanted(
        id=f"cmpl-{request_id}",
        returned=returned,
        width=returned if is_scoring else width,
        beams=0 if is_scoring else beams,
        logprobs=logprobs,
        prompt_logprobs=reader.given.get("prompt_logprobs"),
        has_echo=has_echo,
        has_ids=reader.get("return_token_ids"),
        names_ids=reader.get("return_tokens_as_token_ids"),
        is_scoring=is_scoring,
        usage=openai.check_usage(body, reader, is_stream=is_stream),
    )


def _sampling(reader: BodyReader, wanted: Wanted) -> dict[str, Any]:
    """SamplingParams's values. To score a prompt the engine must still generate a token; the answer leaves it out."""
    echoed = wanted.logprobs if wanted.has_echo else None
    tops = [top for top in (wanted.prompt_logprobs, echoed) if top is not None]
    fixed: dict[str, Any] = {"prompt_logprobs": max(tops, default=None)}
    if wanted.is_scoring:
        fixed |= {"max_tokens": 1, "temperature": 0.0}
    else:
        is_ranked = wanted.width > wanted.returned
        fixed["logprobs"] = 0 if is_ranked and wanted.logprobs is None else wanted.logprobs
    return checks.sampling(reader, {"max_tokens": MAX_TOKENS}, **fixed)


def _read(prompt: Prompt, path: str, reader: BodyReader, *, has_special: bool) -> tuple[str, list[int]]:
    """Text and token ids of a prompt, of what `truncate_prompt_tokens` leaves. Raises PromptTooLong, BadField."""
    template, most = reader.deployment.template, reader.extra.get("truncate_prompt_tokens", 0)
    if isinstance(prompt, str):
        ids = checks.tokenize(prompt, reader.deployment, path, add_special_tokens=has_special, is_cut=most > 0)
        if not ids:
            raise BadField([Problem(path, f"{path} must have at least 1 token, got {echo(prompt)}")])
        if not 0 < most < len(ids):
            return prompt, ids
        prompt = ids
    kept = prompt[-most:]
    checks.check_room(kept, reader.deployment, path)
    return template.decode(kept), kept


__all__ = ["error_body", "parse"]
