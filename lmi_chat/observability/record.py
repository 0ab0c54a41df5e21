"""Collect the facts of one request, for its log line and its metrics."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lmi_chat.errors import Error
from lmi_chat.job import SamplingParams
from lmi_chat.observability.trace_context import Trace
from lmi_chat.text import one_line

CLIENT_GONE = 499
TOOLS_MOST, NAME_BYTES = 64, 64
"""Of the tools that one answer calls, so many are logged, by so much of their names: they are the model's words."""


@dataclass(slots=True, kw_only=True)
class RequestRecord:
    """The facts of one request; times in seconds, None where it never came so far.

    `queue_s`: waiting, for admission and in the engine. `prefill_s`: the engine's first step on it to the first token.
    `decode_s`: first token to last. `received_s`, `parsed_s`, `seated_s`: arrival to the whole body, to the end of its
    parsing, to admission. `ttft_s`: arrival to the first token; `begun_s`: to a stream's first frame.
    `width`: sequences. `called`: names of the tools that the model called.
    `traceparent`, `tracestate`: its headers; `trace`: its own place there, where requests are traced.
    `message`: of the error that it ended in. `inference_id`: its id, where the platform's header named it.
    `prefix_id`: names the group of requests that it belongs to.
    `owner`: the name of the API key that came with it. `adapter`: the names of its adapters, which are all there if it
    `has_adapter`.
    """

    id: str = ""
    inference_id: str = ""
    began: float = field(default_factory=time.monotonic)
    dialect: str = ""
    model: str = ""
    adapter: str = ""
    has_adapter: bool = False
    owner: str = ""
    user: str = ""
    prefix_id: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    is_stream: bool = False
    status: int = 200
    error: str | None = None
    message: str = ""
    reasons: Sequence[str] = ()
    width: int = 1
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cached_tokens: int = 0
    reasoning_tokens: int = 0
    called: Sequence[str] = ()
    received_s: float | None = None
    parsed_s: float | None = None
    seated_s: float = 0.0
    begun_s: float | None = None
    queue_s: float | None = None
    prefill_s: float | None = None
    decode_s: float | None = None
    ttft_s: float | None = None
    ignored: Sequence[str] = ()
    sampling: SamplingParams | None = None
    traceparent: str = ""
    tracestate: str = ""
    trace: Trace | None = None

    @property
    def age_s(self) -> float:
        """Seconds since its arrival."""
        return time.monotonic() - self.began

    def fail(self, error: Error, *, has_begun: bool = False) -> None:
        """Note that it ended in `error`; `has_begun`: as the last frame of a stream, whose status was sent before."""
        self.error, self.message = error.code, error.message
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
            "queue_seconds": rounded(self.queue_s),
            "ttft_seconds": rounded(self.ttft_s),
            "prefill_seconds": rounded(self.prefill_s),
            "decode_seconds": rounded(self.decode_s),
            "total_seconds": rounded(total_s),
            "key": self.owner or None,
            "user": self.user or None,
            "prefix_aware_id": self.prefix_id or None,
            "metadata": dict(self.metadata) or None,
            "ignored_keys": list(self.ignored) or None,
        }


def now() -> str:
    """Return the time of a log line."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def rounded(seconds: float | None) -> float | None:
    """Round a time to microseconds, as it is shown; None stays."""
    return None if seconds is None else round(seconds, 6)
