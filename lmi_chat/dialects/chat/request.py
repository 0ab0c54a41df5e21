"""Parse chat requests in the form of OpenAI's chat completions.

Shapes: OpenAI API reference, "Chat completions"; the fields beyond it are vLLM's.
"""

from collections.abc import Mapping
from functools import partial
from typing import Any

from lmi_chat.codec.json_text import Json
from lmi_chat.dialects import checks, openai, structured_output
from lmi_chat.dialects.chat import options, stored
from lmi_chat.dialects.chat.messages import check_messages, text_of
from lmi_chat.dialects.chat.response import Chunks, Shown, Whole
from lmi_chat.dialects.deployment import Deployment
from lmi_chat.dialects.openai import error_body
from lmi_chat.dialects.reader import BodyReader
from lmi_chat.dialects.task import ParsedRequest, Renderer
from lmi_chat.fields import CHAT
from lmi_chat.job import Job
from lmi_chat.text import echo, one_line

VARIABLE_CHARS = 1024


def parse(body: Json, desk: Deployment, request_id: str) -> ParsedRequest:
    """A chat body → ParsedRequest. Raises BadField, NotFound or PromptTooLong; the paths are the caller's."""
    checks.check_model(body.get("model"), desk)
    form = BodyReader(desk)
    form.read(body, CHAT)
    chat = check_messages(body.get("messages"), form)
    is_stream = form.extra.get("stream", desk.streams_by_default)
    usage = openai.check_usage(body, form, is_stream=is_stream)
    logprobs = _check_logprobs(form, is_stream=is_stream)
    returned, width, beams = openai.check_sequences(form, is_stream=is_stream)
    structured_output.read(body, form)
    checks.check_beams(form, "use_beam_search", beams)
    checks.check_vocabulary(form)
    flags = _check_ending(form)
    variables = _check_variables(form)
    salt, asked = openai.check_salt(form), options.check_account(body, form)
    unknown = [*form.close(), *asked.warnings]

    text = desk.template.render(chat, variables=variables, **flags)
    checks.check_length(text, desk, "messages")
    ids = desk.template.encode(text, add_special_tokens=False)[-form.extra.get("truncate_prompt_tokens", 0) :]
    values = checks.sampling(form, {}, logprobs=0 if logprobs is None and width > returned else logprobs)
    copies = checks.spread(values, width, beams=beams)
    job = Job(
        id=request_id,
        prompt_ids=ids,
        prompt_text=text,
        sampling=checks.seat(ids, values, form, path="messages"),
        priority=asked.priority,
        cache_salt=salt,
        copies=copies,
        beams=beams,
        length_penalty=form.own("length_penalty"),
    )
    begun = text_of(chat[-1]) if form.own("echo") and flags["continue_final_message"] else ""
    checks.check_prompt_logprobs([job], desk, "prompt_logprobs")
    shown = Shown(
        returned=returned,
        has_logprobs=logprobs is not None,
        prompt_logprobs=values.get("prompt_logprobs"),
        tier=asked.tier,
        begun=begun,
        has_ids=form.own("return_token_ids"),
    )
    fold = partial(Whole, job, desk, shown)
    render: Renderer = Chunks(job, desk, usage, shown) if is_stream else fold()
    render = stored.keep(render, fold if is_stream else None, chat, job, desk, asked)
    task = ParsedRequest(dialect="chat", jobs=(job,), is_stream=is_stream, render=render, has_end=True, unknown=unknown)
    task.user, task.metadata = asked.user, asked.metadata
    return task


def _check_ending(form: BodyReader) -> Mapping[str, bool]:
    """How the prompt ends: with the head of a new turn, or inside the last one."""
    is_continued = form.own("continue_final_message")
    has_head = form.extra.get("add_generation_prompt", not is_continued)
    if is_continued and has_head:
        form.wrong("continue_final_message", "must be false with add_generation_prompt true, got true")
    return {"continue_final_message": is_continued, "add_generation_prompt": has_head}


def _check_variables(form: BodyReader) -> Mapping[str, Any]:
    """Variables for the template: only names that the deployment allows, only plain values."""
    given = form.extra.get("chat_template_kwargs", {})
    allowed = form.desk.template_variables
    for name, value in given.items():
        path = f"chat_template_kwargs.{one_line(name, 40)}"
        if name not in allowed:
            form.wrong(
                path, f"is not allowed; option.chat_template_kwargs allows {', '.join(sorted(allowed)) or 'none'}"
            )
        elif not isinstance(value, str | int | float | None) or (
            isinstance(value, str) and len(value) > VARIABLE_CHARS
        ):
            form.wrong(path, f"must be a plain value of at most {VARIABLE_CHARS} characters, got {echo(value)}")
    return given  # type: ignore[no-any-return]


def _check_logprobs(form: BodyReader, *, is_stream: bool) -> int | None:
    openai.check_prompt_logprobs(form, is_stream=is_stream)
    wanted = form.own("logprobs")
    top = form.extra.get("top_logprobs")
    if top and not wanted:
        form.wrong("top_logprobs", f"needs logprobs to be true, got {top}")
    return (top or 0) if wanted else None


__all__ = ["error_body", "parse"]
