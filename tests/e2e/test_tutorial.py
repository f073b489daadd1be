"""The tutorial's shell commands, in order and as they stand, but for the port, fewer images and fewer rounds."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.e2e.test_readme import wait_until_ready

from pfedbayespt.client import CoordinatorClient

ROOT = Path(__file__).parents[2]
PORT = "18474"

pytestmark = [pytest.mark.e2e, pytest.mark.backbone, pytest.mark.timeout(600)]


def commands() -> dict[str, str]:
    """Each block of the tutorial by its name."""
    text = (ROOT / "docs/tutorial.md").read_text().replace("8000", PORT)
    named = re.findall(r"```sh (\w+)\n(.*?)```", text, flags=re.DOTALL)
    assert len(named) == text.count("```sh"), "a block has no name, so nothing runs it"
    return dict(named)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, backbone_weights: Path) -> Path:
    """A clone as far as the tutorial uses it, and the backbone where it expects it."""
    home = tmp_path_factory.mktemp("tutorial")
    (home / "examples").mkdir()
    terms = (ROOT / "examples/ideograms.toml").read_text()
    moved = terms.replace("num_rounds = 10", "num_rounds = 1").replace(
        "min_sites_to_start = 2", "min_sites_to_start = 3"
    )
    assert moved.count("= 1\n") == 1
    (home / "examples/ideograms.toml").write_text(moved)
    (home / "samples").symlink_to(ROOT / "samples")
    backbones = home / ".cache/pfedbayespt/backbones"
    backbones.mkdir(parents=True)
    (backbones / backbone_weights.name).symlink_to(backbone_weights)
    return home


@pytest.fixture(scope="module")
def environment(home: Path) -> dict[str, str]:
    cleared = {name: value for name, value in os.environ.items() if not name.startswith("PFEDBAYESPT_")}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    mine = {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache"), "PATH": path, "OMP_NUM_THREADS": "1"}
    return cleared | mine


@pytest.fixture(scope="module")
def coordinator(home: Path, environment: dict[str, str]) -> Iterator[None]:
    script = commands()["coordinator"].replace("coordinator.env", f"coordinator.env --port {PORT}")
    with subprocess.Popen(
        ["bash", "-ec", script], cwd=home, env=environment, start_new_session=True
    ) as process:
        try:
            with CoordinatorClient(f"http://127.0.0.1:{PORT}") as client:
                wait_until_ready(client, process)
            yield
        finally:
            os.killpg(process.pid, signal.SIGTERM)


@pytest.mark.usefixtures("coordinator")
def test_three_organisations_train_together_and_ask(home: Path, environment: dict[str, str]) -> None:
    blocks = commands()
    assert set(blocks) == {"setup", "coordinator", "founding", "images", "joining", "training", "asking"}
    few = (
        blocks["images"]
        .replace("FULL", "Scale")
        .replace("Scale, seed", "Scale(3, 1, 1, 1, num_rounds=1, local_epochs=1), seed")
    )
    script = "\n".join(
        (blocks["founding"], few, *(blocks[name] for name in ("joining", "training", "asking")))
    )
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", script],
        cwd=home,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=550,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    prediction = json.loads(done.stdout.splitlines()[-1])
    assert prediction["model_version"] == 2  # initial, statistics, one training round
    assert len(prediction["probabilities"]) == 3


def test_setting_up_is_what_the_makefile_does() -> None:
    assert commands()["setup"].split("\n")[0] == "make setup"
    assert re.search(r"^setup:", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
