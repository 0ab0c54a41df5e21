"""Translate the exceptions that vLLM raises into Errors."""

import logging

from lmi_chat.errors import BadField, Bug, EngineDown, Error, Problem, Unavailable
from lmi_chat.job import SamplingParams
from lmi_chat.text import one_line

FORBIDDING = ("allowed_token_ids", "bad_words", "min_tokens", "logit_bias")
log = logging.getLogger(__name__)


def translate(error: BaseException) -> Error:
    """Translate an exception of the engine: gone, the request's own fault, or full. Details go to the log."""
    from vllm.exceptions import VLLMClientError
    from vllm.v1.engine.exceptions import EngineDeadError

    match error:
        case EngineDeadError():
            return EngineDown("the engine is gone; this server is ending")
        case VLLMClientError() | ValueError():
            name = getattr(error, "parameter", None) or "request"
            return BadField([Problem(str(name), f"{name} is refused by the engine: {one_line(str(error), 240)}")])
        case _ if getattr(error, "status_code", 0) == Unavailable.status:
            return Unavailable("the engine's queue is full")
        case _:
            log.error("the engine failed on a request", exc_info=error)
            return Bug("the engine failed on this request")


def given_up(sampling: SamplingParams) -> Error:
    """Explain why the engine gave up: the constraint allows only tokens that other fields forbid."""
    constraint = sampling.constraint
    others = [name for name in FORBIDDING if getattr(sampling, name)]
    if constraint is None or not others:
        return Bug("the engine failed on this request")
    text = f"{constraint.path or 'the output constraint'} and {' and '.join(others)} together leave no token to choose"
    return BadField([Problem(constraint.path, text)])
