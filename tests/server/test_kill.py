"""A coordinator that is killed after every acknowledgement loses none of them (promises P1 and P2)."""

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

PROGRAM = """
import sys
from pathlib import Path
from pfedbayespt.server import Settings, run
run(Settings(data_dir=Path(sys.argv[1]), port=int(sys.argv[2]), worker_interval_seconds=0.02))
"""


class Process:
    """A coordinator in a process of its own, always on the same folder and port."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
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
            env=os.environ | {"PFEDBAYESPT_ADMIN_TOKEN": ADMIN_TOKEN, "OMP_NUM_THREADS": "1"},
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
