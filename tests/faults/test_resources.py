"""What the coordinator lives on runs out or goes away for a while: disk, database, the right time."""

import os
import random
import sqlite3
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import httpx
import pytest
from sqlalchemy import create_engine, make_url, text
from tests.conftest import _find_binaries, _run, _temporary_cluster
from tests.contracts.conftest import create_database
from tests.faults.arena import Arena
from tests.faults.campaign import endure
from tests.faults.checks import Auditor
from tests.faults.conftest import Place
from tests.faults.nursery import Nursery
from tests.faults.process import CoordinatorProcess
from tests.faults.tally import Tally
from tests.server.harness import problem_of, settings_for

from pfedbayespt.server import upgrade_database

pytestmark = [pytest.mark.e2e, pytest.mark.thorough]
DISK_BYTES = 16 * 2**20
HOUR = 3600.0


@pytest.fixture
def small_disk(scratch: Path) -> Iterator[Path]:
    """Return a folder on a file system of its own, of sixteen megabytes."""
    folder = scratch / "small-disk"
    folder.mkdir(exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES}", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("only who may mount a file system can have a small one")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_refuses_updates_and_takes_them_once_there_is_room(
    nursery: Nursery, place: Place, tally: Tally, small_disk: Path
) -> None:
    arena = Arena(CoordinatorProcess(nursery, small_disk / "data", place.database_url))
    auditor = Auditor(
        place.database_url or f"sqlite:///{small_disk}/data/coordinator.sqlite3",
        small_disk / "data",
        arena.ledger,
    )
    refused = 0
    try:
        arena.found(evaluate=False)
        for room in (0, 0, 4096, 8192, 16384, 32768):
            arena.play_round()
            with tally.faults() as survived:
                with filled(small_disk, room):
                    refused += sum(is_refused(arena, auditor, number) for number in range(3))
                arena.play_round()
                auditor.check()
                survived(1)
    finally:
        arena.close()
        auditor.enter_into(tally)
    assert refused >= 6


def is_refused(arena: Arena, auditor: Auditor, number: int) -> bool:
    """Submit a site's update; whether it is refused for want of room, and then nothing of it is kept."""
    site, round_ = arena.sites[number], arena.round()
    answer = site.submit_file(round_["round_id"], arena.ledger.file_of(site, round_))
    if answer.status_code in {200, 201}:
        arena.ledger.note(answer.json())
        return False
    assert (answer.status_code, problem_of(answer)) == (507, "storage_exhausted")
    rows = auditor.rows(
        "SELECT id FROM updates WHERE site_id = :site AND round_id = :round",
        site=site.site_id,
        round=round_["round_id"],
    )
    assert not rows
    return True


def free_bytes(folder: Path) -> int:
    status = os.statvfs(folder)
    return status.f_bavail * status.f_frsize


@contextmanager
def filled(folder: Path, room: int) -> Iterator[None]:
    """Leave only so many bytes free on the folder's file system."""
    ballast = folder / "ballast"
    try:
        with ballast.open("wb") as file:
            file.write(bytes(free_bytes(folder) - room))
        yield
    finally:
        ballast.unlink()


def test_a_database_that_is_locked_for_a_while_keeps_an_update_waiting(
    arena: Arena, auditor: Auditor, place: Place, tally: Tally
) -> None:
    arena.found(evaluate=False)
    arena.play_round()
    round_ = arena.round()
    with tally.faults() as survived:
        with locked(place):
            submitting = threading.Thread(target=arena.submit, args=(arena.sites[0], round_))
            submitting.start()
            submitting.join(0.7)
            assert submitting.is_alive()
            assert not auditor.rows("SELECT id FROM updates WHERE round_id = :id", id=round_["round_id"])
        submitting.join()
        arena.play_round()
        auditor.check()
        survived(1)


@pytest.mark.parametrize("tally", ["sqlite"], indirect=True)
def test_a_database_file_that_stays_locked_is_overload_and_nothing_is_acknowledged(
    arena: Arena, auditor: Auditor, place: Place, tally: Tally
) -> None:
    arena.found(evaluate=False)
    arena.play_round()
    site, round_ = arena.sites[0], arena.round()
    content = arena.ledger.file_of(site, round_)
    with tally.faults() as survived, httpx.Client(base_url=arena.process.url, timeout=60.0) as http:
        with locked(place):
            answer = type(site)(**(vars(site) | {"http": http})).submit_file(round_["round_id"], content)
            assert (answer.status_code, problem_of(answer)) == (503, "overloaded")
        arena.play_round()
        auditor.check()
        survived(1)


@contextmanager
def locked(place: Place) -> Iterator[None]:
    """Hold the lock that whoever writes to a federation needs."""
    if place.database_url is None:
        connection = sqlite3.connect(place.folder / "coordinator.sqlite3", isolation_level=None)
        connection.execute("BEGIN IMMEDIATE")
        yield
        connection.close()
        return
    engine = create_engine(place.database_url)
    with engine.connect() as session:
        session.execute(text("SELECT id FROM federations FOR UPDATE"))
        yield
    engine.dispose()


@pytest.mark.parametrize("tally", ["postgresql"], indirect=True)
def test_connections_that_are_cut_under_load_cost_no_update(
    arena: Arena, auditor: Auditor, place: Place, tally: Tally
) -> None:
    arena.found(num_sites=4)
    engine = create_engine(str(place.database_url), isolation_level="AUTOCOMMIT")
    cut = (
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE pid <> pg_backend_pid() AND datname = "
    )
    chance = random.Random(4)

    def cut_all(_: Arena) -> None:
        time.sleep(chance.uniform(0.0, 0.3))
        with engine.connect() as connection:
            connection.execute(text(f"{cut} current_database()"))

    endure(arena, auditor, tally, 20, cut_all)
    engine.dispose()


@pytest.mark.parametrize("tally", ["postgresql"], indirect=True)
def test_a_database_server_that_crashes_under_load_costs_no_update(
    nursery: Nursery, scratch: Path, tally: Tally
) -> None:
    binaries = _find_binaries()
    if binaries is None:
        pytest.skip("only a server of our own may be crashed: install the Debian package `postgresql`")
    for server in _temporary_cluster(binaries):
        url = create_database(server)
        upgrade_database(settings_for(scratch / "crashing", database_url=url))
        arena = Arena(CoordinatorProcess(nursery, scratch / "crashing", url))
        try:
            arena.found(num_sites=4)
            auditor = Auditor(url, scratch / "crashing", arena.ledger)
            endure(arena, auditor, tally, 5, crash_of(binaries, server))
            auditor.enter_into(tally)
        finally:
            arena.close()


def crash_of(binaries: Path, server: str) -> Callable[[Arena], None]:
    data = Path(str(make_url(server).query["host"])) / "data"
    log = data.parent / "log"

    def crash(_: Arena) -> None:
        time.sleep(0.3)
        _run(binaries / "pg_ctl", "-D", data, "-l", log, "-m", "immediate", "-w", "restart")

    return crash


@pytest.mark.parametrize("ahead_seconds", [HOUR, -HOUR])
def test_a_process_whose_clock_is_an_hour_off_keeps_the_databases_deadlines(
    arena: Arena, auditor: Auditor, tally: Tally, ahead_seconds: float
) -> None:
    arena.process.start(clock_ahead_seconds=ahead_seconds)
    with tally.faults() as survived:
        arena.found(deadline_seconds=600.0)
        arena.play_round()
        arena.play_round()
        round_ = arena.round()
        started, deadline = (datetime.fromisoformat(round_[name]) for name in ("started_at", "deadline_at"))
        assert abs((started - datetime.now(UTC)).total_seconds()) < 120
        assert (deadline - started).total_seconds() == pytest.approx(600, abs=1)
        assert not auditor.rows("SELECT id FROM rounds WHERE status = 'abandoned'")
        auditor.check()
        survived(1)
