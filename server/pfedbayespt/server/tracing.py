"""The port through which the server tells what it does, for traces; and its null implementation.

`telemetry` implements it with OpenTelemetry. Nothing else of the server knows that library, and only who wants
traces needs it.

Rules:
1. Names of spans are words of the code or templates of paths, so there are a bounded number of them.
2. A note holds ids that we made, sizes and outcomes: never what a caller sent, no header, body, query or message of
   an error, and no value of an SQL statement.
"""

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Final, Protocol

if TYPE_CHECKING:
    from fastapi.telemetry import TelemetryConfig

Value = str | bool | int | float
Notes = Mapping[str, Value]
Note = Callable[[Notes], None]
"""Adds to the open span what became known after it began."""

NO_NOTES: Final[Notes] = {}

# FastAPI's later releases trace by themselves where the process has a provider or an environment variable says so,
# with whole addresses, what was refused and messages of errors. Earlier ones take the argument and do nothing.
NOT_BY_FASTAPI: Final["TelemetryConfig"] = {
    "tracing": False,
    "metrics": False,
    "logs": False,
    "operation_spans": False,
    "auto_configure": False,
}


class Tracing(Protocol):
    """Opens spans, which end with their `with` block. Implementations are thread-safe."""

    def root(self, name: str, notes: Notes = NO_NOTES) -> AbstractContextManager[Note]:
        """Begin a trace: work that nobody has asked for in this process."""

    def span(self, name: str, notes: Notes = NO_NOTES) -> AbstractContextManager[Note]:
        """Open a span within the one that is open; without one, none."""

    def close(self) -> None:
        """Send what has not been sent; spans that end later are lost."""


def forget(_: Notes) -> None:
    """Take a note that nobody wants."""


_NOTHING: Final[AbstractContextManager[Note]] = nullcontext(forget)


class Untraced:
    """Opens nothing."""

    def root(self, name: str, notes: Notes = NO_NOTES) -> AbstractContextManager[Note]:  # noqa: ARG002
        """Open nothing."""
        return _NOTHING

    def span(self, name: str, notes: Notes = NO_NOTES) -> AbstractContextManager[Note]:  # noqa: ARG002
        """Open nothing."""
        return _NOTHING

    def close(self) -> None:
        """Send nothing."""


UNTRACED: Final = Untraced()
