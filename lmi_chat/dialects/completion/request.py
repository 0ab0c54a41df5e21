"""Parse completion requests in the form of OpenAI's legacy completions, of one prompt or several.

Shapes: OpenAI API reference, "Completions (legacy)". `echo` with `max_tokens: 0` scores the prompt, which is how
evaluation tools (lm-eval and the like) ask for the likelihood of a text.
"""

from typing import Any

from lmi_chat.codec.json_text import Json
from lmi_chat.dialects import checks, openai, structured_output
from lmi_chat.dialects.chat.options import NOT_RANKED
from lmi_chat.dialects.checks import Prompt
from lmi_chat.dialects.completion.response import Chunks, Scored, Wanted, Whole
from lmi_chat.dialects.deployment import Deployment
from lmi_chat.dialects.openai import error_body
from lmi_chat.dialects.reader import BodyReader
from lmi_chat.dialects.task import ParsedRequest, Renderer
from lmi_chat.errors import BadField, Problem
from lmi_chat.fields import COMPLETION
from lmi_chat.job import Job
from lmi_chat.text import echo

ENGINES = ("priority", "length_penalty", "cache_salt")


def parse(body: Json, desk: Deployment, request_id: str) -> ParsedRequest:
    """A completion body → ParsedRequest. Raises BadField, NotFound or PromptTooLong; the paths are the caller's."""
    checks.check_model(body.get("model"), desk)
    form = BodyReader(desk)
    form.read(body, COMPLETION)
    prompts = checks.check_prompts(body.get("prompt"), "prompt", form, desk.limits.max_prompts)
    is_stream = form.extra.get("stream", desk.streams_by_default)
    wanted = _check_wanted(body, form, request_id, is_stream=is_stream)
    structured_output.read(body, form)
    checks.check_beams(form, "use_beam_search", wanted.beams)
    checks.check_vocabulary(form)
    openai.check_salt(form)
    unknown = form.close()

    values = _sampling(form, wanted)
    shared: dict[str, Any] = {"copies": checks.spread(values, wanted.width, beams=wanted.beams), "beams": wanted.beams}
    shared |= {name: form.extra[name] for name in ENGINES if name in form.extra}
    jobs: list[Job] = []
    for place, (path, prompt) in enumerate(prompts):
        job_id = request_id if path == "prompt" else f"{request_id}-{place}"
        text, ids = _read(prompt, path, form, has_special=form.own("add_special_tokens"))
        sampling = checks.seat(ids, dict(values), form, path=path)
        jobs.append(Job(id=job_id, prompt_text=text, prompt_ids=ids, sampling=sampling, **shared))
    checks.check_prompt_logprobs(
        jobs, desk, "prompt_logprobs" if "prompt_logprobs" in form.given else "logprobs", times=wanted.width
    )
    render: Renderer = Chunks(jobs, desk, wanted) if is_stream else Whole(jobs, desk, wanted)
    render = Scored(render) if wanted.is_scoring else render
    task = ParsedRequest(dialect="completion", jobs=tuple(jobs), is_stream=is_stream, render=render, has_end=True)
    is_passed_over = form.extra.get("priority") and not desk.has_priority
    task.unknown, task.user = [*unknown, NOT_RANKED] if is_passed_over else unknown, form.own("user")
    return task


def _check_wanted(body: Json, form: BodyReader, request_id: str, *, is_stream: bool) -> Wanted:
    """What the reply is to show. Nothing to generate is fine where the prompt is shown."""
    returned, width, beams = openai.check_sequences(form, is_stream=is_stream)
    logprobs, has_echo = form.own("logprobs"), form.own("echo")
    if (logprobs or 0) > (most := form.desk.limits.max_logprobs):
        form.wrong("logprobs", f"must be at least 0 and at most {most}, got {logprobs}")
    is_scoring = form.given.get("max_tokens") == 0
    if is_scoring and not has_echo:
        form.wrong("max_tokens", "must be at least 1 unless echo is true, got 0")
    if is_scoring and form.given.get("min_tokens"):
        form.wrong("min_tokens", f"must be 0 with max_tokens 0, got {form.given['min_tokens']}")
    openai.check_prompt_logprobs(form, is_stream=is_stream)
    if beams and has_echo and logprobs is not None:
        form.wrong("use_beam_search", "must be false with both echo and logprobs, got true")
    return Wanted(
        id=f"cmpl-{request_id}",
        returned=returned,
        width=returned if is_scoring else width,
        beams=0 if is_scoring else beams,
        logprobs=logprobs,
        prompt_logprobs=form.given.get("prompt_logprobs"),
        has_echo=has_echo,
        has_ids=form.own("return_token_ids"),
        names_ids=form.own("return_tokens_as_token_ids"),
        is_scoring=is_scoring,
        usage=openai.check_usage(body, form, is_stream=is_stream),
    )


def _sampling(form: BodyReader, wanted: Wanted) -> dict[str, Any]:
    """SamplingParams's values. To score a prompt the engine must still generate a token; the answer leaves it out."""
    echoed = wanted.logprobs if wanted.has_echo else None
    tops = [top for top in (wanted.prompt_logprobs, echoed) if top is not None]
    fixed: dict[str, Any] = {"prompt_logprobs": max(tops, default=None)}
    if wanted.is_scoring:
        fixed |= {"max_tokens": 1, "temperature": 0.0}
    else:
        is_ranked = wanted.width > wanted.returned
        fixed["logprobs"] = 0 if is_ranked and wanted.logprobs is None else wanted.logprobs
    return checks.sampling(form, {"max_tokens": COMPLETION["max_tokens"].default}, **fixed)


def _read(prompt: Prompt, path: str, form: BodyReader, *, has_special: bool) -> tuple[str, list[int]]:
    """Text and token ids of a prompt, of what `truncate_prompt_tokens` leaves. Raises PromptTooLong, BadField."""
    template, most = form.desk.template, form.extra.get("truncate_prompt_tokens", 0)
    if isinstance(prompt, str):
        checks.check_length(prompt, form.desk, path)
        ids = template.encode(prompt, add_special_tokens=has_special)
        if not ids:
            raise BadField([Problem(path, f"{path} must have at least 1 token, got {echo(prompt)}")])
        if not 0 < most < len(ids):
            return prompt, ids
        prompt = ids
    kept = prompt[-most:]
    checks.check_room(kept, form.desk, path)
    return template.decode(kept), kept


__all__ = ["error_body", "parse"]
