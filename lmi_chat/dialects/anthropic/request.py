"""Parse requests in the form of Anthropic's Messages into the jobs that a chat would be.

Shapes: Anthropic API reference, "Create a Message" and "Count tokens in a Message".
"""

from collections.abc import Mapping, Sequence
from typing import Any

from lmi_chat.codec.json_text import Json, dump
from lmi_chat.dialects import checks, openai, structured_output
from lmi_chat.dialects.anthropic.answer import CountedTokens
from lmi_chat.dialects.anthropic.body import IGNORED, MessagesBody, OutputOptions, RequestMetadata, ThinkingOptions
from lmi_chat.dialects.anthropic.messages import is_prefilled, read_messages
from lmi_chat.dialects.anthropic.response import Events, Whole, error_body
from lmi_chat.dialects.anthropic.tools import read_tools
from lmi_chat.dialects.chat import options, prompt, reasoning
from lmi_chat.dialects.chat.messages import Message
from lmi_chat.dialects.chat.request import check_form, parsing_of
from lmi_chat.dialects.chat.tools import CallableTools
from lmi_chat.dialects.deployment import Deployment
from lmi_chat.dialects.reader import BodyReader
from lmi_chat.dialects.task import DirectAnswer, ParsedRequest, Renderer
from lmi_chat.errors import NoThreads
from lmi_chat.job import Job
from lmi_chat.text import echo

PARALLEL = "parallel_tool_calls"
NOTHING_ASKED: Sequence[object] = ("standard", {"edits": []}, {"previous_message_id": None})
"""Values of ignored fields that ask for nothing."""
OWN_BLOCKS = frozenset({"tool_use", "tool_result", "thinking", "redacted_thinking", "image", "document"})
"""The types of blocks that chats do not have; an image of theirs has no `source`."""


CHATS = (
    *("response_format", "n", "logprobs", "top_logprobs", "max_completion_tokens", "logit_bias"),
    *("frequency_penalty", "presence_penalty", "stop", "functions"),
)
"""What a chat has, and a message of Anthropic's never."""


def is_own(body: Json) -> bool:
    """Whether a body with messages, on a route that takes any kind, is Anthropic's.

    So it is with `anthropic_version`; or with max_tokens and one thing that a chat does not have: `system` beside the
    messages, a tool with `input_schema`, or a block of tool_use, tool_result or thinking, or one with a `source`, in a
    message; unless it has a field that only chats have. null is absent. `thinking` alone tells nothing: clients of
    other chats send it, too.
    """
    if body.get("anthropic_version") is not None:
        return True
    if body.get("max_tokens") is None or any(body.get(name) is not None for name in CHATS):
        return False
    tools, messages = body.get("tools"), body.get("messages")
    if isinstance(tools, list) and tools:
        return any(isinstance(tool, dict) and "input_schema" in tool for tool in tools)
    if body.get("system") is not None:
        return True
    return isinstance(messages, list) and any(_has_own_block(message) for message in messages)


def _has_own_block(message: object) -> bool:
    content = message.get("content") if isinstance(message, dict) else None
    return isinstance(content, list) and any(
        isinstance(block, dict)
        and isinstance(kind := block.get("type"), str)
        and kind in OWN_BLOCKS
        and (kind not in ("image", "document") or "source" in block)
        for block in content
    )


def parse(body: Json, deployment: Deployment, request_id: str) -> ParsedRequest:
    """A body in Anthropic's form → ParsedRequest. Raises BadField, NotFound or PromptTooLong."""
    reader, chat, tools = _read(body, deployment)
    if body.get("max_tokens") is None:
        reader.add_problem("max_tokens", "must be given: the most tokens to generate")
    is_stream = reader.extra.get("stream", deployment.streams_by_default)
    output = reader.read_inside("output_config", body, OutputOptions)
    _read_form(output.extra.get("format"), reader.extra.get("output_format"), reader)
    check_form(tools, reader, beams=0)
    variables, is_shown = _read_thinking(body, output, reader)
    salt, user = (
        openai.check_salt(reader),
        reader.read_inside("metadata", body, RequestMetadata).extra.get("user_id", ""),
    )
    reader.finish()
    if reader.extra.get("priority") and not deployment.has_priority:
        reader.warnings.append(options.NOT_RANKED)

    ids, text, media = _render(chat, tools, variables, deployment)
    values = checks.sampling(reader, {})
    checks.expand_sequences(values, 1)
    job = Job(
        id=request_id,
        prompt_ids=ids,
        prompt_text=text,
        sampling=checks.fit_context(ids, values, reader, path="messages"),
        media=media,
        parsing=parsing_of(tools, variables, chat, reader, shows_reasoning=is_shown),
        priority=reader.extra.get("priority", 0),
        cache_salt=salt,
    )
    render: Renderer = Events(job, deployment) if is_stream else Whole(job, deployment)
    task = ParsedRequest(dialect="anthropic", jobs=(job,), is_stream=is_stream, render=render, has_end=False)
    task.has_names, task.unknown, task.user = True, reader.warnings, user
    return task


def count(body: Json, deployment: Deployment, request_id: str) -> DirectAnswer:  # noqa: ARG001 as parse
    """Count the tokens of the prompt that a body asks for. Raises BadField or NotFound."""
    reader, chat, tools = _read(body, deployment)
    variables, _ = _read_thinking(body, reader.read_inside("output_config", body, OutputOptions), reader)
    reader.finish()
    with checks.counting(deployment, "messages") as wide:
        counted: CountedTokens = {"input_tokens": len(_render(chat, tools, variables, wide).ids)}
    return DirectAnswer(dump(counted), reader.warnings)


def _read(body: Json, deployment: Deployment) -> tuple[BodyReader, Sequence[Message], CallableTools]:
    """What both kinds of requests have: the fields, the conversation and the tools."""
    checks.check_model(body.get("model"), deployment)
    if body.get("thread") is not None:
        text = f"thread must be absent: no conversation is held, send all of it; got {echo(body['thread'])}"
        raise NoThreads(text, param="thread")
    reader = BodyReader(deployment)
    reader.extra[PARALLEL] = True
    reader.read(body, MessagesBody)
    for name, why in IGNORED.items():
        if (value := body.get(name)) and value not in NOTHING_ASKED:
            reader.warnings.append(f"{name} is ignored: {why}")
    chat, changes = read_messages(body, reader)
    return reader, chat, read_tools(body, changes, reader)


def _render(
    chat: Sequence[Message], tools: CallableTools, variables: Mapping[str, Any], deployment: Deployment
) -> prompt.Rendered:
    goes_on = is_prefilled(chat)
    ending = {"continue_final_message": goes_on, "add_generation_prompt": not goes_on}
    return prompt.render(chat, deployment, "messages", variables=variables, tools=tools.shown, **ending)


def _read_form(form: object, older: object, reader: BodyReader) -> None:
    """The text's form, which older clients say beside `output_config`."""
    if form is not None and older is not None and form != older:
        text = "and output_config.format say the same thing with different values; send one of them"
        reader.add_problem("output_format", text)
    path = "output_config.format" if form is not None else "output_format"
    structured_output.read_text_format(form if form is not None else older, path, reader)


def _read_thinking(body: Json, output: BodyReader, reader: BodyReader) -> tuple[Mapping[str, Any], bool]:
    """The variables of the template, and whether what was thought comes back; the budget goes to the sampling."""
    asked, deployment = reader.read_inside("thinking", body, ThinkingOptions), reader.deployment
    kind, budget = asked.extra.get("type"), asked.extra.get("budget_tokens")
    if isinstance(body.get("thinking"), dict) and body["thinking"].get("type") is None:
        reader.add_problem("thinking.type", "must be one of enabled, adaptive, between_tools, disabled")
    if budget is not None and budget >= (most := reader.given.get("max_tokens", budget + 1)):
        reader.add_problem("thinking.budget_tokens", f"must be below max_tokens = {most}, got {budget}")
    if kind == "enabled" and budget is not None and deployment.reasoning_parser:
        reader.given[reasoning.BUDGET] = budget
    elif budget is not None:
        reader.warnings.append(f"thinking.budget_tokens is ignored: {_unparsed(kind)}")
    if (effort := output.extra.get("effort")) is not None and kind != "disabled":
        reader.extra[reasoning.EFFORT], reader.paths[reasoning.EFFORT] = effort, "output_config.effort"
    if kind is not None:
        reads = deployment.template.reads | deployment.template_variables
        known = {name: kind != "disabled" for name in reasoning.SWITCHES if name in reads}
        if not known and kind == "disabled" and deployment.reasoning_parser:
            reader.warnings.append("thinking is ignored: the model's chat template has no switch for it")
        reader.extra[reasoning.VARIABLES] = {**known, **reader.extra.get(reasoning.VARIABLES, {})}
    return reasoning.check_variables(reader), asked.extra.get("display") != "omitted"


def _unparsed(kind: str | None) -> str:
    if kind != "enabled":
        return "thinking.type is not enabled"
    return "no parser of reasoning is known for the model (option.reasoning_parser)"


__all__ = ["count", "error_body", "is_own", "parse"]
