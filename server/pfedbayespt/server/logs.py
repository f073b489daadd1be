"""Structured logs: one JSON object per line, through the standard library's logging.

Exceptions are logged with their traceback and never with local variables, which may hold secrets.
"""

import json
import logging
from datetime import UTC, datetime
from typing import Final

import structlog

_OURS: Final = "pfedbayespt."


def configure_unless_done() -> None:
    """Have the server's own log lines made, unless the embedding program has configured structlog itself."""
    if structlog.is_configured():
        return
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True),
            structlog.processors.format_exc_info,
            structlog.processors.JSONRenderer(),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=structlog.stdlib.LoggerFactory(),
    )


def configure_process() -> None:
    """Configure the logs of a whole process: the server's and its libraries' in one form, on standard error."""
    configure_unless_done()
    handler = logging.StreamHandler()
    handler.setFormatter(_JsonLines())
    logging.basicConfig(level=logging.INFO, handlers=[handler], force=True)


class _JsonLines(logging.Formatter):
    """Our lines are JSON already; those of libraries become it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return one line."""
        if record.name.startswith(_OURS):
            return record.getMessage()
        line = {
            "event": record.getMessage(),
            "logger": record.name,
            "level": record.levelname.lower(),
            "timestamp": datetime.fromtimestamp(record.created, UTC).isoformat(),
        }
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line)
