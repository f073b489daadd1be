"""The examples of running a site, against what they speak of: commands, options, images."""

import re
import shlex
from pathlib import Path
from typing import Any

import typer
import yaml
from typer.testing import CliRunner

from pfedbayespt.cli.main import app

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples" / "site"


def check_command(words: list[str]) -> None:
    """Fail unless the words name a command of ours, and only options that it has."""
    command: Any = typer.main.get_command(app)
    while hasattr(command, "commands"):
        name, *words = words
        command = command.commands[name]
    options = {option for parameter in command.params for option in parameter.opts}
    assert {word for word in words if word.startswith("--")} <= options


def variables() -> set[str]:
    """Every variable that an option of `site run` and `site serve` is read from."""
    names = set()
    for command_name in ("run", "serve"):
        group = typer.main.get_command(app).commands["site"]  # type: ignore[attr-defined]
        for parameter in group.commands[command_name].params:
            explicit = parameter.envvar
            names.add(explicit or f"PFEDBAYESPT_SITE_{command_name}_{parameter.name}".upper())
    return names


def test_the_unit_starts_a_command_that_there_is() -> None:
    unit = (EXAMPLES / "pfedbayespt-site.service").read_text()
    (line,) = re.findall(r"^ExecStart=(.*)$", unit, flags=re.MULTILINE)
    program, *words = shlex.split(line)
    assert program.endswith("/bin/pfedbayespt")
    assert words[-1] == "/var/lib/pfedbayespt/site"
    check_command(words)
    assert "StateDirectoryMode=0700" in unit, "a state directory that others may read is refused"


def test_the_environment_file_names_options() -> None:
    lines = (EXAMPLES / "site.env").read_text().splitlines()
    named = {line.partition("=")[0] for line in lines if line and not line.startswith("#")}
    assert named
    assert named <= variables()


def test_an_option_is_read_from_its_variable(tmp_path: Path) -> None:
    variable = {"PFEDBAYESPT_SITE_RUN_CACHE_GIB": "plenty", "PFEDBAYESPT_SITE_RUN_TRAIN": str(tmp_path)}
    refused = CliRunner().invoke(app, ["site", "run", str(tmp_path)], env=variable)
    assert refused.exit_code == 2
    assert "cache-gib" in refused.output.lower()


def test_the_containers_run_commands_that_there_are_on_an_image_that_is_built() -> None:
    services = yaml.safe_load((EXAMPLES / "compose.yaml").read_text())["services"]
    stages = re.findall(r"^FROM \S+ AS (\S+)$", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    assert services.keys() == {"site", "serve"}
    for service in services.values():
        assert service["build"]["target"] in stages
        assert set(service["environment"]) <= variables()
        check_command(service["command"])
    assert services["serve"]["ports"] == ["127.0.0.1:8100:8100"], "to this machine alone"
