"""A coordinator that is killed, or whose disk fails, loses no acknowledged update (promises P1 and P2)."""

import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import httpx
import pytest
from tests.server.harness import ADMIN_TOKEN, Coordinator, MovableClock, SiteCaller

from pfedbayespt.server.serving import EXIT_STORAGE_BROKEN

PROGRAM = """
import sys
from pathlib import Path
import errno
import os
from pfedbayespt.server import Settings, run
fsync, broken = os.fsync, Path(sys.argv[1]).with_name("disk-is-broken")
def fsync_unless_broken(descriptor):
    if broken.exists():
        raise OSError(errno.EIO, "Input/output error")
    fsync(descriptor)
os.fsync = fsync_unless_broken
run(Settings(data_dir=Path(sys.argv[1]), port=int(sys.argv[2]), worker_interval_seconds=0.02))
"""


class Process:
    """A coordinator in a process of its own, always on the same folder and port."""

    def __init__(self, folder: Path, **environment: str) -> None:
        self.folder = folder
        self.environment = environment
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        self.running: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def start(self) -> None:
        self.running = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, str(self.folder), str(self.port)],
            env=os.environ
            | {"PFEDBAYESPT_ADMIN_TOKEN": ADMIN_TOKEN, "OMP_NUM_THREADS": "1"}
            | self.environment,
            stderr=(self.folder.parent / "log").open("ab"),
        )
        for _ in range(600):
            try:
                if httpx.get(f"{self.url}/readyz").status_code == 200:
                    return
            except httpx.TransportError:
                time.sleep(0.05)
        raise AssertionError((self.folder.parent / "log").read_text())

    def kill(self) -> None:
        assert self.running is not None
        self.running.send_signal(signal.SIGKILL)
        self.running.wait()


@pytest.mark.e2e
def test_no_acknowledged_update_is_lost_when_the_coordinator_is_killed_after_each(tmp_path: Path) -> None:
    process = Process(tmp_path / "data")
    process.start()
    try:
        with httpx.Client(base_url=process.url, timeout=60) as http:
            http_caller = Coordinator(http, MovableClock())  # type: ignore[arg-type]
            http_caller.federation(num_rounds=1, min_sites_to_start=3, quorum=3, evaluate=False)
            acknowledged = train_to_the_end(process, http_caller.sites(3))
            versions = http_caller.versions()
    finally:
        process.kill()

    assert len(acknowledged) == 6
    assert [version["version_number"] for version in versions] == [2, 1, 0]
    aggregated = {part["update_id"] for version in versions for part in version["inputs"]}
    assert aggregated == acknowledged


@pytest.mark.e2e
def test_a_failed_fsync_ends_the_process_unanswered_and_a_restart_makes_it_good(tmp_path: Path) -> None:
    process = Process(tmp_path / "data")
    process.start()
    try:
        with httpx.Client(base_url=process.url, timeout=60) as http:
            admin = Coordinator(http, MovableClock())  # type: ignore[arg-type]
            admin.federation(num_rounds=1, min_sites_to_start=2, quorum=2, evaluate=False)
            site = admin.sites(2)[0]
            while (assignment := site.assignment())["action"] != "train":
                time.sleep(0.02)
            round_id, content = assignment["round"]["round_id"], site.update(assignment["round"], 1.0, 10)

            (tmp_path / "disk-is-broken").touch()
            with pytest.raises(httpx.TransportError):
                site.submit_file(round_id, content)
            assert process.running is not None
            assert process.running.wait(timeout=60) == EXIT_STORAGE_BROKEN
            assert '"event": "storage_broken"' in (tmp_path / "log").read_text()

            (tmp_path / "disk-is-broken").unlink()
            process.start()
            assert site.submit_file(round_id, content).status_code == 201
            assert site.submit_file(round_id, content).status_code == 200
    finally:
        process.kill()


def train_to_the_end(process: Process, sites: list[SiteCaller]) -> set[str]:
    """Train until the federation is finished, killing the coordinator after every receipt; return their ids."""
    acknowledged = set()
    while True:
        actions = [site.assignment()["action"] for site in sites]
        if actions == ["finished"] * len(sites):
            return acknowledged
        for site, action in zip(sites, actions, strict=True):
            if action == "train":
                acknowledged.add(site.train()["update_id"])
                process.kill()
                process.start()
