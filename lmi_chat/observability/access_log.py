"""Record each request at its end: a log line, metrics, its trace, and a thread that writes the lines."""

import asyncio
import os
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Protocol

from lmi_chat.codec.json_text import dump
from lmi_chat.errors import Error, unforeseen
from lmi_chat.observability.cloudwatch import embedded
from lmi_chat.observability.metrics import LINES_LOST, count_request
from lmi_chat.observability.record import CLIENT_GONE, RequestRecord, now
from lmi_chat.observability.tracing import Tracing

LINES_WAITING_MOST = 8192


class RequestListener(Protocol):
    """What else hears of requests; its calls return at once and never fail."""

    def begin(self, record: RequestRecord) -> None:
        """Hear of a stream's first frame."""

    def end(self, record: RequestRecord, total_s: float) -> None:
        """Hear of a request that ended after `total_s` seconds."""

    def refuse(self, error: Error, *, method: str, path: str) -> None:
        """Hear of a request that was refused before it had a record."""


class RequestLog:
    """Logs each finished request and updates its metrics."""

    def __init__(
        self,
        write: Callable[[bytes], None] | None = None,
        *,
        has_requests: bool = True,
        has_metrics: bool = False,
        tracing: Tracing | None = None,
        listener: RequestListener | None = None,
    ) -> None:
        """Send lines to `write` (None: none): with a request's fields, with CloudWatch's metrics, or both.

        `tracing` takes each request's spans.
        """
        self._tracing, self._listener = tracing, listener
        self._write = write if has_requests or has_metrics else None
        self._has_requests, self._has_metrics = has_requests, has_metrics

    @contextmanager
    def recording(self, record: RequestRecord) -> Iterator[None]:
        """Record the request when the block exits, and give it its trace before; exceptions propagate."""
        if self._tracing is not None:
            record.trace = self._tracing.begin(record)
        try:
            yield
        except Error as error:
            record.fail(error)
            raise
        except asyncio.CancelledError:
            record.status = CLIENT_GONE
            raise
        except Exception as error:
            record.fail(unforeseen(error))
            raise
        finally:
            self._record(record)

    def begun(self, record: RequestRecord) -> None:
        """Note that the first frame of a stream is there."""
        if self._listener is not None:
            record.begun_s = record.age_s
            self._listener.begin(record)

    def audit(
        self, *, peer: str, method: str, path: str, status: int, owner: str, refusal: Error | None = None
    ) -> None:
        """Log a request that is no inference: who asked for what, and what became of it.

        `refusal`: it was refused before anything knew what it was, or for want of a key.
        """
        if refusal is not None and self._listener is not None:
            self._listener.refuse(refusal, method=method, path=path)
        if self._write is None or not self._has_requests:
            return
        line = {"time": now(), "peer": peer, "method": method, "path": path, "status": status, "key": owner or None}
        self._write(dump(line) + b"\n")

    def _record(self, record: RequestRecord) -> None:
        total_s = record.age_s
        count_request(record, total_s)
        if self._tracing is not None and record.trace is not None:
            self._tracing.end(record.trace, record, total_s)
        if self._listener is not None:
            self._listener.end(record, total_s)
        if self._write is None:
            return
        line = record.line(total_s)
        if self._has_metrics:
            line = embedded(line, keeps_all=self._has_requests)
        self._write(dump(line) + b"\n")


class LogWriter:
    """Writes lines to a file descriptor by a thread: a reader that stalls or a full disk costs lines, never time."""

    def __init__(self, descriptor: int, *, most: int = LINES_WAITING_MOST) -> None:
        """Hold at most `most` lines; more are dropped and counted. The thread begins with the first line."""
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
        """Write the waiting lines, for up to `seconds`."""
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
