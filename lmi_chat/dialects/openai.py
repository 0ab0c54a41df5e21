"""What OpenAI's dialects share: the fields that chat and completion read alike, and the parts of a reply in common.

Shapes: OpenAI API reference, "Chat completions" and "Completions (legacy)".
"""

import time
from collections.abc import Mapping, Sequence

from lmi_chat.codec.json_text import Json, dump
from lmi_chat.dialects.desk import BodyReader, Deployment
from lmi_chat.errors import Error, echo
from lmi_chat.fields import USAGE
from lmi_chat.job import Finish, Finished, Token

LMI_FINISH = {
    "stop": "eos_token",
    "length": "length",
    "abort": "abort",
    "time_limit": "time_limit",
    "stop_sequence": "stop_sequence",
}
SALT_FORBIDDEN = frozenset("@/\\\0")


def check_sequences(form: BodyReader, *, is_stream: bool) -> tuple[int, int, int]:
    """Sequences that come back, that run, and the width of a beam search (0: none)."""
    count, best_of = form.given.get("n", 1), form.extra.get("best_of", 1)
    is_search = form.own("use_beam_search")
    if best_of > 1 and best_of < count:
        form.wrong("best_of", f"must be at least n = {count}, got {best_of}")
    if best_of > 1 and (is_stream or is_search):
        form.wrong("best_of", f"must be 1 with stream or use_beam_search true, got {best_of}")
    if is_search and is_stream:
        form.wrong("use_beam_search", "must be false with stream true, got true")
    return count, max(count, best_of), count if is_search else 0


def check_salt(form: BodyReader) -> str | None:
    """A salt becomes part of names where cached prefixes are kept: no character that is a path's."""
    salt: str | None = form.own("cache_salt")
    if salt and not SALT_FORBIDDEN.isdisjoint(salt):
        form.wrong("cache_salt", f"must not hold @, /, \\ or U+0000, got {echo(salt)}")
    return salt


def check_prompt_logprobs(form: BodyReader, *, is_stream: bool) -> None:
    """They come with a whole answer only, and no beam search tells them."""
    if is_stream and "prompt_logprobs" in form.given:
        form.wrong("prompt_logprobs", f"must be absent with stream true, got {form.given['prompt_logprobs']}")


def check_usage(body: Json, form: BodyReader, *, is_stream: bool) -> Mapping[str, bool]:
    """Which of USAGE `stream_options` asks for; empty without it."""
    options = body.get("stream_options")
    if options is None:
        return {}
    if not isinstance(options, dict) or not is_stream:
        form.wrong("stream_options", f"must be an object, and only with stream true; got {echo(options)}")
        return {}
    inner = BodyReader(form.desk, prefix="stream_options.", problems=form.problems, unknown=form.unknown)
    inner.read(options, USAGE)
    return {name: inner.own(name) for name in USAGE}


def error_body(error: Exception) -> Json:
    """An Error as OpenAI's API has it."""
    if not isinstance(error, Error):
        error = Error("internal error")
    return {"error": {"message": error.message, "type": error.kind, "param": error.param, "code": error.code}}


def head(reply_id: str, desk: Deployment, kind: str) -> Json:
    """What every object of one reply begins with."""
    return {
        "id": reply_id,
        "object": kind,
        "created": int(time.time()),
        "model": desk.model,
        "system_fingerprint": desk.fingerprint or None,
    }


def usage(done: Finished) -> Json:
    """The usage object."""
    return {
        "prompt_tokens": done.prompt_tokens,
        "completion_tokens": done.completion_tokens,
        "total_tokens": done.prompt_tokens + done.completion_tokens,
        "prompt_tokens_details": {"cached_tokens": done.cached_tokens},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }


def finish_word(finish: Finish | None, desk: Deployment) -> str | None:
    """Why a sequence ended, in OpenAI's words or the deployment's own; None while it goes on."""
    if finish is None:
        return None
    if desk.finish_words is None:
        return finish.reason
    return desk.finish_words["stop_sequence" if isinstance(finish.stop, str) else finish.reason]


def likelihood(tokens: Sequence[Token]) -> float:
    """Mean log-probability, by which `best_of` ranks sequences."""
    return sum(token.choice.logprob for token in tokens) / max(len(tokens), 1)


class Chunks:
    """A stream of chunks, as far as it is the same for all: its head, its counts, usage, its end."""

    def __init__(self, head: Json, usage: Mapping[str, bool], prompt_tokens: int) -> None:
        """Render `head`, the same in every chunk, once; `usage` is what `stream_options` asks for."""
        self._head = dump(head)[:-1]
        self._has_usage, self._is_continuous = (usage.get(name, False) for name in USAGE)
        self._prompt_tokens, self._completion_tokens = prompt_tokens, 0
        self._null_usage = b',"usage":null}' if self._has_usage else b"}"

    def _chunk(self, choice: Json) -> bytes:
        counted: Json | None = None
        if self._is_continuous:
            counted = usage(Finished(prompt_tokens=self._prompt_tokens, completion_tokens=self._completion_tokens))
        return self._close([choice], counted)

    def _close(self, choices: list[Json], counted: Json | None) -> bytes:
        tail = self._null_usage if counted is None else b',"usage":' + dump(counted) + b"}"
        return self._head + b',"choices":' + dump(choices) + tail

    def done(self, done: Finished) -> Sequence[bytes]:
        """The usage chunk, if it was asked for."""
        return (self._close([], usage(done)),) if self._has_usage else ()

    def fail(self, error: Error) -> bytes:
        """The error in place of the rest."""
        return dump(error_body(error))
