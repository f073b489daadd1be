"""Coordinators started as an operator starts them, by `pfedbayespt coordinator run`: what recovery really takes."""

import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from http.client import HTTPConnection
from typing import Any

from tests.faults.process import CoordinatorProcess

_PROGRAM = "from pfedbayespt.cli.main import app; app()"  # what the console script does
_START_SECONDS = 60.0


@dataclass
class ColdProcess(CoordinatorProcess):
    """A process that imports everything by itself; `recovery_seconds`: from each start to the first /readyz."""

    recovery_seconds: list[float] = field(default_factory=list)
    _running: subprocess.Popen[bytes] | None = None

    def launch(self, failpoints: str = "", **options: Any) -> None:
        """Start it and do not wait."""
        given = {name: value for name, value in self.all_settings().items() if value is not None}
        environment = {f"PFEDBAYESPT_{name.upper()}": str(value) for name, value in given.items()}
        with self.log.open("ab") as log:
            self._running = subprocess.Popen(
                [sys.executable, "-c", _PROGRAM, "coordinator", "run"],
                env=os.environ | environment | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
                stderr=log,
            )
        self.pid = self._running.pid

    def start(self, failpoints: str = "", **options: Any) -> None:
        """Start it, and take the time until it says that it is ready."""
        started = time.monotonic()
        self.launch()
        while not self._is_ready():
            if self.died():  # killed again before it was ready: no recovery to be measured
                return
            assert time.monotonic() - started < _START_SECONDS, f"it does not start: {self.tail()}"
            time.sleep(0.01)
        self.recovery_seconds.append(time.monotonic() - started)

    def died(self, within_seconds: float = 0.0) -> bool:
        """Whether it is dead by that time; it may be started again then."""
        if self._running is None:
            return True
        try:
            self._running.wait(within_seconds)
        except subprocess.TimeoutExpired:
            return False
        self.deaths += 1
        self._running = self.pid = None
        return True

    def _is_ready(self) -> bool:
        connection = HTTPConnection("127.0.0.1", self.port, timeout=10.0)
        try:
            connection.request("GET", "/readyz")
            return connection.getresponse().status == 200
        except OSError:
            return False
        finally:
            connection.close()
