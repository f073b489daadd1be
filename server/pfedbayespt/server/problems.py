"""Every error answer is a problem document (RFC 9457); nothing of an unforeseen error leaks into it."""

import errno
import sqlite3
from collections.abc import Mapping
from typing import Any, Final

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from sqlalchemy.exc import DBAPIError, InterfaceError, OperationalError
from sqlalchemy.exc import TimeoutError as PoolTimeoutError
from starlette.exceptions import HTTPException
from starlette.responses import Response
from starlette.types import Scope

from pfedbayespt.protocol import PROBLEM_MEDIA_TYPE, Problem
from pfedbayespt.server.errors import (
    CoordinatorError,
    InternalError,
    InvalidRequest,
    MethodNotAllowed,
    NotFound,
    Overloaded,
    QuotaExceeded,
    RateLimited,
    StorageExhausted,
)

_UNAVAILABLE_RETRY_SECONDS: Final = 10  # a backbone or a role that is missing comes with an operator
_NO_SPACE: Final = {errno.ENOSPC, errno.EDQUOT}
_POSTGRESQL_DISK_FULL: Final = "53100"
_MAX_FAULTS: Final = 20
_DATABASE_IS_AWAY: Final = (OperationalError, InterfaceError, PoolTimeoutError)
_OPEN_INFERENCE: Final = "/v2/"  # its clients look for the member `error`
_log = structlog.get_logger(__name__)


def install(app: FastAPI) -> None:
    """Have every exception answered with a problem document."""
    app.add_exception_handler(CoordinatorError, answer)
    app.add_exception_handler(RequestValidationError, answer)
    app.add_exception_handler(HTTPException, answer)
    app.add_exception_handler(DBAPIError, answer)
    app.add_exception_handler(PoolTimeoutError, answer)
    app.add_exception_handler(OSError, answer)


def render(
    error: CoordinatorError, request_id: str | None, headers: Mapping[str, str] | None = None
) -> Response:
    """Return the answer to a request that ended with `error`."""
    return Response(
        document_of(error, request_id).model_dump_json(),
        status_code=error.problem.status,
        media_type=PROBLEM_MEDIA_TYPE,
        headers={**_headers_of(error), **(headers or {})},
    )


def document_of(error: CoordinatorError, request_id: str | None) -> Problem:
    """Return the problem document of `error`."""
    kind = error.problem
    return Problem(
        type=kind.urn,
        title=kind.title,
        status=kind.status,
        detail=error.detail,
        instance=request_id,
        **error.extensions,
    )


def render_refusal(scope: Scope, error: CoordinatorError) -> Response:
    """Return the answer of a middleware that refuses a request."""
    return render(error, scope.get("request_id"))


def translate(error: Exception) -> CoordinatorError:
    """Return the error that callers may see in place of `error`."""
    match error:
        case CoordinatorError():
            return error
        case RequestValidationError():
            return _invalid(error)
        case HTTPException():
            return _from_http(error)
        case OSError() if error.errno in _NO_SPACE:
            return StorageExhausted("the storage is full; nothing was acknowledged")
        case _ if isinstance(error, _DATABASE_IS_AWAY):
            return _from_database(error)
    return InternalError("something failed that should not; the log says what, under this request's id")


def answer(request: Request, error: Exception) -> Response:
    """Return the answer to a request that ended in `error`, counted and logged."""
    seen = translate(error)
    _count(request, error)
    if seen.problem.status >= InternalError.problem.status:
        _log_failure(seen, error)
    headers = getattr(error, "headers", None) or {}
    if request.url.path.startswith(_OPEN_INFERENCE):
        seen.extensions = {**seen.extensions, "error": seen.detail}
    return render(seen, request.scope.get("request_id"), headers)


def _count(request: Request, error: Exception) -> None:
    context = getattr(request.app.state, "context", None)
    if context is None:  # a site's own server counts nothing
        return
    context.counters.note_storage_failure(error)
    if isinstance(error, _DATABASE_IS_AWAY):
        context.counters.database_busy.inc()


def _log_failure(seen: CoordinatorError, error: Exception) -> None:
    problem = seen.problem.name.lower()
    if seen is error and not isinstance(seen, InternalError):
        # We refused on purpose, perhaps thousands of times a minute: a line each is enough.
        _log.warning("request_refused", problem=problem, detail=seen.detail)
    else:
        _log.error("request_failed", problem=problem, exc_info=error)


def _headers_of(error: CoordinatorError) -> dict[str, str]:
    if error.problem.status == 401:
        return {"WWW-Authenticate": "Bearer"}
    if isinstance(error, Overloaded | QuotaExceeded | RateLimited):
        return {"Retry-After": str(error.retry_after_seconds)}
    if error.problem.status == 503:
        return {"Retry-After": str(_UNAVAILABLE_RETRY_SECONDS)}
    return {}


def _invalid(error: RequestValidationError) -> InvalidRequest:
    faults = [
        {"where": ".".join(map(str, fault["loc"])), "message": fault["msg"], "kind": fault["type"]}
        for fault in error.errors()[:_MAX_FAULTS]
    ]
    summary = "; ".join(f"{fault['where']}: {fault['message']}" for fault in faults[:3])
    return InvalidRequest(summary, errors=faults)  # type: ignore[arg-type]


def _from_http(error: HTTPException) -> CoordinatorError:
    known: dict[int, type[CoordinatorError]] = {404: NotFound, 405: MethodNotAllowed}
    detail: Any = error.detail
    return known.get(error.status_code, InvalidRequest)(str(detail))


def _from_database(error: Exception) -> CoordinatorError:
    cause = getattr(error, "orig", None)
    is_full_sqlite = getattr(cause, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL
    if is_full_sqlite or getattr(cause, "sqlstate", None) == _POSTGRESQL_DISK_FULL:
        return StorageExhausted("the database's disk is full; nothing was acknowledged")
    return Overloaded("the database does not answer now; try again")
