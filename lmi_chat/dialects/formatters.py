"""Run a deployment's own formatters, as LMI does: one on each decoded body, one on each payload of the answer.

Both run in the request's way: the body's in a thread, the answer's on the event loop, for every chunk of a stream.
A formatter that raises is answered with 424 and the exception's own words; a stream ends with that as its last frame.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from lmi_chat.codec import json_text
from lmi_chat.dialects.task import Renderer
from lmi_chat.errors import Error, HookFailed
from lmi_chat.job import Delta, Finished
from lmi_chat.text import one_line

InputFormatter = Callable[..., Any]
OutputFormatter = Callable[[Any], Any]
DETAIL_CHARS = 300


@dataclass(frozen=True, slots=True, kw_only=True)
class Formatters:
    """`read` is called with the body and `tokenizer=`, `write` with each payload; both give what takes its place.

    `adapters` are the formatters of adapters that have their own; a request for one of them is theirs.
    """

    read: InputFormatter | None = None
    write: OutputFormatter | None = None
    adapters: Mapping[str, "Formatters"] = field(default_factory=dict)

    @property
    def can_read(self) -> bool:
        """Whether any body may meet a formatter."""
        return self.read is not None or bool(self.adapters)

    def of(self, adapter: object) -> "Formatters":
        """The formatters for a request that names `adapter`: its own, else these."""
        return self.adapters.get(adapter, self) if isinstance(adapter, str) else self

    def body(self, body: json_text.Json, tokenizer: object) -> json_text.Json:
        """The body as the deployment wants it. Raises HookFailed."""
        if self.read is None:
            return body
        try:
            result = self.read(body, tokenizer=tokenizer)
        except Exception as error:
            raise HookFailed(f"the input formatter failed: {_words(error)}") from error
        if not isinstance(result, dict):
            raise HookFailed(f"the input formatter must give a dict, got {type(result).__name__}")
        return result

    def render(self, inner: Renderer) -> Renderer:
        """A render whose payloads the deployment has formatted."""
        return inner if self.write is None else Formatted(inner, self.write)


class Formatted:
    """A render's payloads, each decoded, formatted and encoded again; errors are left as they are."""

    def __init__(self, inner: Renderer, write: OutputFormatter) -> None:
        """Format what `inner` gives by `write`."""
        self._inner, self._write = inner, write

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
            result = self._write(orjson.loads(payload))
        except Exception as error:
            raise HookFailed(f"the output formatter failed: {_words(error)}") from error
        if isinstance(result, str):
            text = result.rstrip("\n")
            if "\n" in text:
                raise HookFailed("the output formatter must give one line, got a text of several")
            return text.encode()
        if not isinstance(result, dict | list):
            raise HookFailed(f"the output formatter must give a dict, a list or a str, got {type(result).__name__}")
        return json_text.dump(result)


def _words(error: Exception) -> str:
    return one_line(f"{type(error).__name__}: {error}", DETAIL_CHARS)
