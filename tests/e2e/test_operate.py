"""The operator's page: its shell commands, in order and as they stand, but for the port and the folder."""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from tests.e2e.test_readme import wait_until_ready
from tests.telemetry.collector import collecting

from pfedbayespt.client import CoordinatorClient
from pfedbayespt.simulation.synthetic import (
    SyntheticSite,
    blank_parameters,
    found,
    live_together,
    specification,
)

ROOT = Path(__file__).parents[2]
PORT = "18475"
URL = f"http://127.0.0.1:{PORT}"
NUM_SITES = 2

pytestmark = pytest.mark.e2e


@pytest.fixture
def blocks(tmp_path: Path) -> dict[str, str]:
    """Each block of the page by its name."""
    text = (ROOT / "docs/how-to/operate.md").read_text()
    named = re.findall(r"```sh (\w+)\n(.*?)```", text, flags=re.DOTALL)
    assert len(named) == text.count("```sh"), "a block has no name, so nothing runs it"
    return {name: script.replace("/srv", str(tmp_path)).replace("8000", PORT) for name, script in named}


@pytest.fixture
def environment() -> dict[str, str]:
    cleared = {name: value for name, value in os.environ.items() if not name.startswith("PFEDBAYESPT_")}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    without_torch = {"PFEDBAYESPT_ROLES": '["coordinator"]'}  # which would take long to load
    return cleared | without_torch | {"PATH": path, "PFEDBAYESPT_PORT": PORT}


@contextmanager
def running(script: str, environment: dict[str, str]) -> Iterator[CoordinatorClient]:
    with (
        subprocess.Popen(["bash", "-ec", script], env=environment, start_new_session=True) as process,
        CoordinatorClient(URL) as client,
    ):
        try:
            wait_until_ready(client, process)
            yield client
        finally:
            os.killpg(process.pid, signal.SIGTERM)


@pytest.mark.skipif(shutil.which("curl") is None, reason="the page's commands need curl")
def test_every_command_works_and_the_federation_goes_on_after_the_restore(
    blocks: dict[str, str], environment: dict[str, str], tmp_path: Path
) -> None:
    def do(name: str) -> str:
        done = subprocess.run(
            ["bash", "-euo", "pipefail", "-c", blocks.pop(name)],
            env=environment, capture_output=True, text=True, check=False, timeout=120,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    arrays, run = blank_parameters(0.01), blocks.pop("run")
    do("setup")
    token = re.findall("ADMIN_TOKEN=(.*)", (tmp_path / "pfedbayespt/coordinator.env").read_text())[0]
    with running(run, environment), CoordinatorClient(URL, token) as admin:
        found(admin, specification(NUM_SITES), arrays)
        sites = [SyntheticSite.enrol(admin, URL, number, arrays) for number in range(NUM_SITES)]
        live_together(sites, lambda told: told.round is not None and told.round.round_number > 2)
        figures = do("watch")
        for name in named_figures():
            assert f"# TYPE {name.removesuffix('_total')}" in figures, name
        assert "verified" in do("backup")
        assert "1 audit chains" in do("verify")
        assert "removed 0 files" in do("gc")
    assert "restored" in do("restore")
    do("upgrade")
    with collecting() as (collector, url):
        with running(blocks.pop("traces").replace("http://127.0.0.1:4318", url), environment):
            live_together(sites, lambda told: told.round is not None and told.round.round_number > 3)
        collector.wait_for(lambda spans: "aggregate" in {span.name for span in spans})
    assert blocks == {}


def named_figures() -> set[str]:
    return set(re.findall(r"`(pfedbayespt_\w+)`", (ROOT / "docs/how-to/operate.md").read_text()))
