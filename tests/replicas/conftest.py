"""Coordinator processes that share nothing but PostgreSQL, an S3 server and a key.

`REPLICAS=full` (make replicas) runs what is marked `thorough` too.
"""

import os
import shutil
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import _find_binaries, _run, object_store_server
from tests.faults.nursery import Nursery
from tests.faults.process import CoordinatorProcess
from tests.object_store import ObjectStoreServer, store_url
from tests.server.harness import settings_for

from pfedbayespt.server import Settings, upgrade_database
from pfedbayespt.server.keys import make

FULL = os.environ.get("REPLICAS") == "full"


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave what is marked `thorough` to `make replicas`."""
    here = [item for item in items if item.path.is_relative_to(Path(__file__).parent)]
    left_out = [] if FULL else [item for item in here if item.get_closest_marker("thorough")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


class PostgresServer:
    """A cluster of the test's own, which keeps its files when it dies."""

    def __init__(self, binaries: Path) -> None:
        self._control = binaries / "pg_ctl"
        self._folder = Path(tempfile.mkdtemp(prefix="pg-"))  # short, for the socket's path
        if os.geteuid() == 0:
            shutil.chown(self._folder, "postgres")
        _run(binaries / "initdb", "-D", self._data, "-U", "postgres", "--auth=trust", "--encoding=UTF8")

    @property
    def _data(self) -> Path:
        return self._folder / "data"

    @property
    def url(self) -> str:
        return f"postgresql://postgres@/postgres?host={self._folder}"

    def start(self) -> None:
        options = f"-k {self._folder} -c listen_addresses= -c max_connections=200"
        _run(self._control, "-D", self._data, "-l", self._folder / "log", "-o", options, "-w", "start")

    def crash(self) -> None:
        """End it at once, as a power cut would; what it recovers is what it had made durable."""
        _run(self._control, "-D", self._data, "-m", "immediate", "stop")

    def remove(self) -> None:
        shutil.rmtree(self._folder)


@dataclass
class Backing:
    """What the replicas share, and what makes one."""

    database: PostgresServer
    objects: ObjectStoreServer
    nursery: Nursery
    folder: Path
    replicas: list[CoordinatorProcess] = field(default_factory=list)

    def settings(self, name: str, **changes: Any) -> Settings:
        """Return the settings of a replica with a folder of its own, which holds nothing that outlives it."""
        return settings_for(
            self.folder / name,
            database_url=self.database.url,
            blobs_url=store_url(self.objects.endpoint, "replicas"),
            signing_key_file=self.folder / "coordinator-key.pem",
            **changes,
        )

    def replica(self, name: str, **changes: Any) -> CoordinatorProcess:
        """Start a replica."""
        shared = {"blobs_url", "signing_key_file", *changes}
        settings = self.settings(name, **changes).model_dump(mode="json", include=shared)
        process = CoordinatorProcess(
            self.nursery,
            self.folder / name,
            self.database.url,
            settings={"roles": ["coordinator"], **settings},
        )
        self.replicas.append(process)
        process.start()
        return process


@pytest.fixture
def backing(tmp_path: Path) -> Iterator[Backing]:
    """Return the engines, with this release's schema, and end all that was started on them."""
    binaries = _find_binaries()
    if binaries is None:
        pytest.skip("no PostgreSQL: install the Debian package `postgresql`")
    database = PostgresServer(binaries)
    database.start()
    with object_store_server() as objects:
        nursery = Nursery()  # after the credentials are in the environment
        backing = Backing(database, objects, nursery, tmp_path)
        make(tmp_path / "coordinator-key.pem")
        upgrade_database(backing.settings("upgrade"))
        yield backing
        for replica in backing.replicas:
            replica.kill()
        nursery.close()
    database.crash()
    database.remove()


@pytest.fixture
def two_replicas(backing: Backing) -> list[CoordinatorProcess]:
    return [backing.replica(name) for name in ("a", "b")]
