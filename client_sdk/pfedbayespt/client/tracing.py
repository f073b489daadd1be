"""Spans of requests, for programs that trace themselves with OpenTelemetry.

Rules:
1. The SDK follows the program that it is part of: it neither needs nor imports OpenTelemetry unless the program has
   imported it, uses the provider that the program has set, and sets none.
2. A span is a try: a request that is sent again has another one. It holds the method, where to and the status, and
   no path, query, header or body.
3. The coordinator learns of the span by the header `traceparent` (W3C Trace Context), and goes on with the trace.
"""

import sys
from dataclasses import replace
from urllib.parse import urlsplit

from pfedbayespt.client.transport import HttpAnswer, HttpRequest, Timeouts, Transport


def sent(transport: Transport, request: HttpRequest, timeouts: Timeouts) -> HttpAnswer:
    """Send the request once, within a span where the program makes traces."""
    if "opentelemetry.trace" not in sys.modules:
        return transport(request, timeouts)
    return _sent_in_span(transport, request, timeouts)


def _sent_in_span(transport: Transport, request: HttpRequest, timeouts: Timeouts) -> HttpAnswer:
    from opentelemetry import trace
    from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

    address = urlsplit(request.url)
    facts = {"http.request.method": request.method, "server.address": address.hostname or ""}
    with trace.get_tracer("pfedbayespt.client").start_as_current_span(
        request.method,
        kind=trace.SpanKind.CLIENT,
        attributes=facts,
        record_exception=False,  # whose message holds the whole address
        set_status_on_exception=False,
    ) as span:
        headers = dict(request.headers)
        TraceContextTextMapPropagator().inject(headers)
        try:
            answer = transport(replace(request, headers=headers), timeouts)
        except Exception as error:
            span.set_attribute("error.type", type(error).__qualname__)
            span.set_status(trace.Status(trace.StatusCode.ERROR))
            raise
        span.set_attribute("http.response.status_code", answer.status)
        if answer.status >= 400:
            span.set_attribute("error.type", str(answer.status))
            span.set_status(trace.Status(trace.StatusCode.ERROR))
        return answer
