"""Several workers on one database: one aggregates, another takes over when its lease has expired."""

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from tests.contracts.test_rounds import at_once, close_round, raising, training_round
from tests.server.harness import Coordinator, running

from pfedbayespt.server.context import Context
from pfedbayespt.server.errors import LostRace
from pfedbayespt.server.rounds import leases, progress
from pfedbayespt.server.settings import Settings
from pfedbayespt.server.worker import driver
from pfedbayespt.server.worker.tenure import Tenure


def workers(coordinator: Coordinator, count: int) -> list[Context]:
    """Return the contexts of that many processes on the coordinator's database."""
    return [replace(coordinator.context, worker_id=f"process-{number}") for number in range(count)]


def closed_round(coordinator: Coordinator) -> str:
    for site in training_round(coordinator):
        site.train()
    return close_round(coordinator)


@pytest.fixture
def coordinator(settings: Settings) -> Iterator[Coordinator]:
    """A coordinator whose leases outlast the slowest test machine."""
    with running(settings.model_copy(update={"aggregation_lease_seconds": 600.0})) as coordinator:
        yield coordinator


@pytest.fixture
def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The workers `process-...` that computed an aggregate, in order."""
    names: list[str] = []
    write = driver._write_aggregate

    def counted(context: Context, *arguments: Any) -> Any:
        if context.worker_id.startswith("process-"):
            names.append(context.worker_id)
        return write(context, *arguments)

    monkeypatch.setattr(driver, "_write_aggregate", counted)
    return names


def test_of_many_workers_that_race_one_aggregates(coordinator: Coordinator, computed: list[str]) -> None:
    closed_round(coordinator)
    processes = workers(coordinator, 4)
    results = at_once(4, lambda number: driver.tick(processes[number]))
    assert not [result for result in results if isinstance(result, Exception)]
    assert len(computed) == 1
    assert len(coordinator.versions()) == 3


def test_a_worker_that_died_is_replaced_when_its_lease_has_expired(
    coordinator: Coordinator, computed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    round_id = closed_round(coordinator)
    dead, other = workers(coordinator, 2)
    with monkeypatch.context() as patched:
        patched.setattr(
            driver, "_aggregate", lambda *_: None
        )  # it takes the lease, and is never heard of again
        driver.tick(dead)
    assert driver.tick(other) is False
    coordinator.clock.move(coordinator.context.settings.aggregation_lease_seconds + 0.1)
    driver.tick(other)
    assert computed == ["process-1"]
    assert coordinator.admin.get(f"/v1/rounds/{round_id}")["result_version"] == 2


def test_a_worker_that_sleeps_past_its_lease_changes_nothing_when_it_wakes(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    closed_round(coordinator)
    sleeper, other = workers(coordinator, 2)
    wakes: list[str] = []
    aggregate = driver._aggregate

    def sleep_before_the_transaction(context: Context, plan: Any, tenure: Tenure) -> None:
        monkeypatch.setattr(driver, "_aggregate", aggregate)
        result = driver._write_aggregate(context, plan)
        coordinator.clock.move(601.0)
        driver.tick(other)
        with pytest.raises(LostRace), context.database.write("worker") as tx:
            progress.complete(tx, driver._locked(tx, plan.round_id), plan, result)
        wakes.append(context.worker_id)

    monkeypatch.setattr(driver, "_aggregate", sleep_before_the_transaction)
    driver.tick(sleeper)
    assert wakes == ["process-0"]
    assert len(coordinator.versions()) == 3


def test_a_lease_is_kept_by_working_and_lost_by_silence(coordinator: Coordinator) -> None:
    round_id = closed_round(coordinator)
    mine, other = workers(coordinator, 2)
    now = [0.0]
    database, seconds = coordinator.context.database, coordinator.context.settings.aggregation_lease_seconds

    def taken(context: Context) -> bool:
        with database.write("worker") as tx:
            return leases.hold(tx, round_id, context.worker_id, timedelta(seconds=seconds))

    assert taken(mine)
    tenure = Tenure(mine, round_id, "worker", clock=lambda: now[0])
    for _ in range(5):
        now[0] += seconds / 2
        coordinator.clock.move(seconds / 2)
        tenure.keep()
        assert not taken(other)
    coordinator.clock.move(seconds)
    assert taken(other)
    now[0] += seconds
    with pytest.raises(LostRace, match="another worker"):
        tenure.keep()


def test_a_worker_that_fails_lets_the_next_one_try_at_once(
    coordinator: Coordinator, computed: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    closed_round(coordinator)
    failing, other = workers(coordinator, 2)
    with monkeypatch.context() as patched:
        patched.setattr(progress, "complete", raising(RuntimeError("its disk is full")))
        driver.tick(failing)
    driver.tick(other)
    assert computed == ["process-0", "process-1"]
