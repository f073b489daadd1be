"""One id and one log line for every request.

The id is the caller's `X-Request-Id` if it is a plain one, else a fresh one; every answer carries it, and so
does every log line that is written on the way. Bodies, credentials and query strings are never logged.
"""

import re
from typing import Final

import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pfedbayespt.server import problems
from pfedbayespt.server.answers import Answer
from pfedbayespt.server.failpoints import failpoint
from pfedbayespt.server.identifiers import new_id

HEADER: Final = "X-Request-Id"
_PLAIN: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_log = structlog.get_logger(__name__)


class RequestLogMiddleware:
    """The outermost layer of ours: also the one that turns an unforeseen exception into an answer."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope["request_id"] = _id_of(scope)
        with structlog.contextvars.bound_contextvars(request_id=scope["request_id"]):
            await self._serve(scope, receive, send)

    async def _serve(self, scope: Scope, receive: Receive, send: Send) -> None:
        answer = Answer(send)

        async def send_with_id(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message)[HEADER] = scope["request_id"]
            await answer.send(message)
            if message["type"] == "http.response.start":
                failpoint("response.after_headers")

        try:
            await self._app(scope, receive, send_with_id)
        except Exception as error:
            _log.exception("request_crashed")
            if (
                answer.status_code
            ):  # an answer has begun; only cutting it off tells the caller that it is not whole
                raise
            await problems.render(problems.translate(error), scope["request_id"])(
                scope, receive, send_with_id
            )
        finally:
            _log.info(
                "request",
                method=scope["method"],
                path=scope["path"],
                status=answer.status_code,
                duration_milliseconds=round(answer.seconds * 1000, 1),
            )


def _id_of(scope: Scope) -> str:
    wanted = Headers(scope=scope).get(HEADER, "")
    return wanted if _PLAIN.fullmatch(wanted) else new_id("req")
