"""A round that is interrupted anywhere between its last update and its publication ends in the same bytes (P2)."""

import shutil
from itertools import count
from pathlib import Path

import pytest
from sqlalchemy import make_url
from sqlalchemy.exc import OperationalError
from tests.contracts.conftest import create_database
from tests.faults.arena import Arena
from tests.faults.checks import Auditor
from tests.faults.conftest import Place, repetitions
from tests.faults.nursery import Nursery
from tests.faults.process import CoordinatorProcess
from tests.faults.tally import Tally

pytestmark = pytest.mark.e2e
AFTER_THE_LAST_UPDATE = [
    "close.after_claim",
    "close.before_commit",
    "aggregate.after_plan",
    "aggregate.mid_file",
    "aggregate.mid_file@3",
    "blob.before_fsync",
    "blob.after_fsync",
    "blob.after_rename",
    "aggregate.after_put",
    "publish.after_candidate",
    "publish.before_commit",
    "publish.after_commit",
    "evaluation.before_commit@3",
    "evaluation.after_commit@3",
    "promotion.after_retire",
    "promotion.before_commit",
]
_copies = count()


@pytest.mark.timeout(600)
def test_a_round_killed_at_any_step_of_its_end_has_the_digest_of_an_undisturbed_one(
    nursery: Nursery, arena: Arena, place: Place, tally: Tally, request: pytest.FixtureRequest
) -> None:
    collect_a_round(arena)
    undisturbed = ended(copied(arena, nursery, place, request), "", tally)
    assert undisturbed.startswith("sha256:")
    for point in AFTER_THE_LAST_UPDATE[:: repetitions(8, 1)]:
        copy = copied(arena, nursery, place, request)
        with tally.faults() as survived:
            assert ended(copy, f"{point}=kill" if "@" in point else f"{point}@1=kill", tally) == undisturbed
            survived(1)


def collect_a_round(arena: Arena) -> None:
    """Leave a dead coordinator whose second round has all its updates and has not been closed."""
    arena.found()
    arena.play_round()
    arena.process.kill()
    arena.process.settings["worker_interval_seconds"] = None
    arena.process.start()
    for site in arena.sites:
        arena.submit(site, site.assignment()["round"])
    arena.process.kill()
    del arena.process.settings["worker_interval_seconds"]


def ended(copy: Arena, plan: str, tally: Tally) -> str:
    """Return the digest of the version that the collected round ends in, having died by `plan` on the way."""
    try:
        copy.plans.append(plan)
        copy.revive(copy.process.deaths)
        copy.play_round()
        assert copy.process.deaths == (1 if plan else 0), f"{plan} was never reached"
        return str(copy.coordinator.versions()[-3]["digest"])
    finally:
        audit(copy, tally)


def audit(copy: Arena, tally: Tally) -> None:
    url = copy.process.database_url or f"sqlite:///{copy.process.folder / 'coordinator.sqlite3'}"
    auditor = Auditor(url, copy.process.folder, copy.ledger)
    copy.close()
    auditor.check()
    auditor.enter_into(tally)


def copied(arena: Arena, nursery: Nursery, place: Place, request: pytest.FixtureRequest) -> Arena:
    """Return an arena on a copy of the dead coordinator's folder and database, with the same sites."""
    folder = place.folder.parent / f"copy-{next(_copies)}"
    shutil.copytree(place.folder, folder)
    url = None
    if place.database_url is not None:
        url = copied_database(place.database_url, request.getfixturevalue("postgres_url"))
    copy = Arena(CoordinatorProcess(nursery, Path(folder), url))
    copy.ledger.files.update(arena.ledger.files)
    copy.ledger.receipts.update(arena.ledger.receipts)
    copy.sites = [type(site)(**(vars(site) | {"http": copy.http})) for site in arena.sites]
    return copy


def copied_database(url: str, server_url: str) -> str:
    for _ in range(100):
        try:
            return create_database(server_url, str(make_url(url).database))
        except OperationalError:  # the dead process's connections are about to be noticed
            continue
    raise AssertionError("the database to copy stays in use")
