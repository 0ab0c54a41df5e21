"""A collector of OpenTelemetry's: takes OTLP over HTTP and gRPC, decodes it by its own messages and keeps the spans."""

import contextlib
import gzip
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

WAIT_S = 20.0


@dataclass
class Collector:
    """Where it listens and what it was sent: spans as messages of opentelemetry.proto, each with its resource."""

    endpoint: str = ""
    spans: list[tuple[Any, Any]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    _more: threading.Condition = field(default_factory=threading.Condition)

    def take(self, request: Any) -> None:
        """Keep what an ExportTraceServiceRequest brings."""
        with self._more:
            for resource in request.resource_spans:
                for scope in resource.scope_spans:
                    self.spans += [(span, resource.resource) for span in scope.spans]
            self._more.notify_all()

    def wait(self, count: int, trace: str = "") -> list[Any]:
        """The spans, of one trace or all, when so many have come, in the order of their starts."""

        def found() -> list[Any]:
            return [span for span, _ in self.spans if trace in ("", span.trace_id.hex())]

        with self._more:
            assert self._more.wait_for(lambda: len(found()) >= count, WAIT_S), f"{len(found())} of {count}"
            return sorted(found(), key=lambda span: span.start_time_unix_nano)


def facts(sent: Any) -> dict[str, Any]:
    """The attributes of a span or resource as Python's values."""

    def value(one: Any) -> Any:
        kind = one.WhichOneof("value")
        return [value(each) for each in one.array_value.values] if kind == "array_value" else getattr(one, kind)

    return {each.key: value(each.value) for each in sent.attributes}


@contextlib.contextmanager
def over_http(port: int = 0) -> Iterator[Collector]:
    """A collector on OTLP's HTTP protocol, on any port; `endpoint` is the full address of its traces."""
    from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
        ExportTraceServiceRequest,
        ExportTraceServiceResponse,
    )

    found = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            data = self.rfile.read(int(self.headers["content-length"]))
            if self.headers.get("content-encoding") == "gzip":
                data = gzip.decompress(data)
            found.paths.append(self.path)
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("content-type", "application/x-protobuf")
            self.send_header("content-length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)
            found.take(ExportTraceServiceRequest.FromString(data))

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    found.endpoint = f"http://127.0.0.1:{server.server_port}/v1/traces"
    try:
        yield found
    finally:
        server.shutdown()
        server.server_close()
        thread.join(5)


@contextlib.contextmanager
def over_grpc() -> Iterator[Collector]:
    """A collector on OTLP's gRPC protocol."""
    import grpc  # type: ignore[import-untyped]
    from opentelemetry.proto.collector.trace.v1 import trace_service_pb2, trace_service_pb2_grpc

    found = Collector()

    class Service(trace_service_pb2_grpc.TraceServiceServicer):
        def Export(self, request: Any, context: Any) -> Any:  # noqa: N802 gRPC's name
            found.paths.append(str(context.peer()))
            found.take(request)
            return trace_service_pb2.ExportTraceServiceResponse()

    server = grpc.server(ThreadPoolExecutor(2))
    trace_service_pb2_grpc.add_TraceServiceServicer_to_server(Service(), server)  # type: ignore[no-untyped-call]
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    found.endpoint = f"http://127.0.0.1:{port}"
    try:
        yield found
    finally:
        server.stop(0).wait(5)
