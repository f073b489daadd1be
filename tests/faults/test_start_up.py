"""Start-up is recovery: how long it takes by the clock, and what a death during a migration leaves behind.

The account says how long recovery took (95th percentile); no test fails because the machine is busy.
"""

import random
import time
from collections.abc import Iterator

import pytest
from alembic import command
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory
from tests.contracts.conftest import create_database
from tests.faults.arena import Arena
from tests.faults.campaign import endure, killed_at_any_moment
from tests.faults.checks import Auditor
from tests.faults.cold import ColdProcess
from tests.faults.conftest import Place
from tests.faults.nursery import Nursery
from tests.faults.process import CoordinatorProcess
from tests.faults.tally import Tally

from pfedbayespt.server import schema
from pfedbayespt.server.database import Database

pytestmark = [pytest.mark.e2e, pytest.mark.thorough]
REVISIONS = [
    script.revision for script in ScriptDirectory.from_config(schema.migrations_config()).walk_revisions()
][::-1]
COLD_STARTS = 20


@pytest.mark.timeout(600)
def test_a_coordinator_that_an_operator_starts_again_recovers(
    nursery: Nursery, place: Place, tally: Tally
) -> None:
    process = ColdProcess(nursery, place.folder, place.database_url)
    arena = Arena(process)
    auditor = Auditor(place.effective_database_url, place.folder, arena.ledger)
    try:
        arena.found()
        process.recovery_seconds.clear()
        endure(arena, auditor, tally, COLD_STARTS + 4, killed_at_any_moment(seed=5, within_seconds=1.0))
    finally:
        arena.close()
        auditor.enter_into(tally)
        tally.recovery_seconds += process.recovery_seconds
    assert len(process.recovery_seconds) >= COLD_STARTS


@pytest.fixture
def unprepared(request: pytest.FixtureRequest, nursery: Nursery, place: Place) -> Iterator[Arena]:
    """Return an arena on a database without a schema."""
    url = None if place.database_url is None else create_database(request.getfixturevalue("postgres_url"))
    arena = Arena(CoordinatorProcess(nursery, place.folder, url))
    yield arena
    arena.close()


@pytest.mark.parametrize("revision", [None, REVISIONS[0], REVISIONS[-2]])
def test_a_death_during_a_migration_leaves_the_old_schema_and_the_next_start_the_new_one(
    unprepared: Arena, tally: Tally, revision: str | None
) -> None:
    if revision is not None:
        migrate(unprepared, revision)
    chance = random.Random(2)
    with tally.faults() as survived:
        migrating(unprepared.process, "migration.before_commit=kill")
        unprepared.process.await_death()
        assert revision_of(unprepared) == revision
        survived(1)
    for _ in range(4):
        with tally.faults() as survived:
            migrating(unprepared.process)
            time.sleep(chance.uniform(0.0, 0.2))
            unprepared.process.kill()
            assert revision_of(unprepared) in {revision, REVISIONS[-1]}
            survived(1)
    migrating(unprepared.process)
    if tally.database == "postgresql":
        unprepared.process.await_death()
        unprepared.process.start()
    unprepared.process.await_listening()
    assert revision_of(unprepared) == REVISIONS[-1]
    unprepared.found()
    unprepared.play_round()


def migrating(process: CoordinatorProcess, failpoints: str = "") -> None:
    """Start what migrates: the coordinator itself if its database is embedded, else the operator's command."""
    process.launch(failpoints, task="run" if process.database_url is None else "upgrade")


def database_of(arena: Arena) -> Database:
    process = arena.process
    process.folder.mkdir(parents=True, exist_ok=True)
    return Database(process.database_url or f"sqlite:///{process.folder / 'coordinator.sqlite3'}")


def migrate(arena: Arena, revision: str) -> None:
    database = database_of(arena)
    with database.migrating() as connection:
        command.upgrade(schema.migrations_config(connection), revision)
    database.close()


def revision_of(arena: Arena) -> str | None:
    database = database_of(arena)
    with database.engine.connect() as connection:
        found = MigrationContext.configure(connection).get_current_revision()
    database.close()
    return found
