"""Parse chat requests in the form of OpenAI's chat completions.

Shapes: OpenAI API reference, "Chat completions"; the fields beyond it are vLLM's.
"""

import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

from lmi_chat.codec.json_text import Json
from lmi_chat.dialects import checks, openai, structured_output
from lmi_chat.dialects.chat import options, prompt, reasoning, stored
from lmi_chat.dialects.chat.body import ChatBody
from lmi_chat.dialects.chat.messages import Message, check_messages, text_of
from lmi_chat.dialects.chat.response import Chunks, Shown, Whole
from lmi_chat.dialects.chat.tools import CallableTools, check_tools
from lmi_chat.dialects.deployment import Deployment
from lmi_chat.dialects.openai import error_body
from lmi_chat.dialects.reader import BodyReader
from lmi_chat.dialects.task import ParsedRequest, Renderer
from lmi_chat.job import Job, ParsingParams
from lmi_chat.media.preparation import has_media


def parse(body: Json, deployment: Deployment, request_id: str) -> ParsedRequest:
    """A chat body → ParsedRequest. Raises BadField, NotFound or PromptTooLong; the paths are the caller's."""
    checks.check_model(body.get("model"), deployment)
    reader = BodyReader(deployment)
    body = reader.lift(body, openai.OWN)
    reader.read(body, ChatBody)
    chat = check_messages(body.get("messages"), reader)
    is_stream = reader.extra.get("stream", deployment.streams_by_default)
    usage = openai.check_usage(body, reader, is_stream=is_stream)
    logprobs = _check_logprobs(reader, is_stream=is_stream)
    returned, width, beams = openai.check_sequences(reader, is_stream=is_stream)
    structured_output.read(body, reader)
    tools = check_tools(body, reader)
    check_form(tools, reader, beams=beams)
    if beams and deployment.media is not None and has_media(chat):
        reader.add_problem("use_beam_search", "must ask for no beam search beside images, audio or videos")
    reasoning.check_budget(reader)
    checks.check_beams(reader, "use_beam_search", beams)
    checks.check_vocabulary(reader)
    flags, variables = _check_ending(reader), reasoning.check_variables(reader)
    salt, asked = openai.check_salt(reader), options.check_account(body, reader)
    reader.finish()
    reader.warnings += asked.warnings
    if asked.is_stored:
        request_id = os.urandom(16).hex()  # a caller's own could name, and so replace, what another has stored

    kept = reader.extra.get("truncate_prompt_tokens", 0)
    how = {**flags, "variables": variables, "tools": tools.shown}
    ids, text, media = prompt.render(chat, deployment, "messages", is_cut=kept > 0, **how)
    ids = ids[-kept:]
    values = checks.sampling(reader, {}, logprobs=0 if logprobs is None and width > returned else logprobs)
    copies = checks.expand_sequences(values, width, beams=beams)
    job = Job(
        id=request_id,
        prompt_ids=ids,
        prompt_text=text,
        sampling=checks.fit_context(ids, values, reader, path="messages"),
        media=media,
        parsing=None
        if beams
        else parsing_of(tools, variables, chat, reader, shows_reasoning=reader.get("include_reasoning")),
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


GIVES_WAY = ("response_format", "text.format", "output_config.format")
"""The fields whose form is the text's alone."""


def check_form(tools: CallableTools, reader: BodyReader, *, beams: int) -> None:
    """Beams are not taken apart into calls; and where the model has to call, there is no other text to have a form."""
    if tools.tools and beams:
        reader.add_problem("use_beam_search", "must ask for no beam search beside tools")
    if beams and reader.deployment.reasoning_parser and not reader.get("include_reasoning"):
        reader.add_problem("use_beam_search", "must ask for no beam search beside include_reasoning false")
    path = reader.paths.get("constraint")
    if path is None or tools.choice not in {"required", "named"}:
        return
    if path.endswith(GIVES_WAY):
        del reader.given["constraint"]
    else:
        reader.add_problem(path, "and tool_choice ask for different forms of the text; send one of them")


def parsing_of(
    tools: CallableTools,
    variables: Mapping[str, Any],
    chat: Sequence[Message],
    reader: BodyReader,
    *,
    shows_reasoning: bool = True,
) -> ParsingParams | None:
    """How the text is taken apart; None where it is all content."""
    if not (tools.tools or reader.deployment.reasoning_parser):
        return None
    return ParsingParams(
        tools=tools.tools,
        choice=tools.choice,
        named=tools.named,
        is_parallel=reader.get("parallel_tool_calls"),
        is_formed=reader.deployment.tool_strict_level != "auto",
        shows_reasoning=shows_reasoning,
        variables=variables,
        messages=chat,
    )


def _check_ending(reader: BodyReader) -> Mapping[str, bool]:
    """How the prompt ends: with the head of a new turn, or inside the last one."""
    is_continued = reader.get("continue_final_message")
    has_head = reader.extra.get("add_generation_prompt", not is_continued)
    if is_continued and has_head:
        reader.add_problem("continue_final_message", "must be false with add_generation_prompt true, got true")
    return {"continue_final_message": is_continued, "add_generation_prompt": has_head}


def _check_logprobs(reader: BodyReader, *, is_stream: bool) -> int | None:
    openai.check_prompt_logprobs(reader, is_stream=is_stream)
    wanted = reader.get("logprobs")
    top = reader.extra.get("top_logprobs")
    if top and not wanted:
        reader.add_problem("top_logprobs", f"needs logprobs to be true, got {top}")
    return (top or 0) if wanted else None


__all__ = ["error_body", "parse"]
