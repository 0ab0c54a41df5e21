"""Run a deployment's own formatters, as LMI does: one on each decoded body, one on each payload of the answer.

Both run in the request's way: the body's in a thread, the answer's on the event loop, for every chunk of a stream.
A formatter that raises is answered with 424 and a sentence without its words, which are in the log; a stream ends with
that as its last frame. A formatter of LMI's older kind writes each token instead of each payload (TokenFormatter).
"""

import contextlib
from collections.abc import Callable, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Protocol

import orjson

from lmi_chat.codec import json_text
from lmi_chat.dialects.payload import payload as shown
from lmi_chat.dialects.task import ParsedRequest, Renderer
from lmi_chat.errors import Error, HookFailed
from lmi_chat.job import Delta, Finished

InputFormatter = Callable[..., Any]
OutputFormatter = Callable[[Any], Any]


class TokenFormatter(Protocol):
    """Writes each token of an answer by a formatter of LMI's older kind."""

    def apply(self, parsed: ParsedRequest, body: json_text.Json) -> None:
        """Have the answer to `body` written so."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Formatters:
    """`read` is called with the body and `tokenizer=`, `write` with each payload; both give what takes its place.

    `tokens` writes instead of `write` where it is given. `adapters` are the formatters of adapters that have their own;
    a request for one of them is theirs. `load` reads those of an adapter's model.py.
    """

    read: InputFormatter | None = None
    write: OutputFormatter | None = None
    tokens: TokenFormatter | None = None
    adapters: MutableMapping[str, "Formatters"] = field(default_factory=dict)
    load: "Callable[[Path], Formatters] | None" = None

    @property
    def can_read(self) -> bool:
        """Whether any body may meet a formatter."""
        return self.read is not None or bool(self.adapters)

    def of(self, adapter: object) -> "Formatters":
        """The formatters for a request that names `adapter`: each is its own, or this one where it has none."""
        own = self.adapters.get(adapter) if isinstance(adapter, str) else None
        if own is None:
            return self
        writing = self if own.write is None and own.tokens is None else own
        return replace(self, read=own.read or self.read, write=writing.write, tokens=writing.tokens)

    def body(self, body: json_text.Json, tokenizer: object) -> json_text.Json:
        """The body as the deployment wants it. Raises HookFailed."""
        if self.read is None:
            return body
        try:
            result = self.read(body, tokenizer=tokenizer)
        except Exception as error:
            raise HookFailed.of("the input formatter", error) from error
        if not isinstance(result, dict):
            raise HookFailed(f"the input formatter must give a dict, got {type(result).__name__}")
        return result

    def apply(self, parsed: ParsedRequest, body: json_text.Json) -> None:
        """Have the answer to `body` written as the deployment wants it."""
        if self.tokens is not None:
            self.tokens.apply(parsed, body)
        elif self.write is not None:
            parsed.render = Formatted(parsed.render, self.write)


class Formatted:
    """A render's payloads, each decoded, formatted and encoded again; errors are left as they are."""

    def __init__(self, inner: Renderer, write: OutputFormatter) -> None:
        """Format what `inner` gives by `write`."""
        self._inner, self._write = inner, write

    @property
    def held_bytes(self) -> int:
        """The inner one's."""
        return self._inner.held_bytes

    def delta(self, delta: Delta) -> Sequence[bytes]:
        """Payloads for one delta. Raises HookFailed."""
        return [self._format(payload) for payload in self._inner.delta(delta)]

    def done(self, done: Finished) -> Sequence[bytes]:
        """Payloads that close the answer. Raises HookFailed."""
        return [self._format(payload) for payload in self._inner.done(done)]

    def fail(self, error: Error) -> bytes:
        """The inner one's."""
        return self._inner.fail(error)

    def _format(self, payload: bytes) -> bytes:
        try:
            result = self._write(shown(orjson.loads(payload)))
            if not isinstance(result, dict) and hasattr(result, "model_dump"):
                result = result.model_dump()
        except Exception as error:
            raise HookFailed.of("the output formatter", error) from error
        if isinstance(result, str):
            return line(result)
        if not isinstance(result, dict | list):
            raise HookFailed(f"the output formatter must give a dict, a list or a str, got {type(result).__name__}")
        return json_text.dump(result)


def line(text: str) -> bytes:
    """Encode a formatter's text as a payload, without the end of its line. Raises HookFailed for several lines."""
    text = text.rstrip("\n")
    if "\n" in text or "\r" in text:
        raise HookFailed("the output formatter must give one line, got a text of several")
    return _one_line(text.encode())


def _one_line(text: bytes) -> bytes:
    """A text that is JSON has what line readers split at escaped; any other stays as it is: it knows no escapes."""
    escaped = json_text.escape_line_ends(text)
    if escaped != text:
        with contextlib.suppress(orjson.JSONDecodeError):
            orjson.loads(text)
            return escaped
    return text
