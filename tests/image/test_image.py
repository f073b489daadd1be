"""The coordinator's image, built step by step in a chroot and started as it would be: `make image-check`."""

import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from urllib.request import urlopen

import pytest
from tests.image.dockerfile import ROOT, Builder, Stage, make_debian, stages_of

TEXT = (ROOT / "Dockerfile").read_text()
PORT = "18477"
START_SECONDS = 60.0

pytestmark = pytest.mark.timeout(900)


def why_not() -> str | None:
    """Say why no chroot is made here."""
    if os.environ.get("IMAGE") != "full":
        return "takes minutes: make image-check"
    if shutil.which("debootstrap") is None:
        return "needs Debian's package debootstrap"
    return None if os.geteuid() == 0 else "only root may change the root folder"


def test_every_stage_is_understood_and_ends_unprivileged() -> None:
    stages = stages_of(TEXT)
    assert {"build", "runtime", "coordinator", "inference", "site"} <= stages.keys()
    for stage in stages.values():
        assert all(
            hasattr(Builder, f"_{word.lower()}") or word in {"EXPOSE", "VOLUME"} for word, _ in stage.steps
        )
    assert ("USER", "10001") in stages["runtime"].steps
    assert {stages[name].base for name in ("coordinator", "inference", "site")} == {"runtime"}


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stage]:
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    folder = tmp_path_factory.mktemp("image")
    make_debian(folder / "debian")
    yield Builder(TEXT, folder / "debian", folder).build("coordinator")
    shutil.rmtree(folder)


CONFINED = """
set -eu
mount --make-rprivate /
mount --bind "$1" "$1"
mount --bind "$1/data" "$1/data"
mount -t tmpfs none "$1/tmp"
mount -o remount,bind,ro "$1"
shift 1
exec "$@"
"""


def inside(image: Stage, *words: str) -> list[str]:
    """The command that runs words as the image's user, on a read-only root but for /data and /tmp."""
    chroot = ["chroot", f"--userspec={image.user}:{image.user}", str(image.root), *words]
    return ["unshare", "--mount", "sh", "-c", CONFINED, "sh", str(image.root), *chroot]


def run_inside(image: Stage, *words: str) -> subprocess.CompletedProcess[str]:
    command = inside(image, *words)
    return subprocess.run(command, env=image.env, capture_output=True, text=True, check=False, timeout=60)


@pytest.fixture(scope="module")
def running(image: Stage) -> Iterator[str]:
    """The address of the coordinator that the image's own command has started."""
    words = [PORT if word == "8000" else word for word in (*image.entrypoint, *image.command)]
    environment = image.env | {"PFEDBAYESPT_ADMIN_TOKEN": "x" * 40}
    with subprocess.Popen(inside(image, *words), env=environment, stderr=subprocess.PIPE) as process:
        try:
            await_port(process)
            yield f"http://127.0.0.1:{PORT}"
        finally:
            process.terminate()


def await_port(process: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while time.monotonic() < deadline:
        assert process.poll() is None, process.stderr.read()[-2000:]  # type: ignore[union-attr]
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", int(PORT))) == 0:
                return
        time.sleep(0.1)
    raise AssertionError("the coordinator does not listen")


def test_the_coordinator_starts_and_its_health_check_finds_it_well(image: Stage, running: str) -> None:
    for path in ("/livez", "/readyz"):
        with urlopen(running + path, timeout=10) as answer:
            assert answer.status == 200
    check = [word.replace(":8000", f":{PORT}") for word in image.health_check]
    assert run_inside(image, *check).returncode == 0
    missed = [word.replace(":8000", ":9") for word in image.health_check]
    assert run_inside(image, *missed).returncode != 0


def test_it_runs_as_nobody_special_and_writes_nowhere_but_to_its_data(image: Stage, running: str) -> None:
    assert run_inside(image, "id", "-u").stdout.strip() == "10001"
    for folder, is_open in (("/data", True), ("/tmp", True), ("/", False), ("/opt/pfedbayespt", False)):
        assert (run_inside(image, "touch", f"{folder}/mine").returncode == 0) is is_open, folder
    assert image.root is not None
    written = [path.stat().st_uid for path in (image.root / "data").iterdir()]
    assert set(written) == {10001}


def test_the_coordinator_s_image_has_its_databases_and_stores_but_no_torch(image: Stage) -> None:
    assert run_inside(image, "python", "-c", "import psycopg, obstore").returncode == 0
    assert "No module named 'torch'" in run_inside(image, "python", "-c", "import torch").stderr
    assert image.root is not None
    assert not (image.root / "src").exists()
