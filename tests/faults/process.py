"""One coordinator process that is killed and started again, always on the same folder, database and port."""

import os
import signal
import socket
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.nursery import Nursery
from tests.server.harness import ADMIN_TOKEN

_START_SECONDS = 60.0
_DEATH_SECONDS = 30.0


def free_port() -> int:
    """Return a port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


@dataclass
class CoordinatorProcess:
    """The process, or its absence."""

    nursery: Nursery
    folder: Path
    database_url: str | None = None
    port: int = field(default_factory=free_port)
    settings: dict[str, Any] = field(default_factory=dict)
    pid: int | None = None
    deaths: int = 0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def log(self) -> Path:
        return self.folder.parent / f"{self.folder.name}-{self.port}.log"

    def start(self, failpoints: str = "", **options: Any) -> None:
        """Start it and return once it listens."""
        self.launch(failpoints, **options)
        self.await_listening()

    def launch(self, failpoints: str = "", **options: Any) -> None:
        """Start it and do not wait."""
        assert self.pid is None, "it runs already"
        self.pid = self.nursery.start(
            self.all_settings(), log=str(self.log), failpoints=failpoints, **options
        )

    def all_settings(self) -> dict[str, Any]:
        """Return what it is started with."""
        return {
            "admin_token": ADMIN_TOKEN,
            "data_dir": str(self.folder),
            "database_url": self.database_url,
            "port": self.port,
            "worker_interval_seconds": 0.05,
            "retry_after_seconds": 0.01,
        } | self.settings

    def await_listening(self) -> None:
        """Return once it accepts connections, which it does when its start-up is over."""
        assert self.pid is not None
        deadline = time.monotonic() + _START_SECONDS
        while time.monotonic() < deadline:
            if self.listens() or self.died():
                return
            time.sleep(0.005)
        raise AssertionError(f"it does not start: {self.tail()}")

    def listens(self) -> bool:
        """Whether it accepts connections."""
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def died(self, within_seconds: float = 0.0) -> bool:
        """Whether it is dead by that time; it may be started again then."""
        if self.pid is not None and self.nursery.wait(self.pid, within_seconds) is not None:
            self.deaths += 1
            self.pid = None
        return self.pid is None

    def await_death(self) -> None:
        """Return once it is dead."""
        assert self.died(_DEATH_SECONDS), f"it lives: {self.tail()}"

    def kill(self) -> None:
        """Kill it, if it lives."""
        if self.pid is not None:
            os.kill(self.pid, signal.SIGKILL)
            self.await_death()

    def is_stopped(self) -> bool:
        """Whether it was stopped by a signal and has not gone on."""
        assert self.pid is not None
        status = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2]
        return status.split()[0] == "T"

    def signal(self, number: signal.Signals) -> None:
        """Send a signal."""
        assert self.pid is not None
        os.kill(self.pid, number)

    def tail(self) -> str:
        """Return the end of its log."""
        return self.log.read_text()[-3000:] if self.log.exists() else "no log"
