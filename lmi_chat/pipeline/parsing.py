"""Parse and check an InferenceRequest into a ParsedRequest; all parsing stands here and below: no engine, no slot."""

import contextlib
import hashlib
from collections.abc import Sequence
from dataclasses import replace
from threading import Lock

from lmi_chat import dialects
from lmi_chat.codec import framing, json_text, multipart
from lmi_chat.dialects import Deployment, ParsedRequest, adapter
from lmi_chat.dialects.chat.session import NEW
from lmi_chat.dialects.formatters import Formatters
from lmi_chat.dialects.task import DirectAnswer
from lmi_chat.dialects.transcription import form
from lmi_chat.errors import BadField, BadJson, BadMedia, ModelNotFound, Problem
from lmi_chat.limits import Limits
from lmi_chat.observability.record import RequestRecord
from lmi_chat.pipeline.request import InferenceRequest
from lmi_chat.storage.sessions import Sessions, Turn
from lmi_chat.text import echo, one_line

WARNING_CHARS = 1024
LARGE_BYTES = 2**20
"""Bodies above this size are read one at a time: several at once would hold up all others for longer."""
_large = Lock()
HINTS = {"application/x-www-form-urlencoded": " (what curl sends without -H 'content-type: application/json')"}
"""Who sends a content type that nobody means."""
SALT_CHARS = 32


def warning(texts: Sequence[str]) -> str:
    """Write the header X-LMI-Chat-Warning: all `texts` in one bounded line of ASCII."""
    return one_line("; ".join(texts), WARNING_CHARS).encode("ascii", "backslashreplace").decode()


def parse(
    request: InferenceRequest,
    turn: Turn | None,
    deployment: Deployment,
    sessions: Sessions | None,
    limits: Limits,
    formatters: Formatters,
) -> ParsedRequest | bytes:
    """Parse a body into a ParsedRequest, or into its answer if no engine is needed (opening or closing a session).

    Fills in the request's dialect, warnings, headers and record. Raises an Error that names the field.
    """
    try:
        return _parse(request, turn, deployment, sessions, limits, formatters)
    finally:
        request.record.ignored = [text.partition(" ")[0] for text in request.warnings if " is ignored" in text]


def _parse(
    request: InferenceRequest,
    turn: Turn | None,
    deployment: Deployment,
    sessions: Sessions | None,
    limits: Limits,
    formatters: Formatters,
) -> ParsedRequest | bytes:
    if brings_file(request):
        body, formatters = _read_file(request, limits), Formatters()
        dialect = dialects.choose(body, request.forced or "transcription", deployment)
    else:
        body = _read(request, limits)
        formatters = formatters.of(adapter.first(body, request.adapter, deployment))
        body = formatters.body(body, deployment.template.tokenizer)
        dialect = dialects.choose(body, request.forced, deployment)
    request.dialect = request.record.dialect = dialect.name
    request.record.model = deployment.model
    _check_target(request, deployment)
    if request.path_model and body.get("model") == request.path_model:
        deployment = deployment.also_named(request.path_model)
    if request.is_record:
        deployment = replace(deployment, streams_by_default=False)
    named = adapter.read(body, request.adapter, deployment)
    if named is not None:
        deployment, request.record.adapter = named.seen_by(deployment), named.shown
    if dialect.parse is None:
        document, headers = dialects.session.answer(body, deployment, sessions, request.session_id, request.owner)
        request.headers |= headers
        return document
    _check_session(request)
    deployment = _of_owner(deployment, request.owner)
    is_turn = turn is not None or request.session_id == NEW
    if is_turn and dialect is dialects.DIALECTS["chat"] and sessions is not None:  # a batch is of no session
        parsed: ParsedRequest | DirectAnswer = _parse_turn(request, turn, body, deployment, sessions)
    else:
        parsed = dialect.parse(body, deployment, request.id)
    if isinstance(parsed, DirectAnswer):
        request.warnings = parsed.warnings
        return parsed.document
    if request.is_record and parsed.is_stream:
        raise BadField([Problem("stream", "stream must be false in a body of several records, got true")])
    if named is not None:
        parsed.named, parsed.adapters = named, named.of_jobs(len(parsed.jobs))
    request.warnings = parsed.unknown
    formatters.apply(parsed, body)
    _note(parsed, request.record)
    return parsed


def _check_session(request: InferenceRequest) -> None:
    """Refuse a message in Anthropic's form in a session, whose messages are a chat's. Raises BadField."""
    if request.dialect == "anthropic" and request.session_id and request.forced not in dialects.COUNTS:
        text = "session: a message in Anthropic's form is held in none; send the whole conversation without the header"
        raise BadField([Problem("session", text)])


def _parse_turn(
    request: InferenceRequest, turn: Turn | None, body: json_text.Json, deployment: Deployment, sessions: Sessions
) -> ParsedRequest:
    """A chat's turn in its session, or the first one of a new session."""
    session = turn.begin() if turn is not None else sessions.draft(request.owner)
    parsed = dialects.session.parse_chat(body, deployment, request.id, session, sessions)
    if turn is None:
        request.headers |= dialects.session.headers_of_new(sessions.add(session))
    return parsed


def salt(parsed: ParsedRequest, owner: str, by: str) -> None:
    """Let only requests of one API key (`by` key), or of one user of it (`by` user), share cached prefixes.

    Who shares them with others could find out their prompts, by the time that a guess takes or by `cached_tokens`.
    """
    tenant = {"key": (owner,), "user": (owner, parsed.user)}.get(by, ())
    if not any(tenant):
        return
    salted = []
    for job in parsed.jobs:
        digest = hashlib.sha256("\0".join((*tenant, job.cache_salt or "")).encode("utf-8", "surrogatepass"))
        salted.append(replace(job, cache_salt=digest.hexdigest()[:SALT_CHARS]))
    parsed.jobs = tuple(salted)


def _of_owner(deployment: Deployment, owner: str) -> Deployment:
    """The deployment as a request of `owner` sees it: what is stored for it belongs to that name."""
    save = deployment.save
    if not owner or save is None:
        return deployment
    return replace(deployment, save=lambda kept: save(replace(kept, owner=owner)), owner=owner)


def _check_target(request: InferenceRequest, deployment: Deployment) -> None:
    """Check the model that a multi-model endpoint names; here there is one. Raises ModelNotFound."""
    if request.target_model and request.target_model not in deployment.names:
        raise ModelNotFound(
            f"model {echo(request.target_model)} is not served here", param="X-Amzn-SageMaker-Target-Model"
        )


def check_media(request: InferenceRequest) -> str:
    """The media type of a body that is UTF-8 as it came. Raises BadMedia."""
    if request.content_encoding not in ("", "identity"):
        raise BadMedia("content-encoding must be absent or identity; send the body uncompressed")
    if framing.charset(request.content_type) not in ("", "utf-8", "utf8"):
        raise BadMedia("the charset of content-type must be utf-8")
    return framing.media_type(request.content_type)


def brings_file(request: InferenceRequest) -> bool:
    """Whether a body is a form, or a recording and nothing else, where the route takes these."""
    if request.content_type == framing.DOCUMENT.content_type:
        return False  # nearly always
    media = framing.media_type(request.content_type)
    is_taken = request.forced is None or request.forced in dialects.RECORDINGS
    return is_taken and (media == multipart.MEDIA or media.startswith(("audio/", "video/")))


def _read_file(request: InferenceRequest, limits: Limits) -> json_text.Json:
    """The fields of a form; of a recording alone, the one that it is. Raises BadMedia, BadForm, BadField."""
    if request.content_encoding not in ("", "identity"):
        raise BadMedia("content-encoding must be absent or identity; send the body uncompressed")
    if framing.media_type(request.content_type) == multipart.MEDIA:
        return form.read(request.body, request.content_type, limits)
    return {form.FILE: form.Upload(request.body)}


def _read(request: InferenceRequest, limits: Limits) -> json_text.Json:
    """The body as an object. Raises BadMedia, BadJson, BadField."""
    media = check_media(request)
    if request.forced in dialects.RECORDINGS:
        raise BadMedia(f"content-type must be {multipart.MEDIA}, or that of a recording, got {echo(media)}")
    match media:
        case "text/plain" if request.forced in (None, "standard"):
            return {"inputs": json_text.text(request.body)}
        case "" | "application/json" | "application/octet-stream" | "binary/octet-stream":
            pass
        case _ if media not in framing.JSON_LINES:
            raise BadMedia(f"content-type must be {_readable(request)}, got {echo(media)}{HINTS.get(media, '')}")
    most = limits.max_inputs
    lengths = {"messages": limits.max_messages, "prompt": limits.max_prompts, "input": most, "documents": most}
    alone = _large if len(request.body) > LARGE_BYTES else contextlib.nullcontext()
    try:
        with alone:
            return json_text.read(
                request.body, depth=limits.max_json_depth, values=limits.max_json_values, lengths=lengths
            )
    except BadJson as error:
        if not media.endswith("octet-stream"):
            raise
        text = f"content-type must be {_readable(request)}, got {echo(media)}, with which a JSON object is read"
        raise BadMedia(f"{text}: {error.message}") from error


def _readable(request: InferenceRequest) -> str:
    """The content types that the request's route reads."""
    text = "" if request.forced else ", or text/plain for inputs"
    return "application/json, or application/jsonlines for a record per line" + text


def _note(parsed: ParsedRequest, record: RequestRecord) -> None:
    """Record the facts of a parsed request, for the log."""
    record.user, record.metadata, record.is_stream = parsed.user, parsed.metadata, parsed.is_stream
    record.prompt_tokens = sum(job.prompt_tokens for job in parsed.jobs)
