"""The wheel, and the Dockerfile's own steps, run without a container engine: only their paths are moved."""

import importlib.util
import os
import re
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PARTS = {"protocol", "model", "client", "testing", "server", "cli", "demo", "simulation"}


def dockerfile_stage(name: str) -> list[str]:
    """The RUN commands of one stage of the Dockerfile, in order."""
    text = (ROOT / "Dockerfile").read_text().replace("\\\n", " ")
    stages = re.split(r"^FROM ", text, flags=re.MULTILINE)
    (stage,) = [stage for stage in stages if re.match(rf"\S+ AS {name}\n", stage)]
    return re.findall(r"^RUN (.*)$", stage, flags=re.MULTILINE)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@pytest.fixture(scope="module")
def image_root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds what the `build` stage of the Dockerfile leaves in an image."""
    root = tmp_path_factory.mktemp("image")
    for command in dockerfile_stage("build"):
        moved = command.replace("/opt/", f"{root}/opt/").replace("/wheels", f"{root}/wheels")
        moved = re.sub(r"^python ", f"{sys.executable} ", moved)
        subprocess.run(["bash", "-euc", moved], cwd=ROOT, check=True, capture_output=True, timeout=280)
    return root


def test_no_part_owns_the_namespace() -> None:
    spec = importlib.util.find_spec("pfedbayespt")
    assert spec is not None
    assert spec.origin is None
    assert not list(ROOT.glob("*/pfedbayespt/__init__.py"))


def test_the_wheel_holds_every_part_and_the_migrations_and_nothing_else(image_root: Path) -> None:
    (wheel,) = (image_root / "wheels").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    top_level = {name.split("/")[0] for name in names if ".dist-info/" not in name}
    assert top_level == {"pfedbayespt"}
    assert {name.split("/")[1] for name in names if name.startswith("pfedbayespt/")} == PARTS
    assert any(name.startswith("pfedbayespt/server/_migrations/versions/") for name in names)
    assert any(name.endswith("/licenses/LICENSE") for name in names)


def test_the_coordinator_image_starts_answers_and_has_no_torch(image_root: Path, tmp_path: Path) -> None:
    binaries = image_root / "opt/pfedbayespt/bin"
    probe = "import importlib.util as u; print(u.find_spec('torch'))"
    found = subprocess.run([binaries / "python", "-c", probe], check=True, capture_output=True, text=True)
    assert found.stdout.strip() == "None"

    port = free_port()
    environment = {
        "PATH": f"{binaries}:{os.environ['PATH']}",
        "PFEDBAYESPT_DATA_DIR": str(tmp_path / "data"),
        "PFEDBAYESPT_ROLES": '["coordinator"]',
        "PFEDBAYESPT_ADMIN_TOKEN": "a-token-for-this-test-alone-0123456789",
    }
    command = [binaries / "pfedbayespt", "coordinator", "run", "--host", "127.0.0.1", "--port", str(port)]
    with subprocess.Popen(command, env=environment, cwd=tmp_path) as coordinator:
        try:
            assert answer_of(f"http://127.0.0.1:{port}/readyz", coordinator) == 200
        finally:
            coordinator.terminate()
    assert coordinator.returncode in {0, -15}


def answer_of(url: str, process: "subprocess.Popen[bytes]") -> int:
    """The status of `url`, asked until the process answers; a process that died fails at once."""
    while process.poll() is None:
        try:
            with urllib.request.urlopen(url, timeout=5) as response:
                return int(response.status)
        except OSError:
            time.sleep(0.1)
    raise AssertionError(f"the process ended with {process.returncode} before it answered")
