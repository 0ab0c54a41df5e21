"""What OpenAI's dialects share: the fields that chat and completion read alike, and the parts of a reply in common.

Shapes: OpenAI API reference, "Chat completions" and "Completions (legacy)".
"""

import time
from collections.abc import Mapping, Sequence

from lmi_chat.bounds import Field
from lmi_chat.dialects.desk import Desk, Form
from lmi_chat.errors import Error, echo
from lmi_chat.job import Done, Finish, Token
from lmi_chat.wire import Json

BOOLEAN = Field(kind="boolean", default=False, meaning="")
LMI_FINISH = {"stop": "eos_token", "length": "length", "abort": "abort", "stop_sequence": "stop_sequence"}
USAGE = ("include_usage", "continuous_usage_stats")


def check_sequences(body: Json, form: Form, *, is_stream: bool) -> tuple[int, int, int]:
    """Sequences that come back, that run, and the width of a beam search (0: none)."""
    count, best_of = form.given.get("n", 1), form.extra.get("best_of", 1)
    is_search = form.value(body, "use_beam_search", BOOLEAN)
    if best_of > 1 and best_of < count:
        form.wrong("best_of", f"must be at least n = {count}, got {best_of}")
    if best_of > 1 and (is_stream or is_search):
        form.wrong("best_of", f"must be 1 with stream or use_beam_search true, got {best_of}")
    if is_search and is_stream:
        form.wrong("use_beam_search", "must be false with stream true, got true")
    return count, max(count, best_of), count if is_search else 0


def check_usage(body: Json, form: Form, *, is_stream: bool) -> Mapping[str, bool]:
    """Which of USAGE `stream_options` asks for; empty without it."""
    options = body.get("stream_options")
    if options is None:
        return {}
    if not isinstance(options, dict) or not is_stream:
        form.wrong("stream_options", f"must be an object, and only with stream true; got {echo(options)}")
        return {}
    form.check_keys(options, USAGE, "stream_options")
    inner = Form(form.desk, prefix="stream_options.", problems=form.problems)
    return {name: inner.value(options, name, BOOLEAN) for name in USAGE}


def error_body(error: Exception) -> Json:
    """An Error as OpenAI's API has it."""
    if not isinstance(error, Error):
        error = Error("internal error")
    return {"error": {"message": error.message, "type": error.kind, "param": error.param, "code": error.code}}


def head(reply_id: str, desk: Desk, kind: str) -> Json:
    """What every object of one reply begins with."""
    return {
        "id": reply_id,
        "object": kind,
        "created": int(time.time()),
        "model": desk.model,
        "system_fingerprint": desk.fingerprint or None,
    }


def usage(done: Done) -> Json:
    """The usage object."""
    return {
        "prompt_tokens": done.prompt_tokens,
        "completion_tokens": done.completion_tokens,
        "total_tokens": done.prompt_tokens + done.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": done.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def finish_word(finish: Finish | None, desk: Desk) -> str | None:
    """Why a sequence ended, in OpenAI's words or the deployment's own; None while it goes on."""
    if finish is None:
        return None
    if desk.finish_words is None:
        return finish.reason
    return desk.finish_words["stop_sequence" if isinstance(finish.stop, str) else finish.reason]


def likelihood(tokens: Sequence[Token]) -> float:
    """Mean log-probability, by which `best_of` ranks sequences."""
    return sum(token.choice.logprob for token in tokens) / max(len(tokens), 1)
