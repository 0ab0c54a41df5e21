"""Collect the facts of one request, for its log line and its metrics."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lmi_chat.errors import Error
from lmi_chat.text import one_line

CLIENT_GONE = 499
TOOLS_MOST, NAME_BYTES = 64, 64
"""Of the tools that one answer calls, so many are logged, by so much of their names: they are the model's words."""


@dataclass(slots=True, kw_only=True)
class RequestRecord:
    """The facts of one request; times in seconds, None where it never came so far.

    `queue_s`: waiting, for admission and in the engine. `prefill_s`: the engine's first step on it to the first token.
    `decode_s`: first token to last. `seated_s`: arrival to admission. `ttft_s`: arrival to the first token.
    `width`: sequences. `called`: names of the tools that the model called.
    `owner`: the name of the API key that came with it.
    """

    id: str = ""
    began: float = field(default_factory=time.monotonic)
    dialect: str = ""
    model: str = ""
    adapter: str = ""
    owner: str = ""
    user: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    is_stream: bool = False
    status: int = 200
    error: str | None = None
    reasons: Sequence[str] = ()
    width: int = 1
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    called: Sequence[str] = ()
    seated_s: float = 0.0
    queue_s: float | None = None
    prefill_s: float | None = None
    decode_s: float | None = None
    ttft_s: float | None = None
    ignored: Sequence[str] = ()

    @property
    def age_s(self) -> float:
        """Seconds since its arrival."""
        return time.monotonic() - self.began

    def fail(self, error: Error, *, has_begun: bool = False) -> None:
        """Note that it ended in `error`; `has_begun`: as the last frame of a stream, whose status was sent before."""
        self.error = error.code
        if not has_begun:
            self.status = error.status

    def line(self, total_s: float) -> dict[str, Any]:
        """Return the fields of the log line."""
        return {
            "time": now(),
            "id": self.id,
            "dialect": self.dialect or None,
            "model": self.model or None,
            "adapter": self.adapter or None,
            "stream": self.is_stream,
            "status": self.status,
            "error": self.error,
            "finish_reason": ",".join(dict.fromkeys(self.reasons)) or None,
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.completion_tokens,
            "cached_tokens": self.cached_tokens,
            "reasoning_tokens": self.reasoning_tokens,
            "tools": [one_line(name, NAME_BYTES) for name in self.called[:TOOLS_MOST]] or None,
            "queue_seconds": _rounded(self.queue_s),
            "ttft_seconds": _rounded(self.ttft_s),
            "prefill_seconds": _rounded(self.prefill_s),
            "decode_seconds": _rounded(self.decode_s),
            "total_seconds": _rounded(total_s),
            "key": self.owner or None,
            "user": self.user or None,
            "metadata": dict(self.metadata) or None,
            "ignored_keys": list(self.ignored) or None,
        }


def now() -> str:
    """Return the time of a log line."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
