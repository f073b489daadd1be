"""The demo's processes: one coordinator and one per site, started with the commands a person would type."""

import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from pfedbayespt.client import CoordinatorClient, TransportError

_COMMAND = (sys.executable, "-m", "pfedbayespt.cli.main")
_STOP_SECONDS = 15.0
_START_SECONDS = 120.0
_POLL_SECONDS = 0.1


class ProcessFailedError(RuntimeError):
    """A process of the demo ended with an error; its log says why."""

    def __init__(self, name: str, code: int, log: Path) -> None:
        tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        super().__init__(f"{name} ended with status {code}; the end of {log}:\n{tail}")


@dataclass
class Process:
    """A running command whose output goes to a log file."""

    name: str
    log: Path
    handle: "subprocess.Popen[bytes]" = field(repr=False)

    def is_running(self) -> bool:
        """Whether it still runs.

        Raises:
            ProcessFailedError: it ended with an error.
        """
        code = self.handle.poll()
        if code not in {None, 0}:
            raise ProcessFailedError(self.name, code or 0, self.log)
        return code is None

    def stop(self) -> None:
        """Ask it to end, and end it if it does not."""
        if self.handle.poll() is None:
            self.handle.send_signal(signal.SIGTERM)
            try:
                self.handle.wait(_STOP_SECONDS)
            except subprocess.TimeoutExpired:
                self.handle.kill()
                self.handle.wait()


@contextmanager
def running(
    name: str, arguments: Sequence[str], log: Path, environment: dict[str, str] | None = None
) -> Iterator[Process]:
    """Run `pfedbayespt <arguments>` until the block ends."""
    with log.open("ab") as output:
        handle = subprocess.Popen(
            [*_COMMAND, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | (environment or {}),
        )
    process = Process(name, log, handle)
    try:
        yield process
    finally:
        process.stop()


@dataclass(frozen=True)
class Coordinator:
    """Where the coordinator answers and the token its admin uses."""

    url: str
    admin_token: str


@contextmanager
def running_coordinator(
    directory: Path, backbones: Path, port: int, *, worker_interval_seconds: float = 0.2
) -> Iterator[Coordinator]:
    """Run a coordinator with embedded inference on SQLite in `directory`, ready to answer."""
    admin_token = secrets.token_urlsafe(32)
    port = port or _free_port()
    environment = {
        "PFEDBAYESPT_ADMIN_TOKEN": admin_token,
        "PFEDBAYESPT_DATA_DIR": str(directory / "coordinator"),
        "PFEDBAYESPT_BACKBONE_CACHE_DIR": str(backbones),
        "PFEDBAYESPT_ROLES": '["coordinator", "inference"]',
        "PFEDBAYESPT_RETRY_AFTER_SECONDS": "0.3",
        "PFEDBAYESPT_WORKER_INTERVAL_SECONDS": str(worker_interval_seconds),
    }
    arguments = ["coordinator", "run", "--host", "127.0.0.1", "--port", str(port)]
    with running("coordinator", arguments, directory / "coordinator.log", environment) as process:
        coordinator = Coordinator(f"http://127.0.0.1:{port}", admin_token)
        with CoordinatorClient(coordinator.url) as client:
            _wait_until_ready(process, client)
        yield coordinator


def threads_per_site(num_sites: int) -> int:
    """Return how many threads each of the sites may use without getting in one another's way."""
    return max(1, (os.cpu_count() or 1) // num_sites)


def _wait_until_ready(process: Process, client: CoordinatorClient) -> None:
    give_up_at = time.monotonic() + _START_SECONDS
    while process.is_running():
        try:
            if client.is_ready():
                return
        except TransportError:
            pass  # not listening yet
        if time.monotonic() > give_up_at:
            break
        time.sleep(_POLL_SECONDS)
    raise ProcessFailedError(process.name, process.handle.poll() or 0, process.log)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
