"""Spans, and the way they leave the process. With its neighbours the only code that knows OpenTelemetry."""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib.metadata import version
from typing import Final, Self

import structlog
from opentelemetry import trace
from opentelemetry.context import Context
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

from pfedbayespt.server.tracing import NO_NOTES, Note, Notes, forget

_PROPAGATOR: Final = TraceContextTextMapPropagator()  # and no baggage, which holds what callers like
_NAME: Final = "pfedbayespt"


class Traces:
    """`Tracing` by OpenTelemetry, and what only requests and SQL statements need."""

    def __init__(self, provider: TracerProvider) -> None:
        self._provider = provider
        self._tracer = provider.get_tracer(_NAME, version(_NAME))

    @classmethod
    def sent_to_collector(cls, roles: Sequence[str]) -> Self:
        """Return traces that are sent where the standard variables say, in the background.

        The resource is what `OTEL_RESOURCE_ATTRIBUTES` and `OTEL_SERVICE_NAME` say, nothing about the machine.
        """
        ours = {"service.name": "-".join([_NAME, *roles]), "service.version": version(_NAME)}
        resource = Resource(ours).merge(OTELResourceDetector().detect())
        provider = TracerProvider(resource=resource, shutdown_on_exit=False)
        provider.add_span_processor(BatchSpanProcessor(OTLPSpanExporter()))
        return cls(provider)

    @contextmanager
    def root(self, name: str, notes: Notes = NO_NOTES) -> Iterator[Note]:
        """See `Tracing`. Log lines that are written meanwhile carry the trace's id."""
        with self._logged(self._tracer.start_span(name, Context(), attributes=notes)) as span:
            yield span.set_attributes

    @contextmanager
    def span(self, name: str, notes: Notes = NO_NOTES) -> Iterator[Note]:
        """See `Tracing`."""
        if not is_open():
            yield forget
            return
        with _current(self._tracer.start_span(name, attributes=notes)) as span:
            yield span.set_attributes

    @contextmanager
    def request(self, method: str, headers: Mapping[str, str]) -> Iterator[Span]:
        """Open the span of a request, within its caller's if the headers name one (W3C Trace Context)."""
        context = _PROPAGATOR.extract(headers, Context())
        opened = self._tracer.start_span(method, context, SpanKind.SERVER)
        with self._logged(opened) as span:
            yield span

    def begin_statement(self, name: str, notes: Notes) -> Span | None:
        """Return the span of an SQL statement, which its caller ends; None outside of any span."""
        return self._tracer.start_span(name, kind=SpanKind.CLIENT, attributes=notes) if is_open() else None

    def close(self) -> None:
        """Send what has not been sent, and end."""
        self._provider.shutdown()

    @contextmanager
    def _logged(self, span: Span) -> Iterator[Span]:
        trace_id = trace.format_trace_id(span.get_span_context().trace_id)
        with structlog.contextvars.bound_contextvars(trace_id=trace_id), _current(span):
            yield span


def is_open() -> bool:
    """Return whether a span is open here."""
    return trace.get_current_span().get_span_context().is_valid


def failed(span: Span, error: BaseException) -> None:
    """Note that it failed, and by which kind of error: its message may hold parameters and worse."""
    span.set_attribute("error.type", type(error).__qualname__)
    span.set_status(Status(StatusCode.ERROR))


@contextmanager
def _current(span: Span) -> Iterator[Span]:
    with trace.use_span(span, end_on_exit=True, record_exception=False, set_status_on_exception=False):
        try:
            yield span
        except Exception as error:
            failed(span, error)
            raise
