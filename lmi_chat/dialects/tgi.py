"""Translate an Error into TGI's `error_type`, by which its clients choose the exception that they raise.

Source: text-generation-inference, router/src/infer/mod.rs; text_generation/errors.py and huggingface_hub read it.
"""

from collections.abc import Mapping

from lmi_chat.codec.json_text import Json
from lmi_chat.errors import (
    BadMethod,
    Conflict,
    CutOff,
    Error,
    NotFound,
    RateLimited,
    TemplateRefusal,
    TimedOut,
    Unauthorized,
    Unavailable,
)

KINDS: tuple[tuple[tuple[type[Error], ...], str], ...] = (
    ((TimedOut, CutOff), "incomplete_generation"),
    ((TemplateRefusal,), "template_error"),
    ((NotFound, BadMethod, Unauthorized), ""),
)
"""Errors that their status alone does not tell; "": TGI has no type for it, and its clients go by the status."""


def error_type(error: Exception) -> str:
    """What TGI calls an Error; "" for what it has no name for."""
    if not isinstance(error, Error):
        return "generation"
    for kinds, name in KINDS:
        if isinstance(error, kinds):
            return name
    if isinstance(error, Unavailable | Conflict | RateLimited) and error.is_retry_free:
        return "overloaded"
    is_the_callers = error.status < Error.status and error.kind != Error.kind
    return "validation" if is_the_callers else "generation"


def typed(body: Mapping[str, object], error: Exception, *, is_tgi: bool) -> Json:
    """An error's body in whatever shape, with TGI's `error_type` where a deployment serves TGI's clients."""
    name = error_type(error) if is_tgi else ""
    return {**body, "error_type": name} if name else {**body}
