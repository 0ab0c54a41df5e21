"""Parse requests in the form of OpenAI's Responses: an input becomes a chat, and all else is as a chat has it."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lmi_chat.codec.json_text import Json
from lmi_chat.dialects import checks, openai, structured_output
from lmi_chat.dialects.chat import options, prompt, reasoning
from lmi_chat.dialects.chat.messages import Message
from lmi_chat.dialects.chat.request import check_form, parsing_of
from lmi_chat.dialects.deployment import Deployment
from lmi_chat.dialects.reader import BodyReader
from lmi_chat.dialects.responses import stored, tools
from lmi_chat.dialects.responses.answer import Asked
from lmi_chat.dialects.responses.body import (
    ENCRYPTED,
    INCLUDED,
    LOGPROBS,
    OF_TOOLS,
    ReasoningOptions,
    ResponsesBody,
    StreamOptions,
    TextOptions,
)
from lmi_chat.dialects.responses.items import as_chat, read_items, with_own_ids
from lmi_chat.dialects.responses.response import Events, Fold, Whole
from lmi_chat.dialects.task import ParsedRequest
from lmi_chat.errors import PromptTooLong
from lmi_chat.job import Job
from lmi_chat.text import echo

INPUT = "input"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Forms:
    """What the fields that are objects ask for."""

    has_logprobs: bool
    effort: str | None
    verbosity: str | None


def parse(body: Json, deployment: Deployment, request_id: str) -> ParsedRequest:
    """A body → ParsedRequest. Reads what is stored, in a thread. Raises BadField, NoPrevious, PromptTooLong."""
    checks.check_model(body.get("model"), deployment)
    reader = BodyReader(deployment)
    reader.read(body, ResponsesBody)
    is_stream = reader.extra.get("stream", deployment.streams_by_default)
    forms = _read_forms(body, reader, is_stream=is_stream)
    called, origins = tools.check_tools(body, reader)
    check_form(called, reader, beams=0)
    reasoning.check_budget(reader)
    checks.check_vocabulary(reader)
    variables = _with_verbosity(reasoning.check_variables(reader), forms.verbosity, reader)
    salt, account = openai.check_salt(reader), options.check_account(body, reader)
    items, chat = _read_conversation(body, reader)
    reader.finish()
    reader.warnings += account.warnings
    is_stored = deployment.save is not None and reader.extra.get("store", True)
    kept = stored.written(items, reader.warnings) if is_stored else None
    if kept is not None:
        request_id = os.urandom(16).hex()  # a caller's own could name, and so replace, what another has stored

    how = {"variables": variables, "tools": called.shown}
    ids, text, media = _render(chat, reader, **how)
    top = reader.get("top_logprobs") if forms.has_logprobs else None
    values = checks.sampling(reader, {}, logprobs=top)
    checks.expand_sequences(values, 1)
    job = Job(
        id=request_id,
        prompt_ids=ids,
        prompt_text=text,
        sampling=checks.fit_context(ids, values, reader, path=INPUT),
        media=media,
        parsing=parsing_of(called, variables, chat, reader),
        priority=account.priority,
        cache_salt=salt,
    )
    asked = _asked(body, reader, forms, account, values, is_stored=kept is not None)
    fold = Fold(job, asked, deployment, origins, has_logprobs=forms.has_logprobs)
    save = stored.saver(kept, job, deployment) if kept is not None else None
    render = Events(fold, save, has_logprobs=forms.has_logprobs) if is_stream else Whole(fold, save)
    task = ParsedRequest(dialect="responses", jobs=(job,), is_stream=is_stream, render=render, has_end=False)
    task.has_names = True
    task.unknown, task.metadata = reader.warnings, account.metadata
    task.user = account.user or reader.extra.get("safety_identifier", "")
    return task


def _read_conversation(body: Json, reader: BodyReader) -> tuple[list[Json], list[Message]]:
    """The items of the whole conversation and its messages, with the instructions at their head."""
    if body.get(INPUT) is None:
        reader.add_problem(INPUT, "must be given: a string or an array of items")
        return [], []
    items, messages = read_items(body[INPUT], INPUT, reader)
    previous = reader.extra.get(stored.PREVIOUS)
    if previous and not reader.problems:
        held, before = read_items(stored.load(previous, reader.deployment), stored.PREVIOUS, reader)
        items, messages = with_own_ids([*held, *items]), [*before, *messages]
    else:
        items = with_own_ids(items)
    instructions = reader.extra.get("instructions")
    head = [{"role": "system", "content": instructions}] if instructions else []
    chat = as_chat([*head, *messages], INPUT, reader) if not reader.problems else []
    if not chat and not reader.problems:
        reader.add_problem(INPUT, "must have an item that says something")
    return items, chat


def _render(chat: Sequence[Message], reader: BodyReader, **how: Any) -> prompt.Rendered:
    """The prompt; with truncation auto, of as many of the last turns as have room. Raises PromptTooLong."""
    deployment = reader.deployment
    if reader.get("truncation") != "auto":
        return prompt.render(chat, deployment, INPUT, **how)
    room = min(reader.given.get("max_tokens", 1), deployment.context_tokens // 2)
    head = next((place for place, each in enumerate(chat) if each["role"] not in {"system", "developer"}), len(chat))
    starts = [place for place in range(head, len(chat)) if chat[place]["role"] == "user" or place == head]
    best: prompt.Rendered | None = None
    low, high = 0, max(len(starts) - 1, 0)
    while low < high:  # the first of the turns with which all fits
        middle = (low + high) // 2
        best = _fitting([*chat[:head], *chat[starts[middle] :]], deployment, room, **how)
        low, high = (low, middle) if best is not None else (middle + 1, high)
    if low:
        reader.warnings.append(f"{INPUT} is truncated: its first {starts[low] - head} messages have no room")
    return prompt.render([*chat[:head], *(chat[starts[low] :] if starts else [])], deployment, INPUT, **how)


def _fitting(chat: Sequence[Message], deployment: Deployment, room: int, **how: Any) -> prompt.Rendered | None:
    """The prompt, None for one that leaves no `room` in the context."""
    try:
        rendered = prompt.render(chat, deployment, INPUT, **how)
    except PromptTooLong:
        return None
    return rendered if len(rendered.ids) + room <= deployment.context_tokens else None


def _with_verbosity(variables: Mapping[str, Any], verbosity: str | None, reader: BodyReader) -> Mapping[str, Any]:
    if verbosity is None:
        return variables
    if "verbosity" in reader.deployment.variables:
        return {"verbosity": verbosity, **variables}
    if verbosity != "medium":
        reader.warnings.append("text.verbosity is ignored: the model's chat template reads no variable that says it")
    return variables


def _read_forms(body: Json, reader: BodyReader, *, is_stream: bool) -> _Forms:
    """Read the fields that are objects, and `include`."""
    text = reader.read_inside("text", body, TextOptions)
    structured_output.read_text_format(text.extra.get("format"), "text.format", reader)
    thoughts = reader.read_inside("reasoning", body, ReasoningOptions)
    effort = thoughts.extra.get(reasoning.EFFORT)
    if effort is not None:
        reader.extra[reasoning.EFFORT], reader.paths[reasoning.EFFORT] = effort, "reasoning.effort"
    if thoughts.extra.keys() & {"summary", "generate_summary"} and reader.deployment.reasoning_parser:
        reader.warnings.append("reasoning.summary is ignored: the reasoning itself comes back")
    options_given = reader.read_inside("stream_options", body, StreamOptions)
    if body.get("stream_options") is not None and not is_stream:
        reader.add_problem("stream_options", f"must be absent without stream true, got {echo(body['stream_options'])}")
    if options_given.extra.get("include_obfuscation"):
        reader.warnings.append("stream_options.include_obfuscation is ignored: events are not padded")
    return _Forms(
        has_logprobs=_check_include(body.get("include"), reader),
        effort=effort,
        verbosity=text.extra.get("verbosity"),
    )


def _check_include(value: object, reader: BodyReader) -> bool:
    """Whether log-probabilities are asked for."""
    names = [] if value is None else value
    if not isinstance(names, list):
        reader.add_problem("include", f"must be an array of strings, got {echo(value)}")
        return False
    for place, name in enumerate(names):
        if name not in (*INCLUDED, *OF_TOOLS):
            reader.add_problem(f"include[{place}]", f"must be one of {', '.join(INCLUDED)}, got {echo(name)}")
            break
    if ENCRYPTED in names:
        reader.warnings.append(f"include is ignored for {ENCRYPTED}: reasoning comes back as text")
    top = reader.extra.get("top_logprobs")
    if top and LOGPROBS not in names:
        reader.add_problem("top_logprobs", f"needs include to have {LOGPROBS}, got {top}")
    return LOGPROBS in names


def _asked(
    body: Json,
    reader: BodyReader,
    forms: _Forms,
    account: options.Account,
    values: Mapping[str, Any],
    *,
    is_stored: bool,
) -> Asked:
    """What the response repeats of its request."""
    given = reader.extra
    form: Json = (body.get("text") or {}).get("format") or {"type": "text"}
    return {
        "background": False,
        "instructions": given.get("instructions"),
        "max_output_tokens": reader.given.get("max_tokens"),
        "max_tool_calls": given.get("max_tool_calls"),
        "parallel_tool_calls": reader.get("parallel_tool_calls"),
        "previous_response_id": given.get(stored.PREVIOUS),
        "prompt_cache_key": given.get("prompt_cache_key"),
        "safety_identifier": given.get("safety_identifier"),
        "service_tier": account.tier or "default",
        "store": is_stored,
        "temperature": values.get("temperature", 1.0),
        "top_logprobs": reader.get("top_logprobs"),
        "top_p": values.get("top_p", 1.0),
        "truncation": reader.get("truncation"),
        "user": account.user or None,
        "metadata": dict(account.metadata),
        "reasoning": {"effort": forms.effort, "summary": None},
        "text": {"format": form, "verbosity": forms.verbosity or "medium"},
        "tool_choice": body.get("tool_choice") or "auto",
        "tools": tools.shown(body),
    }


__all__ = ["parse"]
