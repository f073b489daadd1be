"""The README's commands and its ten lines, run as they stand; only the port and the number of rounds are moved."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from pfedbayespt.client import CoordinatorClient, TransportError
from pfedbayespt.demo.scenario import Scale, lay_out_sites

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "samples/ideograms"
PORT = "18473"

pytestmark = [pytest.mark.e2e, pytest.mark.backbone, pytest.mark.timeout(600)]


def block(language: str, containing: str) -> str:
    """The README's code block that holds `containing`, with the test's port."""
    blocks = re.findall(rf"```{language}\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    (found,) = [text for text in blocks if containing in text]
    return found.replace("8000", PORT)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, backbone_weights: Path) -> Path:
    """A newcomer's folder: the examples, images of two organisations, and the backbone where the README has it."""
    home = tmp_path_factory.mktemp("newcomer")
    (home / "examples").mkdir()
    terms = (ROOT / "examples/ideograms.toml").read_text().replace("num_rounds = 10", "num_rounds = 2")
    (home / "examples/ideograms.toml").write_text(terms)
    backbones = home / ".cache/pfedbayespt/backbones"
    backbones.mkdir(parents=True)
    (backbones / backbone_weights.name).symlink_to(backbone_weights)
    scale = Scale(3, 1, 1, 1, num_rounds=2, local_epochs=1)
    folders = list(lay_out_sites(SAMPLE, home / "laid-out", scale, seed=0).values())
    for name, folder in zip(("clinic-a", "clinic-b"), folders, strict=False):
        site = home / name
        shutil.copytree(folder, site / "images")
        shutil.copyfile(next((folder / "held-out").glob("*/*.webp")), site / "images/new.webp")
        (site / backbone_weights.name).symlink_to(backbone_weights)
    return home


@pytest.fixture(scope="module")
def environment(home: Path) -> dict[str, str]:
    cleared = {name: value for name, value in os.environ.items() if not name.startswith("PFEDBAYESPT_")}
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    return cleared | {"HOME": str(home), "XDG_CACHE_HOME": str(home / ".cache"), "PATH": path}


@pytest.fixture(scope="module")
def coordinator(home: Path, environment: dict[str, str]) -> Iterator[None]:
    script = block("sh", "coordinator run").replace("coordinator.env", f"coordinator.env --port {PORT}")
    with subprocess.Popen(
        ["bash", "-ec", script], cwd=home, env=environment, start_new_session=True
    ) as process:
        try:
            with CoordinatorClient(f"http://127.0.0.1:{PORT}") as client:
                wait_until_ready(client, process)
            yield
        finally:
            os.killpg(process.pid, signal.SIGTERM)


def wait_until_ready(client: CoordinatorClient, process: "subprocess.Popen[bytes]") -> None:
    while process.poll() is None:
        try:
            if client.is_ready():
                return
        except TransportError:
            pass
        time.sleep(0.2)
    raise AssertionError(f"the coordinator ended with {process.returncode}")


def run_block(script: str, home: Path, environment: dict[str, str]) -> str:
    finished = subprocess.run(
        ["bash", "-ec", script], cwd=home, env=environment, capture_output=True, text=True, check=False
    )
    assert finished.returncode == 0, finished.stdout + finished.stderr
    return finished.stdout


@pytest.mark.usefixtures("coordinator")
def test_a_newcomer_founds_a_federation_joins_it_and_asks_it(home: Path, environment: dict[str, str]) -> None:
    founding = block("sh", "admin create-federation")
    exports = "\n".join(line for line in founding.splitlines() if line.startswith("export"))
    inviting = founding.splitlines()[-1]
    tokens = {
        "clinic-a": token_in(run_block(founding, home, environment)),
        "clinic-b": token_in(
            run_block(f"{exports}\n{inviting.replace('clinic-a', 'clinic-b')}", home, environment)
        ),
    }
    answers = join_and_predict(home, environment, tokens)
    assert all("label=" in answer for answer in answers), answers

    asking = exports.replace("federation-data", "../federation-data") + "\n" + block("sh", "curl")
    first = run_block(asking, home / "clinic-a", environment)
    assert run_block(asking, home / "clinic-a", environment) == first
    prediction = json.loads(first)
    assert prediction["num_samples"] == 16
    assert len(prediction["probabilities"]) == 3
    assert prediction["model_version"] == 3  # initial, statistics, two training rounds


def token_in(output: str) -> str:
    (token,) = set(re.findall(r"enr_\S+", output))
    return token


def join_and_predict(home: Path, environment: dict[str, str], tokens: dict[str, str]) -> list[str]:
    """Run the ten lines at every site side by side; return what each printed."""
    lines = block("python", "Site.enrol")
    sites = [
        subprocess.Popen(
            [sys.executable, "-c", f"token = {token!r}\n{lines.replace('clinic-a', name)}"],
            cwd=home / name,
            env=environment | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for name, token in tokens.items()
    ]
    outputs = [site.communicate(timeout=400) for site in sites]
    for site, (_, errors) in zip(sites, outputs, strict=True):
        assert site.returncode == 0, errors
    return [printed for printed, _ in outputs]
