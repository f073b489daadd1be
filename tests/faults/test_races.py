"""Two coordinators go for the same round at the same time: one of them wins, whoever stumbles where (P2)."""

import random
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from signal import SIGCONT

import pytest
from tests.contracts.test_rounds import at_once
from tests.faults.arena import POLICY, Arena, Ledger
from tests.faults.checks import Auditor
from tests.faults.conftest import Place, repetitions
from tests.faults.tally import Tally
from tests.server.harness import check, running, settings_for

from pfedbayespt.server import logs
from pfedbayespt.server.blobs import FolderBlobStore
from pfedbayespt.server.context import Context
from pfedbayespt.server.database import Database
from pfedbayespt.server.failpoints import arm
from pfedbayespt.server.rounds import repository as rounds
from pfedbayespt.server.settings import Settings
from pfedbayespt.server.worker.driver import tick

STUMBLES = [
    "close.after_claim",
    "close.before_commit",
    "aggregate.after_plan",
    "aggregate.mid_file",
    "blob.after_fsync",
    "blob.after_rename",
    "aggregate.after_put",
    "publish.after_candidate",
    "publish.before_commit",
    "publish.after_commit",
    "promotion.after_retire",
    "round.before_commit",
]


@pytest.fixture
def often_switched() -> Iterator[None]:
    """Have threads take turns a hundred times as often as usual."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(usual / 100)
    yield
    sys.setswitchinterval(usual)
    arm("")


@contextmanager
def another_coordinator(settings: Settings) -> Iterator[Context]:
    """Yield what a further process on the same database and folder would work with."""
    logs.configure_unless_done()
    database = Database(settings.effective_database_url)
    yield Context(settings, database, FolderBlobStore(settings.data_dir))
    database.close()


@pytest.mark.timeout(900)
@pytest.mark.usefixtures("often_switched")
def test_two_coordinators_that_race_to_close_a_round_make_exactly_one_version(
    place: Place, tally: Tally
) -> None:
    settings = settings_for(place.folder, database_url=place.database_url)
    ledger, chance = Ledger(), random.Random(11)
    with (
        running(settings) as coordinator,
        another_coordinator(settings) as one,
        another_coordinator(settings) as other,
    ):
        coordinator.federation(**(POLICY | {"evaluate": False}))
        sites = coordinator.sites(3)
        coordinator.settle()
        auditor = Auditor(place.effective_database_url, place.folder, ledger)
        for _ in range(repetitions(5, 200)):
            round_ = coordinator.live_round()
            for site in sites:
                ledger.note(check(site.submit_file(round_["round_id"], ledger.file_of(site, round_)), 201))
            arm(f"{chance.choice(STUMBLES)}@{chance.choice('12')}=sleep:0.02")
            outcomes = at_once(2, partial(finish_one, (one, other), round_["round_id"]))
            assert not [outcome for outcome in outcomes if outcome is not None]
            made = auditor.rows("SELECT id FROM model_versions WHERE round_id = :id", id=round_["round_id"])
            assert len(made) == 1
            tally.races += 1
        auditor.check()
        auditor.enter_into(tally)


def finish_one(contexts: tuple[Context, ...], round_id: str, number: int) -> None:
    finish(contexts[number], round_id)


def finish(context: Context, round_id: str) -> None:
    """Do what is due until that round is over and the next one collects."""
    deadline = time.monotonic() + 60.0
    while is_live(context, round_id):
        assert time.monotonic() < deadline, f"round {round_id} does not end"
        tick(context)
    tick(context)


def is_live(context: Context, round_id: str) -> bool:
    with context.database.read() as tx:
        return round_id in rounds.all_live_ids(tx)


@pytest.mark.e2e
@pytest.mark.parametrize(
    ("point", "holds_the_lock"),
    [
        ("aggregate.after_put", False),
        pytest.param("aggregate.after_plan", False, marks=pytest.mark.thorough),
        pytest.param("aggregate.mid_file", False, marks=pytest.mark.thorough),
        pytest.param("blob.after_rename@4", False, marks=pytest.mark.thorough),
        pytest.param("publish.before_commit", True, marks=pytest.mark.thorough),
    ],
)
def test_an_owner_that_sleeps_through_anothers_work_changes_nothing_when_it_wakes(
    arena: Arena, auditor: Auditor, place: Place, tally: Tally, point: str, holds_the_lock: bool
) -> None:
    arena.found(evaluate=False)
    arena.play_round()
    arena.process.kill()
    arena.process.start(f"{point}=stop" if "@" in point else f"{point}@1=stop")
    round_ = arena.sites[0].assignment()["round"]
    settings = settings_for(place.folder, database_url=place.database_url)
    with tally.faults() as survived, another_coordinator(settings) as awake:
        submitting = threading.Thread(target=lambda: [arena.submit(site, round_) for site in arena.sites])
        submitting.start()
        await_stop(arena)
        taking_over = threading.Thread(target=finish, args=(awake, round_["round_id"]))
        taking_over.start()
        taking_over.join(0.5 if holds_the_lock else 60.0)
        assert taking_over.is_alive() == holds_the_lock
        arena.process.signal(SIGCONT)
        submitting.join()
        taking_over.join()
        arena.play_round()
        auditor.check()
        survived(1)
    assert "Traceback" not in arena.process.log.read_text()


def await_stop(arena: Arena) -> None:
    deadline = time.monotonic() + 30.0
    while not arena.process.is_stopped():
        assert time.monotonic() < deadline, f"it was never reached: {arena.process.tail()}"
        time.sleep(0.005)


@pytest.mark.e2e
@pytest.mark.thorough
@pytest.mark.parametrize("tally", ["postgresql"], indirect=True)  # an embedded database has one owner
def test_two_coordinators_on_one_database_are_killed_in_turn(
    arena: Arena, auditor: Auditor, tally: Tally
) -> None:
    arena.found(num_sites=4)
    second = Arena(
        type(arena.process)(arena.process.nursery, arena.process.folder, arena.process.database_url)
    )
    second.process.start()
    second.ledger, second.sites = (
        arena.ledger,
        [type(site)(**(vars(site) | {"http": second.http})) for site in arena.sites],
    )
    try:
        for number in range(20):
            with tally.faults() as survived:
                asked = threading.Thread(target=second.play_round)
                asked.start()
                (arena, second)[number % 2].process.signal(9)
                arena.play_round()
                asked.join()
                auditor.check()
                survived(1)
    finally:
        second.close()
