"""Check the fields and render the parts of an answer that OpenAI's dialects, chat and completion, have in common.

Shapes: OpenAI API reference, "Chat completions" and "Completions (legacy)".
"""

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import ClassVar

from lmi_chat.codec.json_text import Json, dump
from lmi_chat.dialects import tgi
from lmi_chat.dialects.answer import Choice, CompletionUsage, Head, OpenAIError
from lmi_chat.dialects.body import USAGE, Usage
from lmi_chat.dialects.deployment import Deployment
from lmi_chat.dialects.reader import BodyReader
from lmi_chat.dialects.sequence import usage
from lmi_chat.dialects.task import TokenRenderer
from lmi_chat.errors import Error
from lmi_chat.job import Delta, Finished, Job
from lmi_chat.text import echo

OWN = ("messages", "prompt", "model", "adapters", "parameters")
"""Keys that do not stand in `parameters`."""
SALT_FORBIDDEN = frozenset("@/\\\0")


def check_sequences(reader: BodyReader, *, is_stream: bool) -> tuple[int, int, int]:
    """Sequences that come back, that run, and the width of a beam search (0: none)."""
    count, best_of = reader.given.get("n", 1), reader.extra.get("best_of", 1)
    is_search = reader.get("use_beam_search")
    if best_of > 1 and best_of < count:
        reader.add_problem("best_of", f"must be at least n = {count}, got {best_of}")
    if best_of > 1 and (is_stream or is_search):
        reader.add_problem("best_of", f"must be 1 with stream or use_beam_search true, got {best_of}")
    if is_search and is_stream:
        reader.add_problem("use_beam_search", "must be false with stream true, got true")
    return count, max(count, best_of), count if is_search else 0


def check_salt(reader: BodyReader) -> str | None:
    """A salt becomes part of names where cached prefixes are kept: no character that is a path's."""
    salt: str | None = reader.get("cache_salt")
    if salt and not SALT_FORBIDDEN.isdisjoint(salt):
        reader.add_problem("cache_salt", f"must not hold @, /, \\ or U+0000, got {echo(salt)}")
    return salt


def check_prompt_logprobs(reader: BodyReader, *, is_stream: bool) -> None:
    """They come with a whole answer only, and no beam search tells them."""
    if is_stream and "prompt_logprobs" in reader.given:
        reader.add_problem("prompt_logprobs", f"must be absent with stream true, got {reader.given['prompt_logprobs']}")


def check_usage(body: Json, reader: BodyReader, *, is_stream: bool) -> Mapping[str, bool]:
    """Which of USAGE `stream_options` asks for; empty without it."""
    options = body.get("stream_options")
    if options is None:
        return {}
    if not is_stream:
        reader.add_problem("stream_options", f"must be absent without stream true, got {echo(options)}")
        return {}
    if not isinstance(options, dict):
        reader.add_problem("stream_options", f'must be an object such as {{"include_usage":true}}, got {echo(options)}')
        return {}
    inner = reader.inside("stream_options")
    inner.read(options, Usage)
    return {name: inner.get(name) for name in USAGE}


def error_body(error: Exception) -> OpenAIError:
    """An Error as OpenAI's API has it."""
    if not isinstance(error, Error):
        error = Error("internal error")
    return {"error": {"message": error.message, "type": error.kind, "param": error.param, "code": error.code}}


def head(reply_id: str, deployment: Deployment) -> Head:
    """What every object of one reply begins with."""
    return {
        "id": reply_id,
        "created": int(time.time()),
        "model": deployment.model,
        "system_fingerprint": deployment.fingerprint or None,
    }


def has_text(delta: Delta) -> bool:
    """Whether a delta has something to read: text, or the name of a tool that is called."""
    return bool(delta.text) or (delta.call is not None and bool(delta.call.name))


class ChunkRenderer(TokenRenderer):
    """A stream of chunks, one per delta or more, as far as it is the same for all: heads, first chunks, usage, the end.

    A dialect gives `PLAIN`, what stands before (with %d for the index) and after the text of a chunk that has nothing
    else, and `_choice`, the choice of a chunk that has.
    """

    PLAIN: ClassVar[tuple[bytes, bytes]]

    def __init__(
        self,
        head: Head,
        usage: Mapping[str, bool],
        jobs: Sequence[Job],
        *,
        has_scores: bool,
        has_ids: bool,
        is_tgi: bool = False,
    ) -> None:
        """Render what is the same in every chunk once; `usage` is what `stream_options` asks for."""
        self._is_tgi = is_tgi
        self._head = dump(head)[:-1]
        self._has_usage, is_continuous = (usage.get(name, False) for name in USAGE)
        self._is_continuous = self._has_usage and is_continuous
        self._rows = [job for job in jobs for _ in range(job.width)]
        self._prompt_tokens = sum(len(job.prompt_ids) for job in jobs)
        self._completion_tokens = self._reasoning_tokens = 0
        self._null_usage = b',"usage":null}' if self._has_usage else b"}"
        self._has_ids = has_ids
        self._leads: list[str] = []  # what the rows begin with, shown with the first delta even if that has no text
        self._begun: set[int] = set()
        before, after = self.PLAIN
        self._plain_heads = [
            self._head + b',"choices":[{"index":%d,' % place + before for place in range(len(self._rows))
        ]
        self._plain_tail = after + b"}]" + self._null_usage
        self.is_quick = not (has_scores or has_ids or self._is_continuous)
        self.ends = self._plain_heads[0] + b'"', b'"' + self._plain_tail

    def delta(self, delta: Delta) -> Sequence[bytes]:
        """Its chunks; the plain ones, which are nearly all, are prefix + text + suffix."""
        self._completion_tokens += len(delta.ids)
        if delta.kind == "reasoning":
            self._reasoning_tokens += len(delta.ids)
        if self.is_quick and delta.finish is None and delta.kind != "call" and delta.index in self._begun:
            return self._plain(delta) if delta.text else ()
        if self._leads and delta.index not in self._begun:
            delta = replace(delta, text=self._leads[delta.index] + delta.text)
        return [self._chunk(part) for part in self._split(delta)]

    def _plain(self, delta: Delta) -> Sequence[bytes]:
        """The chunk of a text alone."""
        return (self._plain_heads[delta.index] + dump(delta.text) + self._plain_tail,)

    def _split(self, delta: Delta) -> Sequence[Delta]:
        """What of a delta stands in a chunk of its own; nothing of one that has nothing to show."""
        is_shown = has_text(delta) or delta.tokens or delta.finish or (self._has_ids and delta.ids)
        return (delta,) if is_shown else ()

    def _chunk(self, delta: Delta) -> bytes:
        is_first = delta.index not in self._begun
        self._begun.add(delta.index)
        choice = self._choice(delta, is_first=is_first)
        if self._has_ids:
            choice["token_ids"] = delta.ids
            if is_first:
                choice["prompt_token_ids"] = self._rows[delta.index].prompt_ids
        counted: CompletionUsage | None = None
        if self._is_continuous:
            counted = usage(
                Finished(
                    prompt_tokens=self._prompt_tokens,
                    completion_tokens=self._completion_tokens,
                    reasoning_tokens=self._reasoning_tokens,
                )
            )
        return self._close([choice], counted)

    def _choice(self, delta: Delta, *, is_first: bool) -> Choice:
        raise NotImplementedError

    def _close(self, choices: list[Choice], counted: CompletionUsage | None) -> bytes:
        tail = self._null_usage if counted is None else b',"usage":' + dump(counted) + b"}"
        return self._head + b',"choices":' + dump(choices) + tail

    def done(self, done: Finished) -> Sequence[bytes]:
        """The usage chunk, if it was asked for."""
        return (self._close([], usage(done)),) if self._has_usage else ()

    def fail(self, error: Error) -> bytes:
        """The error in place of the rest."""
        return dump(tgi.typed(error_body(error), error, is_tgi=self._is_tgi))
