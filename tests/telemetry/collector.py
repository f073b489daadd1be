"""An OpenTelemetry collector: a real HTTP server that takes OTLP and keeps every byte of it."""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.trace.v1.trace_pb2 import Span as SentSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status

CLIENT, SERVER, INTERNAL = SentSpan.SPAN_KIND_CLIENT, SentSpan.SPAN_KIND_SERVER, SentSpan.SPAN_KIND_INTERNAL
FAILED = Status.STATUS_CODE_ERROR


@dataclass(frozen=True)
class Span:
    """One span as it came; ids are hexadecimal, the parent of a root is empty."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    kind: int
    status: int
    notes: dict[str, Any]
    num_events: int


class Collector:
    """What was sent so far."""

    def __init__(self) -> None:
        self._news = threading.Condition()
        self._bodies: list[tuple[str, bytes]] = []

    def take(self, path: str, body: bytes) -> None:
        with self._news:
            self._bodies.append((path, body))
            self._news.notify_all()

    @property
    def everything(self) -> bytes:
        """Every byte that came, in one piece."""
        with self._news:
            return b"\n".join(body for _, body in self._bodies)

    @property
    def spans(self) -> list[Span]:
        with self._news:
            return list(_decoded(self._bodies))

    def wait_for(self, is_there: Callable[[Sequence[Span]], bool]) -> list[Span]:
        """Return all spans once those that are waited for are there."""
        with self._news:
            assert self._news.wait_for(lambda: is_there(list(_decoded(self._bodies))), timeout=60), self.spans
        return self.spans


def _decoded(bodies: list[tuple[str, bytes]]) -> Iterator[Span]:
    for path, body in bodies:
        assert path == "/v1/traces"
        for resource in ExportTraceServiceRequest.FromString(body).resource_spans:
            told = {each.key: each.value.string_value for each in resource.resource.attributes}
            for scope in resource.scope_spans:
                yield from (_span(told["service.name"], span) for span in scope.spans)


def _span(service: str, span: Any) -> Span:
    notes = {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in span.attributes}
    ids = (span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex())
    return Span(service, span.name, *ids, span.kind, span.status.code, notes, len(span.events))


@contextmanager
def collecting() -> Iterator[tuple[Collector, str]]:
    """Run a collector; yield it and its address."""
    collector = Collector()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            collector.take(self.path, self.rfile.read(int(self.headers["Content-Length"])))
            answer = ExportTraceServiceResponse().SerializeToString()
            self.send_response(200)
            self.send_header("Content-Type", "application/x-protobuf")
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def log_message(self, format: str, *args: Any) -> None:  # noqa: A002
            """Say nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield collector, f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()
