"""Traces by OpenTelemetry, sent as OTLP over HTTP; off unless the process is asked for them.

Rules:
1. They are asked for by the standard variables (`OTEL_EXPORTER_OTLP_ENDPOINT`, `OTEL_TRACES_EXPORTER` ...) or by
   the setting `telemetry`. Who did not ask loads nothing that makes or sends spans, and runs no line of it.
2. Spans are made by this package alone. Ready-made instrumentations, FastAPI's own among them, record whole URLs,
   addresses and messages of errors, which may hold secrets; here a span has what is written in these modules and no
   more (`pfedbayespt.server.tracing`).
3. The process's own provider is used, never the global one, which belongs to the embedding program.
4. Everything else, above all where to send, sampling and limits, is set by the standard variables.
"""

import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Final

from pfedbayespt.server.settings import Settings

if TYPE_CHECKING:
    from pfedbayespt.server.telemetry.server import ServerTraces

_ASKING: Final = (
    "OTEL_EXPORTER_OTLP_ENDPOINT",
    "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT",
    "OTEL_TRACES_EXPORTER",
)
_PROTOCOLS: Final = ("OTEL_EXPORTER_OTLP_TRACES_PROTOCOL", "OTEL_EXPORTER_OTLP_PROTOCOL")

__all__ = ["TelemetryError", "is_wanted", "open_traces"]


class TelemetryError(RuntimeError):
    """Traces cannot be made as they were asked for; the message says why and what is allowed."""


def open_traces(settings: Settings, environment: Mapping[str, str] = os.environ) -> "ServerTraces | None":
    """Return what makes the process's traces and sends them; None: nobody asked for any.

    Raises:
        TelemetryError: the packages for it are not installed, or what was asked for is not supported.
    """
    if not is_wanted(settings, environment):
        return None
    try:
        from pfedbayespt.server.telemetry.server import ServerTraces  # here, as few want its packages
    except ModuleNotFoundError as error:
        raise TelemetryError(f"traces need pip install 'pfedbayespt[telemetry]': {error}") from error
    return ServerTraces.sent_to_collector(sorted(settings.roles))


def is_wanted(settings: Settings, environment: Mapping[str, str]) -> bool:
    """Return whether traces were asked for.

    Raises:
        TelemetryError: they were, by an exporter or a protocol that is not supported.
    """
    exporter = environment.get("OTEL_TRACES_EXPORTER", "").strip()
    is_disabled = environment.get("OTEL_SDK_DISABLED", "").strip().lower() == "true"
    if settings.telemetry == "off" or is_disabled or exporter == "none":
        return False
    if settings.telemetry == "auto" and not any(environment.get(name) for name in _ASKING):
        return False
    if exporter not in {"", "otlp"}:
        raise TelemetryError(f"OTEL_TRACES_EXPORTER {exporter!r} is not supported; allowed: otlp, none")
    _check_protocol(environment)
    return True


def _check_protocol(environment: Mapping[str, str]) -> None:
    for name in _PROTOCOLS:
        if environment.get(name, "") not in {"", "http/protobuf"}:
            raise TelemetryError(f"{name} {environment[name]!r} is not supported; allowed: http/protobuf")
