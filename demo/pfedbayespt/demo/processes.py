"""Processes of ours, started with the commands a person would type: a coordinator, and one per site.

The demo, simulations and benchmarks measure what people run, so they run it.
"""

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
    """A process ended with an error; its log says why."""

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
    """Where the coordinator answers, the token its admin uses, and the process that it is."""

    url: str
    admin_token: str
    pid: int


@contextmanager
def coordinator_process(
    directory: Path, settings: dict[str, str], *, host: str = "127.0.0.1", port: int = 0
) -> Iterator[Coordinator]:
    """Run `pfedbayespt coordinator run` with its data and its log in `directory`, ready to answer.

    `settings`: further environment variables. Port 0: any free one.

    Raises:
        ProcessFailedError: it does not become ready.
    """
    admin_token = secrets.token_urlsafe(32)
    port = port or free_port()
    environment = {
        "PFEDBAYESPT_ADMIN_TOKEN": admin_token,
        "PFEDBAYESPT_DATA_DIR": str(directory / "coordinator"),
        **settings,
    }
    arguments = ["coordinator", "run", "--host", host, "--port", str(port)]
    with running("coordinator", arguments, directory / "coordinator.log", environment) as process:
        coordinator = Coordinator(f"http://127.0.0.1:{port}", admin_token, process.handle.pid)
        with CoordinatorClient(coordinator.url) as client:
            _wait_until_ready(process, client)
        yield coordinator


@contextmanager
def running_coordinator(
    directory: Path, backbones: Path, port: int, *, worker_interval_seconds: float = 0.2
) -> Iterator[Coordinator]:
    """Run a coordinator with embedded inference on SQLite in `directory`, ready to answer."""
    settings = {
        "PFEDBAYESPT_BACKBONE_CACHE_DIR": str(backbones),
        "PFEDBAYESPT_ROLES": '["coordinator", "inference"]',
        "PFEDBAYESPT_RETRY_AFTER_SECONDS": "0.3",
        "PFEDBAYESPT_WORKER_INTERVAL_SECONDS": str(worker_interval_seconds),
    }
    with coordinator_process(directory, settings, port=port) as coordinator:
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


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
