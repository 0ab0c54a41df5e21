"""What the server tells about its requests: access log, Prometheus' figures, CloudWatch's embedded metrics.

All of it is told once per request, at its end, and none of it is what was said in the request.

Formats: Prometheus client library; Amazon CloudWatch, "Specification: Embedded metric format".
"""

import asyncio
import os
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cache
from typing import Any

from prometheus_client import Counter, Gauge, Histogram

from lmi_chat.codec.json_text import dump
from lmi_chat.errors import Error

CLIENT_GONE = 499
LINES_WAITING_MOST = 8192
NAMESPACE = "lmi-chat"
SHORT_S = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60)
TOKEN_S = (0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1, 2)
LONG_S = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 240, 480)
EMBEDDED: Mapping[str, str] = {
    "prompt_tokens": "Count",
    "completion_tokens": "Count",
    "cached_tokens": "Count",
    "queue_seconds": "Seconds",
    "ttft_seconds": "Seconds",
    "prefill_seconds": "Seconds",
    "decode_seconds": "Seconds",
    "total_seconds": "Seconds",
}
"""Fields of a log line that are metrics to CloudWatch, with their units there."""

REQUESTS = Counter("lmi_chat_requests", "Requests by dialect and status; 499: the client went", ["dialect", "status"])
REFUSED = Counter("lmi_chat_errors", "Requests that ended with an error, by its code", ["code"])
RUNNING = Gauge("lmi_chat_running", "Requests that have a seat at the engine")
WAITING = Gauge("lmi_chat_waiting", "Requests that wait for one")
PROMPT_TOKENS = Counter("lmi_chat_prompt_tokens", "Tokens of prompts")
COMPLETION_TOKENS = Counter("lmi_chat_completion_tokens", "Tokens generated")
CACHED_TOKENS = Counter("lmi_chat_cached_tokens", "Tokens of prompts that the prefix cache had")
IGNORED_KEYS = Counter(
    "lmi_chat_ignored_keys", "Keys of requests that were ignored, as X-LMI-Chat-Warning names them", ["dialect"]
)
QUEUE = Histogram("lmi_chat_queue_seconds", "Waiting for a seat and in the engine", buckets=SHORT_S)
TTFT = Histogram("lmi_chat_ttft_seconds", "Arrival to the first token", buckets=SHORT_S)
INTER_TOKEN = Histogram("lmi_chat_inter_token_seconds", "Between two tokens, mean of each request", buckets=TOKEN_S)
TOTAL = Histogram("lmi_chat_request_seconds", "Arrival to the end of the answer", buckets=LONG_S)
STORE_FAILURES = Counter(
    "lmi_chat_store_failures", "Operations on the store of completions that failed or were dropped"
)
LINES_LOST = Counter("lmi_chat_log_lines_lost", "Log lines that the disk or their reader did not take in time")


@dataclass(slots=True, kw_only=True)
class RequestRecord:
    """One request as the log tells it; times in seconds, None where it never came so far.

    `queue_s`: waiting, for a seat and in the engine. `prefill_s`: the engine's first step on it to the first token.
    `decode_s`: first token to last. `seated_s`: arrival to its seat. `ttft_s`: arrival to the first token.
    `width`: sequences.
    """

    id: str = ""
    began: float = field(default_factory=time.monotonic)
    dialect: str = ""
    model: str = ""
    adapter: str = ""
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
    seated_s: float = 0.0
    queue_s: float | None = None
    prefill_s: float | None = None
    decode_s: float | None = None
    ttft_s: float | None = None
    ignored: Sequence[str] = ()

    @property
    def age_s(self) -> float:
        """Since its arrival."""
        return time.monotonic() - self.began

    def fail(self, error: Error, *, has_begun: bool = False) -> None:
        """It ends with `error`; `has_begun`: as the last frame of a stream, whose status was sent before."""
        self.error = error.code
        if not has_begun:
            self.status = error.status

    def line(self, total_s: float) -> dict[str, Any]:
        """The log line's fields."""
        return {
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
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
            "queue_seconds": _rounded(self.queue_s),
            "ttft_seconds": _rounded(self.ttft_s),
            "prefill_seconds": _rounded(self.prefill_s),
            "decode_seconds": _rounded(self.decode_s),
            "total_seconds": _rounded(total_s),
            "user": self.user or None,
            "metadata": dict(self.metadata) or None,
            "ignored_keys": list(self.ignored) or None,
        }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)


class RequestLog:
    """Takes each request's record at its end: figures always, a line where one is wanted."""

    def __init__(
        self, write: Callable[[bytes], None] | None = None, *, has_requests: bool = True, has_metrics: bool = False
    ) -> None:
        """Lines go to `write` (None: there are none): with a request's fields, with CloudWatch's metrics, or both."""
        self._write = write if has_requests or has_metrics else None
        self._has_requests, self._has_metrics = has_requests, has_metrics

    @contextmanager
    def told(self, record: RequestRecord) -> Iterator[None]:
        """Tell of a request when it ends, however it does; what is raised passes through."""
        try:
            yield
        except Error as error:
            record.fail(error)
            raise
        except asyncio.CancelledError:
            record.status = CLIENT_GONE
            raise
        except Exception as error:
            record.fail(Error(str(error)))
            raise
        finally:
            self._tell(record)

    def _tell(self, record: RequestRecord) -> None:
        total_s = record.age_s
        _count(record, total_s)
        if self._write is None:
            return
        line = record.line(total_s)
        if self._has_metrics:
            line = embedded(line, keeps_all=self._has_requests)
        self._write(dump(line) + b"\n")


def _count(record: RequestRecord, total_s: float) -> None:
    _requests(record.dialect or "none", record.status).inc()
    TOTAL.observe(total_s)
    if record.error is not None:
        REFUSED.labels(record.error).inc()
    if record.ignored:
        IGNORED_KEYS.labels(record.dialect).inc(len(record.ignored))
    PROMPT_TOKENS.inc(record.prompt_tokens)
    COMPLETION_TOKENS.inc(record.completion_tokens)
    if record.cached_tokens:
        CACHED_TOKENS.inc(record.cached_tokens)
    if record.queue_s is not None:
        QUEUE.observe(record.queue_s)
    if record.ttft_s is not None:
        TTFT.observe(record.ttft_s)
    gaps = record.completion_tokens / record.width - 1
    if record.decode_s is not None and gaps > 0:
        INTER_TOKEN.observe(record.decode_s / gaps)


@cache
def _requests(dialect: str, status: int) -> Counter:
    return REQUESTS.labels(dialect, str(status))


def embedded(line: dict[str, Any], *, keeps_all: bool = True) -> dict[str, Any]:
    """A log line as CloudWatch reads metrics out of it; without `keeps_all` it is these alone.

    Metrics that have no value are not named, since each name must point to a number.
    """
    found = {name: line[name] for name in EMBEDDED if line[name] is not None}
    dimensions = {"Model": line["model"] or "none", "Dialect": line["dialect"] or "none", "Status": str(line["status"])}
    counts = {"requests": 1, "errors": int(line["error"] is not None)}
    units = {name: EMBEDDED[name] for name in found} | dict.fromkeys(counts, "Count")
    directive = {
        "Namespace": NAMESPACE,
        "Dimensions": [["Model"], ["Model", "Dialect", "Status"]],
        "Metrics": [{"Name": name, "Unit": unit} for name, unit in units.items()],
    }
    metadata = {"Timestamp": int(time.time() * 1000), "CloudWatchMetrics": [directive]}
    return (line if keeps_all else {}) | {"_aws": metadata} | dimensions | counts | found


class LogWriter:
    """Lines to a file descriptor, by a thread: a reader that stalls or a full disk costs lines, never time."""

    def __init__(self, descriptor: int, *, most: int = LINES_WAITING_MOST) -> None:
        """At most `most` lines wait; more are dropped and counted. The thread begins with the first line."""
        self._descriptor, self._most = descriptor, most
        self._lines: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None

    def write(self, line: bytes) -> None:
        """Take one line; returns at once and never fails."""
        if self._lines.qsize() >= self._most:
            LINES_LOST.inc()
            return
        self._lines.put(line)
        if self._thread is None:
            self._thread = threading.Thread(target=self._run, name="access log", daemon=True)
            self._thread.start()

    def close(self, seconds: float = 1.0) -> None:
        """Write what waits, up to `seconds`."""
        if self._thread is not None:
            self._lines.put(None)
            self._thread.join(seconds)

    def _run(self) -> None:
        while (line := self._lines.get()) is not None:
            lines = [line]
            with suppress(queue.Empty):
                while len(lines) < self._most and (line := self._lines.get_nowait()) is not None:
                    lines.append(line)
            try:
                _write(self._descriptor, b"".join(lines))
            except OSError:
                LINES_LOST.inc(len(lines))
            if line is None:
                return


def _write(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]
