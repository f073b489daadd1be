"""Arenas on both databases. `FAULTS=full` (make faults) repeats everything often and prints the account at the end.

The data lies in memory where there is room: a process that is killed loses nothing that the kernel has taken, and
what a power cut would lose no test could show; the order of fsync, rename and commit is tested by itself instead.

With two workers each takes one database's tests.
"""

import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import pytest
from sqlalchemy import make_url
from tests.contracts.conftest import create_database
from tests.faults.arena import Arena
from tests.faults.checks import Auditor
from tests.faults.nursery import Nursery
from tests.faults.process import CoordinatorProcess
from tests.faults.tally import Tally
from tests.server.harness import settings_for
from xdist.workermanage import WorkerController

from pfedbayespt.server import upgrade_database

FULL = os.environ.get("FAULTS") == "full"
_ROOM_BYTES = 2**30
_FULL_SECONDS = 3600  # for one test: some repeat themselves hundreds of times
_TALLIES = {name: Tally(name) for name in ("sqlite", "postgresql")}
_numbers = count()


@pytest.hookimpl(tryfirst=True)  # before the workers look for groups
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave what is marked `thorough` to `make faults`, and give that the time it takes."""
    if FULL:
        for item in items:
            item.add_marker(pytest.mark.timeout(_FULL_SECONDS))
            item.add_marker(pytest.mark.xdist_group("sqlite" if "sqlite" in item.name else "postgresql"))
        return
    left_out = [item for item in items if item.get_closest_marker("thorough")]
    config.hook.pytest_deselected(items=left_out)
    items[:] = [item for item in items if item not in left_out]


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Hand a worker's accounts to the process that prints them."""
    if hasattr(session.config, "workeroutput"):
        session.config.workeroutput["tallies"] = {name: vars(tally) for name, tally in _TALLIES.items()}


@pytest.hookimpl(optionalhook=True)
def pytest_testnodedown(node: WorkerController) -> None:
    """Enter a worker's accounts into those of all."""
    for name, counts in getattr(node, "workeroutput", {}).get("tallies", {}).items():
        _TALLIES[name].add(Tally(**counts))


def pytest_unconfigure(config: pytest.Config) -> None:
    """Print the accounts, after everything else."""
    if FULL and not hasattr(config, "workeroutput"):
        for tally in _TALLIES.values():
            print(tally.report(), flush=True)  # noqa: T201


def repetitions(quick: int, full: int) -> int:
    """Return how often to do something in this run."""
    return full if FULL else quick


@dataclass(frozen=True)
class Place:
    """Where a coordinator keeps its data."""

    folder: Path
    database_url: str | None

    @property
    def effective_database_url(self) -> str:
        return self.database_url or f"sqlite:///{self.folder / 'coordinator.sqlite3'}"


@pytest.fixture(scope="session")
def nursery() -> Iterator[Nursery]:
    nursery = Nursery()
    yield nursery
    nursery.close()


@pytest.fixture(scope="session")
def scratch() -> Iterator[Path]:
    """Return a folder in memory, or a usual one if there is not room enough."""
    memory = Path("/dev/shm")
    has_room = memory.is_dir() and shutil.disk_usage(memory).free > _ROOM_BYTES
    with tempfile.TemporaryDirectory(prefix="faults-", dir=memory if has_room else None) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def empty_template(postgres_url: str, scratch: Path) -> str:
    """Return the name of a PostgreSQL database with this release's schema."""
    url = create_database(postgres_url)
    upgrade_database(settings_for(scratch / "template", database_url=url))
    return str(make_url(url).database)


@pytest.fixture(params=["sqlite", "postgresql"])
def tally(request: pytest.FixtureRequest) -> Tally:
    """Return the account of the database that the test runs on."""
    return _TALLIES[request.param]


@pytest.fixture
def new_place(request: pytest.FixtureRequest, tally: Tally, scratch: Path) -> Callable[[], Place]:
    """Return what makes a folder and a database of their own."""
    if tally.database == "sqlite":
        return lambda: Place(scratch / f"place-{next(_numbers)}", None)
    server, template = (request.getfixturevalue(name) for name in ("postgres_url", "empty_template"))
    return lambda: Place(scratch / f"place-{next(_numbers)}", create_database(server, template))


@pytest.fixture
def place(new_place: Callable[[], Place]) -> Place:
    """Return a folder and a database of the test's own."""
    return new_place()


@pytest.fixture
def arena(nursery: Nursery, place: Place) -> Iterator[Arena]:
    """Return an arena without a federation; its process ends with the test."""
    arena = Arena(CoordinatorProcess(nursery, place.folder, place.database_url))
    yield arena
    arena.close()


@pytest.fixture
def auditor(arena: Arena, place: Place, tally: Tally) -> Iterator[Auditor]:
    """Return the arena's auditor, whose findings enter the account."""
    auditor = Auditor(place.effective_database_url, place.folder, arena.ledger)
    yield auditor
    arena.close()
    auditor.enter_into(tally)
