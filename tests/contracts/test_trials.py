"""Trials where several processes see them: sums add up whoever adds, and everybody chooses alike."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import replace

import pytest
from tests.server.harness import Coordinator, running
from tests.server.test_trials import SERVING, TRIALS, TRIED, TwoMinds, actions, ask, read, start

from pfedbayespt.server.database import Database
from pfedbayespt.server.settings import Settings
from pfedbayespt.server.trials.tallies import Tallies, Tally
from pfedbayespt.server.trials.writing import TallyWriter

NUM_PROCESSES, NUM_TIMES = 4, 6


@pytest.fixture
def trying(coordinator: Coordinator) -> Coordinator:
    """A coordinator whose version 1 serves, and version 0 did before."""
    answer_with_two_minds(coordinator)
    coordinator.federation(min_sites_to_start=1, quorum=1, num_rounds=1)
    coordinator.publish_statistics(coordinator.sites(1))
    return coordinator


def answer_with_two_minds(coordinator: Coordinator) -> None:
    state = coordinator.http.app.state
    state.predictions = replace(state.predictions, predictor=TwoMinds())


@pytest.fixture
def databases(settings: Settings) -> Iterator[list[Database]]:
    """As many processes have: each its own connections to the same database."""
    with ExitStack() as stack:
        opened = [Database(settings.effective_database_url) for _ in range(NUM_PROCESSES)]
        for database in opened:
            stack.callback(database.close)
        yield opened


def add_from_each(databases: list[Database], trial_id: str, seen: Tally) -> None:
    """Have every process write down the same, over and over, all at once."""

    def write(database: Database) -> None:
        tallies = Tallies()
        writer = TallyWriter(database, tallies, 1.0)
        for _ in range(NUM_TIMES):
            tallies.note(trial_id, seen)
            writer.write()
        assert not tallies.take()

    with ThreadPoolExecutor(len(databases)) as pool:
        list(pool.map(write, databases))


def test_what_processes_write_down_at_once_adds_up(trying: Coordinator, databases: list[Database]) -> None:
    trial_id = start(trying)
    add_from_each(databases, trial_id, Tally(num_tried=2, num_compared=1, sum_distance=0.125))
    tally = trying.admin.get(f"{TRIALS}/{trial_id}")["tally"]
    assert (tally["num_tried"], tally["num_compared"]) == (2 * 24, 24)
    assert tally["mean_distance"] == 0.125


def test_a_trial_ends_once_whoever_trips_it(trying: Coordinator, databases: list[Database]) -> None:
    trial_id = start(trying, min_requests=10)
    add_from_each(databases, trial_id, Tally(num_compared=1, num_flips=1))
    trial = trying.admin.get(f"{TRIALS}/{trial_id}")
    assert (trial["status"], trial["tally"]["num_flips"]) == ("tripped", 10)
    assert actions(trying).count("trial.tripped") == 1


@pytest.mark.parametrize("settings", ["postgresql"], indirect=True)
def test_two_processes_choose_alike_and_both_stop(trying: Coordinator, settings: Settings) -> None:
    trial_id = start(trying, answer_share=0.5, compare_share=0.0)
    keys = [f"patient-{number}" for number in range(20)]
    with running(settings) as other:
        answer_with_two_minds(other)
        chosen = [{key: ask(one, key=key)["model_version"] for key in keys} for one in (trying, other)]
        assert chosen[0] == chosen[1]
        assert set(chosen[0].values()) == {SERVING, TRIED}
        num_answered = 2 * list(chosen[0].values()).count(TRIED)
        read(trying, trial_id)
        assert read(other, trial_id)["tally"]["num_answered"] == num_answered
        trying.admin.post(f"{TRIALS}/{trial_id}/stop")
        assert {ask(one, key=key)["model_version"] for one in (trying, other) for key in keys} == {SERVING}
