"""Define every refusal and failure that a caller can meet: status, kind, code, and whether a retry is free.

No HTTP, engine or dialect names live here; a dialect renders an Error in its own shape.
"""

import errno
import logging
import os
from dataclasses import dataclass
from typing import Literal

from lmi_chat.text import one_line

Kind = Literal[
    "invalid_request_error",
    "authentication_error",
    "not_found_error",
    "rate_limit_error",
    "unavailable_error",
    "timeout_error",
    "server_error",
]
PROBLEM_BYTES = 260
PARAM_BYTES = 200
PROBLEMS_SHOWN = 5
PROBLEMS_MOST = 100
CAUSE_BYTES = 6
log = logging.getLogger(__name__)


class Error(Exception):
    """A request that ends without its answer.

    `status` is the HTTP status before the first byte, `kind` and `code` go into the body, `param` is the field's path,
    and `is_retry_free` says that no work was done for it, so that a client may simply send it again.
    """

    status = 500
    kind: Kind = "server_error"
    code = "internal_error"
    is_retry_free = False
    retry_after_s: int | None = None

    def __init__(self, message: str, *, param: str | None = None) -> None:
        """Keep `message` as one short line; `param` is a path such as `messages[2].content`."""
        super().__init__(one_line(message))
        self.message = one_line(message)
        self.param = None if param is None else one_line(param, PARAM_BYTES)

    def shortened(self, limit: int) -> "Error":
        """The same error with a message of at most `limit` bytes."""
        other = Error.__new__(type(self))
        other.__dict__.update(self.__dict__)
        Error.__init__(other, one_line(self.message, limit), param=self.param)
        return other


class BadJson(Error):
    """The body is no JSON object that we read: syntax, encoding, depth or size of its structure."""

    status, kind, code = 400, "invalid_request_error", "bad_json"
    is_retry_free = True


class BadEncoding(BadJson):
    """The body is not UTF-8 without a byte order mark."""

    code = "bad_encoding"


class BadForm(Error):
    """The body is no form (multipart/form-data) that we read: boundary, parts or their headers."""

    status, kind, code = 400, "invalid_request_error", "bad_form"
    is_retry_free = True


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with one field: its path and a sentence with field, bound and value."""

    path: str
    text: str


class BadField(Error):
    """One or more fields are wrong; the first gives `param`, the first five are named."""

    status, kind, code = 400, "invalid_request_error", "bad_field"
    is_retry_free = True

    def __init__(self, problems: list[Problem]) -> None:
        """Name the first five of `problems` (at least one) and count the rest; a check may stop at PROBLEMS_MOST."""
        shown = [one_line(problem.text, PROBLEM_BYTES) for problem in problems[:PROBLEMS_SHOWN]]
        if len(problems) > PROBLEMS_SHOWN:
            least = "at least " if len(problems) >= PROBLEMS_MOST else ""
            shown.append(f"and {least}{len(problems) - PROBLEMS_SHOWN} more")
        super().__init__("; ".join(shown), param=problems[0].path)
        self.problems = problems


class TemplateRefusal(BadField):
    """The model's chat template refuses the conversation, or fails for it."""


class NoThreads(Error):
    """No conversation is held for Anthropic's clients, which send all of it when they are told so by this code."""

    status, kind, code = 400, "invalid_request_error", "thread_unsupported_request"
    is_retry_free = True


class PromptTooLong(Error):
    """Prompt and requested tokens do not fit the model's context."""

    status, kind, code = 400, "invalid_request_error", "context_length_exceeded"
    is_retry_free = True


class AdaptersOff(Error):
    """The deployment loads no adapters."""

    status, kind, code = 400, "invalid_request_error", "adapters_off"
    is_retry_free = True


class BadAdapter(Error):
    """An adapter that the model cannot use, or that is no adapter: its files, its rank, its base model."""

    status, kind, code = 400, "invalid_request_error", "bad_adapter"
    is_retry_free = True


class AdapterExists(Error):
    """The name is taken by another adapter; vLLM's status for it."""

    status, kind, code = 400, "invalid_request_error", "adapter_exists"
    is_retry_free = True


class AdaptersFull(Error):
    """No room for another adapter, or for another that is pinned; LMI's status for it (RFC 4918 section 11.5)."""

    status, kind, code = 507, "unavailable_error", "adapters_full"
    is_retry_free = True


class ModelsFull(Error):
    """No room for another model: the multi-model contract's status for it."""

    status, kind, code = 507, "unavailable_error", "models_full"
    is_retry_free = True


class Unauthorized(Error):
    """No API key, or none of this server's (RFC 9110 section 15.5.2)."""

    status, kind, code = 401, "authentication_error", "invalid_api_key"
    is_retry_free = True


class Forbidden(Error):
    """A page of another origin asks for a WebSocket, which no browser asks about first (RFC 6455 section 10.2)."""

    status, kind, code = 403, "invalid_request_error", "origin_not_allowed"
    is_retry_free = True


class NotFound(Error):
    """No such adapter, path or stored completion."""

    status, code = 404, "not_found"
    kind: Kind = "not_found_error"
    is_retry_free = True


class ModelNotFound(NotFound):
    """No such model; OpenAI's words for it, which its clients look for."""

    kind, code = "invalid_request_error", "model_not_found"


class NoPrevious(Error):
    """No such response to go on with; OpenAI's status and code for it."""

    status, kind, code = 400, "invalid_request_error", "previous_response_not_found"
    is_retry_free = True


class BadMethod(Error):
    """The path exists, the method is not one of its own."""

    status, kind, code = 405, "invalid_request_error", "method_not_allowed"
    is_retry_free = True


class Conflict(Error):
    """The session is busy with another request, or the model is loaded already."""

    status, kind, code = 409, "invalid_request_error", "conflict"
    is_retry_free = True


class TooLarge(Error):
    """The body is larger than the configured limit."""

    status, kind, code = 413, "invalid_request_error", "body_too_large"
    is_retry_free = True


class BadMedia(Error):
    """A content type or content encoding that is not read."""

    status, kind, code = 415, "invalid_request_error", "unsupported_media_type"
    is_retry_free = True


class RateLimited(Error):
    """The API key has used what it may use in a minute (RFC 6585 section 4)."""

    status, kind, code = 429, "rate_limit_error", "rate_limit_exceeded"
    is_retry_free = True


class HookFailed(Error):
    """The deployment's own code (a formatter, a handler) failed; LMI's status for it."""

    status, kind, code = 424, "server_error", "custom_code_failed"

    @classmethod
    def of(cls, what: str, error: BaseException) -> "HookFailed":
        """Log why `what` failed, and name the line in the log: paths and names of the code are not the caller's."""
        cause = os.urandom(CAUSE_BYTES).hex()
        log.error("%s failed (%s)", what, cause, exc_info=error)
        return cls(f"{what} failed; the server's log says why under {cause}")


class Unavailable(Error):
    """Nothing was done for this request; the same one may succeed later."""

    status, kind, code = 503, "unavailable_error", "unavailable"
    is_retry_free = True
    retry_after_s = 1


class Busy(Unavailable):
    """Every slot and every place in the queue is taken."""

    code = "busy"


class Loading(Unavailable):
    """The model is still loading."""

    code = "loading"
    retry_after_s = 5


class Draining(Unavailable):
    """The server is shutting down and takes no new work."""

    code = "draining"


class CutOff(Draining):
    """The server shut down in the middle of this answer."""

    is_retry_free = False


class EngineDown(Unavailable):
    """The engine process is gone."""

    code = "engine_down"
    is_retry_free = False


class TimedOut(Error):
    """The answer was not complete within the configured deadline."""

    status, kind, code = 504, "timeout_error", "deadline_exceeded"


class Bug(Error):
    """A mistake of this server; the log has the details, the caller has the request's id."""


def unforeseen(failure: Exception) -> Error:
    """Say what a failure that nobody foresaw means to its caller.

    Unavailable where the machine refused memory, a thread or a process, which it may have later; else Bug.
    """
    is_refused = isinstance(failure, MemoryError) or "can't start new thread" in str(failure)
    if is_refused or (isinstance(failure, OSError) and failure.errno in {errno.ENOMEM, errno.EAGAIN, errno.EMFILE}):
        return Unavailable("the machine has no memory, thread or process left for this request; send it again later")
    return Bug("internal error")
