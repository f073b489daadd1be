"""A newcomer's first steps: help, versions, and mistakes at the keyboard."""

import subprocess
import sys
from collections.abc import Iterator

import pytest
import typer.main
from tests.cli.conftest import Run

from pfedbayespt.cli.main import app


def command_paths() -> Iterator[list[str]]:
    def walk(command: object, path: list[str]) -> Iterator[list[str]]:
        yield path
        for name, child in getattr(command, "commands", {}).items():
            yield from walk(child, [*path, name])

    yield from walk(typer.main.get_command(app), [])


@pytest.mark.parametrize("path", list(command_paths()), ids=" ".join)
def test_every_command_explains_itself_and_each_of_its_options(run: Run, path: list[str]) -> None:
    command = typer.main.get_command(app)
    for name in path:
        command = command.commands[name]  # type: ignore[attr-defined]
    assert run(*path, "--help").exit_code == 0
    assert command.help
    for parameter in command.params:
        assert getattr(parameter, "help", None), parameter.name


@pytest.mark.parametrize("words", [["--help"], ["coordinator", "run", "--help"], ["admin", "--help"]])
def test_help_loads_nothing_heavy(words: list[str]) -> None:
    code = (
        "import sys\n"
        "from typer.testing import CliRunner\n"
        "from pfedbayespt.cli.main import app\n"
        f"assert CliRunner().invoke(app, {words}).exit_code == 0\n"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    heavy = {"torch", "timm", "fastapi", "sqlalchemy", "httpx", "numpy"}
    assert not heavy & set(done.stdout.split())


def test_a_coordinator_without_inference_never_loads_torch_or_the_sdk() -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\n"
        "from pfedbayespt.cli.coordinator import read_settings\n"
        "from pfedbayespt.server.app import create_app\n"
        "create_app(read_settings(None, {'admin_token': 'x' * 32, 'data_dir': Path('/nonexistent')}))\n"
        "print(*sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert not {"torch", "timm", "httpx", "stamina", "pfedbayespt.client"} & set(done.stdout.split())


def test_the_version_is_the_distributions(run: Run) -> None:
    from importlib.metadata import version

    assert run("--version").output.strip() == version("pfedbayespt")


def test_a_missing_token_is_a_usage_error_that_names_the_variable(run: Run) -> None:
    result = run("admin", "federations", "--url", "http://localhost:1")
    assert result.exit_code == 2
    assert "PFEDBAYESPT_TOKEN" in result.output


def test_a_missing_extra_is_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "stamina", None)  # what Python does for a module that is not there
    result = run("admin", "federations", "--url", "http://localhost:1", "--token", "t")
    assert result.exit_code == 1
    assert "needs stamina, which comes with: pip install 'pfedbayespt[client]'" in result.output
