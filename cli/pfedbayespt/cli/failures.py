"""Expected errors become one readable message and exit code 1; only what nobody expected shows a traceback.

The exception classes are looked up among the modules that are loaded: a module that was never imported cannot have
raised anything, and asking for its classes must not load torch.
"""

import sys
from typing import Any

import typer
from typer.core import TyperGroup

_EXPECTED = {
    "pfedbayespt.client.errors": "PFedBayesPTError",
    "pfedbayespt.demo.processes": "ProcessFailedError",
    "pfedbayespt.model.backbone": "BackboneError",
    "pfedbayespt.model.config": "ConfigError",
    "pfedbayespt.model.images": "ImageError",
    "pfedbayespt.model.insertion": "InsertionError",
    "pfedbayespt.protocol.signatures": "SignatureError",
    "pfedbayespt.protocol.tensors": "TensorFileError",
    "pfedbayespt.server.errors": "CoordinatorError",
    "pfedbayespt.server.keys": "SigningKeyError",
    "pfedbayespt.server.operations": "OperationError",
    "pfedbayespt.server.ownership": "FolderInUseError",
    "pfedbayespt.server.schema": "SchemaError",
    "pfedbayespt.server.telemetry": "TelemetryError",
}
_EXTRAS = {
    "fastapi": "server",
    "jwt": "client",
    "httpx": "client",
    "jinja2": "demo",
    "matplotlib": "demo",
    "onnx": "demo",
    "ray": "ray",
    "sqlalchemy": "server",
    "stamina": "client",
    "timm": "client",
    "torch": "client",
    "uvicorn": "server",
}


class UserError(Exception):
    """What the person at the keyboard asked for cannot be done; the message says why and what can."""


class ExplainingGroup(TyperGroup):
    """A group of commands that explains expected errors."""

    def invoke(self, ctx: Any) -> Any:  # typer's own context class has moved between its releases
        """Run the command."""
        try:
            return super().invoke(ctx)
        except Exception as error:
            explanation = _explain(error)
            if explanation is None:
                raise
            typer.secho(f"error: {explanation}", fg="red", err=True)
            raise typer.Exit(1) from error


def _explain(error: Exception) -> str | None:
    """Return what to tell about an expected error; None for one that nobody expected."""
    if isinstance(error, ModuleNotFoundError) and error.name in _EXTRAS:
        extra = _EXTRAS[error.name]
        return f"this command needs {error.name}, which comes with: pip install 'pfedbayespt[{extra}]'"
    if isinstance(error, (UserError, OSError)) or _is_ours(error):
        return str(error)
    return None


def _is_ours(error: Exception) -> bool:
    loaded = (
        getattr(sys.modules[module], name) for module, name in _EXPECTED.items() if module in sys.modules
    )
    return isinstance(error, tuple(loaded))
