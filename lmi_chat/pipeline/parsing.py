"""Parse and check an InferenceRequest into a ParsedRequest; all parsing stands here and below: no engine, no slot."""

from collections.abc import Sequence

from lmi_chat import dialects
from lmi_chat.codec import json_text
from lmi_chat.dialects import Deployment, ParsedRequest, adapter
from lmi_chat.dialects.chat.session import NEW
from lmi_chat.dialects.formatters import Formatters
from lmi_chat.errors import BadMedia, NotFound
from lmi_chat.limits import Limits
from lmi_chat.observability.record import RequestRecord
from lmi_chat.pipeline.request import InferenceRequest
from lmi_chat.storage.sessions import Session, Sessions
from lmi_chat.text import echo, one_line

WARNING_CHARS = 1024


def warning(texts: Sequence[str]) -> str:
    """The header X-LMI-Chat-Warning: what is to be said, in one bounded line of ASCII."""
    return one_line("; ".join(texts), WARNING_CHARS).encode("ascii", "backslashreplace").decode()


def parse(
    call: InferenceRequest,
    session: Session | None,
    deployment: Deployment,
    sessions: Sessions | None,
    limits: Limits,
    hooks: Formatters,
) -> ParsedRequest | bytes:
    """Bytes → ParsedRequest, or the document that answers what needs no engine (opening or closing a session).

    Fills in the call's dialect, warnings, headers and record. Raises an Error that names the field.
    """
    try:
        return _parse(call, session, deployment, sessions, limits, hooks)
    finally:
        call.record.ignored = [text.partition(" ")[0] for text in call.warnings if " is ignored" in text]


def _parse(
    call: InferenceRequest,
    session: Session | None,
    deployment: Deployment,
    sessions: Sessions | None,
    limits: Limits,
    hooks: Formatters,
) -> ParsedRequest | bytes:
    body = _read(call, limits)
    hooks = hooks.of(call.adapter or body.get("adapters"))
    body = hooks.body(body, deployment.template.tokenizer)
    dialect = dialects.choose(body, call.forced, deployment)
    call.dialect = call.record.dialect = dialect.name
    call.record.model = deployment.model
    _check_target(call, deployment)
    if dialect.parse is None:
        document, headers, call.warnings = dialects.session.answer(body, deployment, sessions, call.session_id)
        call.headers |= headers
        return document
    adapter.check(body, call.adapter, deployment)
    is_new = call.session_id == NEW
    if call.dialect == "chat" and sessions is not None and (is_new or session is not None):
        session = session or sessions.draft()
        task = dialects.session.parse_chat(body, deployment, call.id, session, sessions)
        if is_new:
            call.headers |= dialects.session.headers_of_new(sessions.hold(session))
    else:
        task = dialect.parse(body, deployment, call.id)
    call.warnings = task.unknown
    task.render = hooks.render(task.render)
    _note(task, call.record)
    return task


def _check_target(call: InferenceRequest, deployment: Deployment) -> None:
    """A multi-model endpoint names the model it wants; here there is one. Raises NotFound."""
    if call.target_model and call.target_model not in deployment.names:
        raise NotFound(f"model {echo(call.target_model)} is not served here", param="X-Amzn-SageMaker-Target-Model")


def _read(call: InferenceRequest, limits: Limits) -> json_text.Json:
    if call.content_encoding not in ("", "identity"):
        raise BadMedia("content-encoding must be absent or identity; send the body uncompressed")
    media, _, rest = call.content_type.partition(";")
    charset = rest.partition("charset=")[2].strip().strip('"').lower()
    if charset not in ("", "utf-8", "utf8"):
        raise BadMedia("the charset of content-type must be utf-8")
    match media.strip().lower():
        case "" | "application/json":
            lengths = {"messages": limits.max_messages, "prompt": limits.max_prompts, "input": limits.max_inputs}
            return json_text.read(call.body, depth=limits.max_json_depth, lengths=lengths)
        case "text/plain" if call.forced in (None, "standard"):
            return {"inputs": json_text.text(call.body)}
        case _:
            raise BadMedia("content-type must be application/json or text/plain")


def _note(task: ParsedRequest, record: RequestRecord) -> None:
    """What the log tells of a request that was understood."""
    record.user, record.metadata, record.is_stream = task.user, task.metadata, task.is_stream
    record.prompt_tokens = sum(len(job.prompt_ids) for job in task.jobs)
