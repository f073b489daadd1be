"""A span for every SQL statement that runs within another span: its text with placeholders, never the values."""

import re
from typing import Any, Final

from opentelemetry.trace import Span
from sqlalchemy import Engine, ExceptionContext, event

from pfedbayespt.server.telemetry.traces import Traces, failed

_TABLE: Final = re.compile(r"\b(?:FROM|INTO|UPDATE)\s+(\w+)", re.IGNORECASE)
_MAX_TEXT_CHARACTERS: Final = 1000


def trace_statements(engine: Engine, traces: Traces) -> None:
    """Have the statements of `engine` traced from now on."""
    system = engine.dialect.name

    def begin(*arguments: Any) -> None:
        _connection, _cursor, statement, _values, context, _many = arguments
        notes = {"db.system.name": system, "db.query.text": statement[:_MAX_TEXT_CHARACTERS]}
        context.span_of_statement = traces.begin_statement(name_of(statement), notes)

    event.listen(engine, "before_cursor_execute", begin)
    event.listen(engine, "after_cursor_execute", _end)
    event.listen(engine, "handle_error", _fail)


def name_of(statement: str) -> str:
    """Return the first word and the table, as in `SELECT rounds`: statements are ours, so there are few."""
    operation = statement.split(maxsplit=1)[0].upper()
    table = _TABLE.search(statement)
    return f"{operation} {table[1]}" if table else operation


def _end(*arguments: Any) -> None:
    _connection, _cursor, _statement, _values, context, _many = arguments
    span = _taken_from(context)
    if span is not None:
        span.end()


def _fail(failure: ExceptionContext) -> None:
    span = _taken_from(failure.execution_context)
    if span is not None:
        failed(span, failure.original_exception)
        span.end()


def _taken_from(context: Any) -> Span | None:
    """Return the statement's span, once."""
    span: Span | None = getattr(context, "span_of_statement", None)
    if span is not None:
        context.span_of_statement = None
    return span
