"""Send each request's spans to a collector of OpenTelemetry's, by its SDK, which is imported where tracing is on.

The event loop gives a request its ids when it begins, and puts its record into a queue when it ends; a thread makes
spans of records and sends them. A collector that is gone costs the spans, counted, and one line in the log.
"""

import logging
import os
import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from lmi_chat import __version__
from lmi_chat.observability import spans, trace_context
from lmi_chat.observability.metrics import SPANS_LOST
from lmi_chat.observability.record import RequestRecord
from lmi_chat.observability.spans import SpanFacts
from lmi_chat.observability.trace_context import SAMPLED, Caller, Trace
from lmi_chat.text import echo, one_line

if TYPE_CHECKING:
    from opentelemetry.context import Context
    from opentelemetry.sdk.resources import Resource
    from opentelemetry.sdk.trace import ReadableSpan

SERVICE = "lmi-chat"
QUEUE_MOST, BATCH_MOST, DELAY_MS = 2048, 512, 5000
"""The SDK's own: requests that wait, of which so many are sent at once, this long after the first at the latest."""
GRPC, HTTP = "grpc", "http/protobuf"
HTTP_PORT, HTTP_PATH = 4318, "/v1/traces"
CLOSE_S = 0.8
"""For the last spans; a process that ends gives all its files a second (server/process.py)."""
ENDPOINTS = ("OTEL_EXPORTER_OTLP_TRACES_ENDPOINT", "OTEL_EXPORTER_OTLP_ENDPOINT")
PROTOCOLS = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")
LIBRARY_LOGS = (
    "opentelemetry.sdk._shared_internal",
    "opentelemetry.exporter.otlp.proto.grpc.exporter",
    "opentelemetry.exporter.otlp.proto.http.trace_exporter",
)
"""The library's own lines of each failure and each retry, which one line of ours stands for."""
log = logging.getLogger(__name__)


class _Quiet(logging.Filter):
    """Keeps the library's lines from the log, and the first of a batch for ours."""

    first = ""

    def filter(self, record: logging.LogRecord) -> bool:
        self.first = self.first or one_line(record.getMessage(), 200)
        return False


QUIET = _Quiet()


class BadTracing(Exception):
    """Traces cannot be sent as they are configured; the message is one sentence."""


@dataclass(frozen=True, slots=True)
class Target:
    """Where traces go and by which protocol. `endpoint` "": the SDK reads it, as it is, from the environment."""

    shown: str
    protocol: str
    endpoint: str = ""


def find_target(endpoint: str, environment: Mapping[str, str]) -> Target | None:
    """Find where traces go, by the setting otlp_traces_endpoint or OpenTelemetry's variables. Raises BadTracing.

    None: tracing is off. Without a protocol it is told by the endpoint: HTTP's port or path, else gRPC.
    """
    given = [environment.get(name, "").strip() for name in ENDPOINTS]
    where = endpoint or next(filter(None, given), "")
    is_off = environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    if is_off or not where or environment.get("OTEL_TRACES_EXPORTER", "").strip() == "none":
        return None
    parts = urlsplit(where)
    found = next(filter(None, (environment.get(name, "").strip() for name in PROTOCOLS)), "")
    protocol = found or (HTTP if parts.path.endswith(HTTP_PATH) or f":{HTTP_PORT}" in parts.netloc else GRPC)
    if protocol not in {GRPC, HTTP}:
        raise BadTracing(f"{PROTOCOLS[1]} must be {GRPC} or {HTTP}, got {echo(protocol)}")
    if endpoint and protocol == HTTP and parts.path in {"", "/"}:
        endpoint = endpoint.rstrip("/") + HTTP_PATH
    shown = f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}" if parts.netloc else where
    return Target(one_line(shown, 200), protocol, endpoint)


class _Ended:
    """A request that has ended, in the processor's queue, which looks at nothing but its context."""

    def __init__(self, context: Any, trace: Trace, record: RequestRecord, total_s: float) -> None:
        self.context, self.trace, self.record, self.total_s = context, trace, record, total_s


class _Exporter:
    """Makes spans of ended requests and sends them, in the processor's thread."""

    def __init__(self, chosen: Target, resource: "Resource") -> None:
        self._target, self._resource = chosen, resource
        self._is_failing = False
        self.taken = 0

    @cached_property
    def _inner(self) -> Any:
        """The SDK's exporter; opened by the first batch, when the engine's processes are there."""
        endpoint = self._target.endpoint or None
        if self._target.protocol == HTTP:
            from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter

            return HttpExporter(endpoint=endpoint)
        from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter

        return GrpcExporter(endpoint=endpoint, insecure=None if endpoint is None else not endpoint.startswith("https:"))

    def export(self, ended: Sequence[_Ended]) -> Any:
        """Send a batch."""
        from opentelemetry.sdk.trace.export import SpanExportResult

        self.taken += len(ended)
        QUIET.first = ""
        try:
            result = self._inner.export([span for each in ended for span in self._spans(each)])
        except Exception as error:  # noqa: BLE001 the SDK's, in a thread that must go on
            result, QUIET.first = SpanExportResult.FAILURE, one_line(str(error), 200)
        is_failing = result is not SpanExportResult.SUCCESS
        if is_failing:
            SPANS_LOST.inc(len(ended))
        if is_failing and not self._is_failing:
            why = QUIET.first or "no reason is known"
            log.warning("traces cannot be sent to %s and are dropped until they can: %s", self._target.shown, why)
        elif self._is_failing and not is_failing:
            log.warning("traces are sent to %s again", self._target.shown)
        self._is_failing = is_failing
        return result

    def _spans(self, ended: _Ended) -> "Iterator[ReadableSpan]":
        """The request's span and those below it."""
        from opentelemetry import trace as api

        trace = ended.trace
        caller = None if trace.caller is None else _context(trace.caller.span_id, trace, is_remote=True)
        yield self._span(spans.of_request(ended.record, ended.total_s), trace, ended.context, caller)
        for facts in spans.of_phases(ended.record):
            yield self._span(facts, trace, _context(_new_id(8), trace), ended.context, api.SpanKind.INTERNAL)

    def _span(self, facts: SpanFacts, trace: Trace, context: Any, parent: Any, kind: Any = None) -> "ReadableSpan":
        from opentelemetry import trace as api
        from opentelemetry.sdk.trace import ReadableSpan
        from opentelemetry.sdk.util.instrumentation import InstrumentationScope

        return ReadableSpan(
            facts.name,
            context=context,
            parent=parent,
            resource=self._resource,
            attributes=dict(facts.attributes),
            kind=kind or api.SpanKind.SERVER,
            status=api.Status(api.StatusCode.ERROR, facts.error) if facts.error else api.Status(),
            start_time=trace.began_ns + int(facts.begins_s * 1e9),
            end_time=trace.began_ns + int(facts.ends_s * 1e9),
            instrumentation_scope=InstrumentationScope("lmi_chat", __version__),
        )

    def give_up(self, why: str) -> None:
        """Tell of what is not sent, unless it was told."""
        if not self._is_failing:
            self._is_failing = True
            log.warning("traces cannot be sent to %s and are dropped: %s", self._target.shown, why)

    def shutdown(self) -> None:
        """End the exporter, if it has begun."""
        if "_inner" in vars(self):
            self._inner.shutdown()


class Tracing:
    """Gives requests their traces and sends their spans."""

    def __init__(self, chosen: Target, environment: Mapping[str, str]) -> None:
        """Send to `chosen`, in batches as OTEL_BSP_… has them. Raises BadTracing where the SDK is missing."""
        try:
            from opentelemetry.sdk.resources import SERVICE_NAME, SERVICE_VERSION, Resource
            from opentelemetry.sdk.trace import TracerProvider
        except ImportError as error:
            packages = "opentelemetry-sdk and opentelemetry-exporter-otlp"
            raise BadTracing(
                f"traces need {packages}, which are not installed ({one_line(str(error), 100)})"
            ) from error
        own = Resource.create({SERVICE_VERSION: __version__})
        if str(own.attributes.get(SERVICE_NAME, "")).startswith("unknown_service"):
            own = own.merge(Resource({SERVICE_NAME: SERVICE}))
        self._sampler = TracerProvider(resource=own, shutdown_on_exit=False).sampler  # by OTEL_TRACES_SAMPLER
        self._exporter, self._given = _Exporter(chosen, own), 0
        self._most = _positive(environment.get("OTEL_BSP_MAX_QUEUE_SIZE", ""), QUEUE_MOST)
        self._batch = min(self._most, _positive(environment.get("OTEL_BSP_MAX_EXPORT_BATCH_SIZE", ""), BATCH_MOST))
        self._delay_ms = _positive(environment.get("OTEL_BSP_SCHEDULE_DELAY", ""), DELAY_MS)
        for name in LIBRARY_LOGS:
            logging.getLogger(name).addFilter(QUIET)

    @cached_property
    def _processor(self) -> Any:
        """The SDK's queue and thread; begun by the first request."""
        from opentelemetry.sdk.trace.export import BatchSpanProcessor

        return BatchSpanProcessor(
            self._exporter,  # type: ignore[arg-type]
            max_queue_size=self._most,
            max_export_batch_size=self._batch,
            schedule_delay_millis=self._delay_ms,
        )

    def begin(self, record: RequestRecord) -> Trace:
        """Give a request its place in its caller's trace, or in one of its own."""
        from opentelemetry.trace import SpanKind

        caller = trace_context.read(record.traceparent, record.tracestate) if record.traceparent else None
        trace_id = caller.trace_id if caller else _new_id(16)
        decided = self._sampler.should_sample(_parent(caller), trace_id, SERVICE, SpanKind.SERVER)
        is_sampled: bool = decided.decision.is_sampled()  # type: ignore[no-untyped-call]
        began_ns = trace_context.began_ns(record.age_s)
        return Trace(trace_id, _new_id(8), is_sampled, began_ns, caller, caller.state if caller else "")

    def end(self, trace: Trace, record: RequestRecord, total_s: float) -> None:
        """Take a request that has ended after `total_s` seconds; returns at once."""
        if not trace.is_sampled:
            return
        if self._given - self._exporter.taken >= self._most:
            SPANS_LOST.inc()
            return
        self._given += 1
        self._processor.on_end(_Ended(_context(trace.span_id, trace), trace, record, total_s))

    def close(self, seconds: float = CLOSE_S) -> None:
        """Send what waits, for up to `seconds`."""
        if "_processor" in vars(self):
            closing = threading.Thread(target=self._processor.shutdown, name="end of tracing", daemon=True)
            closing.start()
            closing.join(seconds)
            if closing.is_alive():
                self._exporter.give_up(f"not within {seconds:g} s of the end")


def open_tracing(endpoint: str, environment: Mapping[str, str]) -> Tracing | None:
    """Begin to trace, where the setting otlp_traces_endpoint or the environment says where to. Raises BadTracing.

    Where only the environment says so, which a platform may set for all, and the SDK is missing, a line in the log
    tells it.
    """
    try:
        chosen = find_target(endpoint, environment)
        return Tracing(chosen, environment) if chosen is not None else None
    except (BadTracing, ValueError) as error:  # the second of what the SDK reads itself
        if endpoint:
            raise BadTracing(str(error)) from error
        log.warning("no traces: %s", one_line(str(error), 300))
        return None


def _positive(text: str, default: int) -> int:
    return int(text) if text.strip().isdecimal() and int(text) else default


def _new_id(size: int) -> int:
    """A random number of so many bytes that is not 0."""
    return int.from_bytes(os.urandom(size)) or 1


def _context(span_id: int, trace: Trace, *, is_remote: bool = False) -> Any:
    from opentelemetry.trace import SpanContext, TraceFlags, TraceState

    state = TraceState.from_header([trace.state]) if trace.state else None
    return SpanContext(trace.trace_id, span_id, is_remote, TraceFlags(SAMPLED), state)


def _parent(caller: Caller | None) -> "Context":
    """What the sampler looks at: the caller's span, or none."""
    from opentelemetry import trace as api
    from opentelemetry.context import Context

    if caller is None:
        return Context()
    flags = api.TraceFlags(caller.flags)
    context = api.SpanContext(caller.trace_id, caller.span_id, is_remote=True, trace_flags=flags)
    return api.set_span_in_context(api.NonRecordingSpan(context), Context())
