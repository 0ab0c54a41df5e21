"""Parse chat requests in the form of OpenAI's chat completions.

Shapes: OpenAI API reference, "Chat completions"; the fields beyond it are vLLM's.
"""

import os
from collections.abc import Mapping
from functools import partial
from typing import Any

from lmi_chat.codec.json_text import Json
from lmi_chat.dialects import checks, openai, structured_output
from lmi_chat.dialects.chat import options, prompt, stored
from lmi_chat.dialects.chat.body import ChatBody
from lmi_chat.dialects.chat.messages import check_messages, text_of
from lmi_chat.dialects.chat.response import Chunks, Shown, Whole
from lmi_chat.dialects.deployment import Deployment
from lmi_chat.dialects.openai import error_body
from lmi_chat.dialects.reader import BodyReader
from lmi_chat.dialects.task import ParsedRequest, Renderer
from lmi_chat.job import Job
from lmi_chat.text import echo, one_line

VARIABLE_CHARS = 1024
CHOICES = {"tools": "tool_choice", "functions": "function_call"}
"""What a model may call, and the field that says whether it may."""


def parse(body: Json, deployment: Deployment, request_id: str) -> ParsedRequest:
    """A chat body → ParsedRequest. Raises BadField, NotFound or PromptTooLong; the paths are the caller's."""
    checks.check_model(body.get("model"), deployment)
    reader = BodyReader(deployment)
    body = reader.lift(body, openai.OWN)
    reader.read(_without_uncalled(body), ChatBody)
    chat = check_messages(body.get("messages"), reader)
    is_stream = reader.extra.get("stream", deployment.streams_by_default)
    usage = openai.check_usage(body, reader, is_stream=is_stream)
    logprobs = _check_logprobs(reader, is_stream=is_stream)
    returned, width, beams = openai.check_sequences(reader, is_stream=is_stream)
    structured_output.read(body, reader)
    checks.check_beams(reader, "use_beam_search", beams)
    checks.check_vocabulary(reader)
    flags = _check_ending(reader)
    variables = _check_variables(reader)
    salt, asked = openai.check_salt(reader), options.check_account(body, reader)
    reader.finish()
    reader.warnings += asked.warnings
    if asked.is_stored:
        request_id = os.urandom(16).hex()  # a caller's own could name, and so replace, what another has stored

    kept = reader.extra.get("truncate_prompt_tokens", 0)
    ids, text = prompt.render(chat, deployment, "messages", is_cut=kept > 0, variables=variables, **flags)
    ids = ids[-kept:]
    values = checks.sampling(reader, {}, logprobs=0 if logprobs is None and width > returned else logprobs)
    copies = checks.expand_sequences(values, width, beams=beams)
    job = Job(
        id=request_id,
        prompt_ids=ids,
        prompt_text=text,
        sampling=checks.fit_context(ids, values, reader, path="messages"),
        priority=asked.priority,
        cache_salt=salt,
        copies=copies,
        beams=beams,
        length_penalty=reader.get("length_penalty"),
    )
    begun = text_of(chat[-1]) if reader.get("echo") and flags["continue_final_message"] else ""
    checks.check_prompt_logprobs([job], deployment, "prompt_logprobs")
    shown = Shown(
        returned=returned,
        has_logprobs=logprobs is not None,
        prompt_logprobs=values.get("prompt_logprobs"),
        tier=asked.tier,
        begun=begun,
        has_ids=reader.get("return_token_ids"),
        names_ids=reader.get("return_tokens_as_token_ids"),
    )
    fold = partial(Whole, job, deployment, shown)
    render: Renderer = Chunks(job, deployment, usage, shown) if is_stream else fold()
    render = stored.keep(render, fold if is_stream else None, chat, job, deployment, asked)
    task = ParsedRequest(dialect="chat", jobs=(job,), is_stream=is_stream, render=render, has_end=True)
    task.unknown, task.user, task.metadata = reader.warnings, asked.user, asked.metadata
    return task


def _without_uncalled(body: Json) -> Json:
    """The body without the tools and functions that it forbids the model to call."""
    uncalled = {
        name for name, choice in CHOICES.items() if body.get(choice) == "none" and isinstance(body.get(name), list)
    }
    return {name: value for name, value in body.items() if name not in uncalled} if uncalled else body


def _check_ending(reader: BodyReader) -> Mapping[str, bool]:
    """How the prompt ends: with the head of a new turn, or inside the last one."""
    is_continued = reader.get("continue_final_message")
    has_head = reader.extra.get("add_generation_prompt", not is_continued)
    if is_continued and has_head:
        reader.add_problem("continue_final_message", "must be false with add_generation_prompt true, got true")
    return {"continue_final_message": is_continued, "add_generation_prompt": has_head}


def _check_variables(reader: BodyReader) -> Mapping[str, Any]:
    """Variables for the template: only names that it reads or that the deployment allows, only plain values."""
    given = reader.extra.get("chat_template_kwargs", {})
    allowed = reader.deployment.variables
    for name, value in given.items():
        path = f"chat_template_kwargs.{one_line(name, 40)}"
        if name not in allowed:
            told = (
                f"is not allowed; the chat template and option.chat_template_kwargs allow {', '.join(sorted(allowed))}"
            )
            reader.add_problem(path, told)
        elif not isinstance(value, str | int | float | None) or (
            isinstance(value, str) and len(value) > VARIABLE_CHARS
        ):
            reader.add_problem(path, f"must be a plain value of at most {VARIABLE_CHARS} characters, got {echo(value)}")
    return given  # type: ignore[no-any-return]


def _check_logprobs(reader: BodyReader, *, is_stream: bool) -> int | None:
    openai.check_prompt_logprobs(reader, is_stream=is_stream)
    wanted = reader.get("logprobs")
    top = reader.extra.get("top_logprobs")
    if top and not wanted:
        reader.add_problem("top_logprobs", f"needs logprobs to be true, got {top}")
    return (top or 0) if wanted else None


__all__ = ["error_body", "parse"]
