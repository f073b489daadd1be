"""Fixtures of the command line's tests: the SDK's real coordinator, and a way to run commands."""

from collections.abc import Callable

import pytest
from tests.client_sdk.conftest import backbone_config, backbone_file, coordinator, images
from tests.client_sdk.harness import ADMIN_TOKEN, Coordinator
from typer.testing import CliRunner, Result

from pfedbayespt.cli.main import app

__all__ = ["backbone_config", "backbone_file", "coordinator", "images"]

Run = Callable[..., Result]


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run a command with the given words; nothing of this machine's environment gets in."""
    for name in ("URL", "TOKEN", "ADMIN_TOKEN", "DATA_DIR", "CACHE", "ROLES"):
        monkeypatch.delenv(f"PFEDBAYESPT_{name}", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    runner = CliRunner()

    def run_command(*words: object, **options: object) -> Result:
        result = runner.invoke(app, [str(word) for word in words], **options)  # type: ignore[arg-type]
        if result.exception is not None and not isinstance(result.exception, SystemExit):
            raise result.exception
        return result

    return run_command


@pytest.fixture
def admin(run: Run, coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run `pfedbayespt admin ...` against the coordinator."""
    monkeypatch.setenv("PFEDBAYESPT_URL", coordinator.url)
    monkeypatch.setenv("PFEDBAYESPT_TOKEN", ADMIN_TOKEN)
    return lambda *words, **options: run("admin", *words, **options)
