"""A span for every request, by the template of its path."""

from typing import Final

from opentelemetry.trace import Span, Status, StatusCode
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Receive, Scope, Send

from pfedbayespt.server.answers import Answer
from pfedbayespt.server.metrics import template_of
from pfedbayespt.server.telemetry.traces import Traces

_METHODS: Final = frozenset({"DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT"})
_LOOKED_AT_BY_MACHINES: Final = frozenset({"/livez", "/metrics", "/readyz"})


class RequestSpans:
    """ASGI middleware, the outermost: what the others write to the log carries the trace's id."""

    def __init__(self, app: ASGIApp, traces: Traces) -> None:
        self._app = app
        self._traces = traces

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Pass the request on, within a span until the last byte of its answer."""
        if scope["type"] != "http" or scope["path"] in _LOOKED_AT_BY_MACHINES:
            await self._app(scope, receive, send)
            return
        answer = Answer(send)
        method = scope["method"] if scope["method"] in _METHODS else "_OTHER"
        with self._traces.request(method, Headers(scope=scope)) as span:
            try:
                await self._app(scope, receive, answer.send)
            finally:
                _tell(span, scope, method, answer.status_code)


def _tell(span: Span, scope: Scope, method: str, status: int) -> None:
    route = template_of(scope)
    span.update_name(f"{method} {route}")
    span.set_attributes(
        {
            "http.request.method": method,
            "http.route": route,
            "http.response.status_code": status,
            "pfedbayespt.request_id": scope["request_id"],
        }
    )
    if status >= 500:  # 4xx are the caller's, so by convention no error here
        span.set_attribute("error.type", str(status))
        span.set_status(Status(StatusCode.ERROR))
