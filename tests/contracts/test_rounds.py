"""What a round promises, on both databases: exactly one version, from a recorded input set, whatever happens."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import pytest
from sqlalchemy import func, select, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.orm import Session
from tests.server.harness import Coordinator, SiteCaller, check, problem_of, running, specification

from pfedbayespt.protocol import SigningKey
from pfedbayespt.server.database import Transaction
from pfedbayespt.server.errors import LostRace, TransitionNotAllowed
from pfedbayespt.server.events import repository as event_log
from pfedbayespt.server.events import service as events
from pfedbayespt.server.events.service import first_broken
from pfedbayespt.server.federations import repository as federations
from pfedbayespt.server.model_versions.models import ModelVersionRecord
from pfedbayespt.server.rounds import progress, service
from pfedbayespt.server.rounds import repository as rounds
from pfedbayespt.server.rounds.models import RoundRecord
from pfedbayespt.server.rounds.progress import Aggregate
from pfedbayespt.server.settings import Settings
from pfedbayespt.server.worker import driver
from pfedbayespt.server.worker.aggregation import AggregationError

POLICY = {"num_rounds": 3, "min_sites_to_start": 2, "quorum": 2, "evaluate": False}


def at_once(count: int, work: Callable[[int], Any]) -> list[Any]:
    """Run `work` in that many threads that start together; return results, exceptions among them."""
    barrier = threading.Barrier(count)

    def run(number: int) -> Any:
        barrier.wait()
        try:
            return work(number)
        except Exception as error:  # noqa: BLE001  (the test looks at it)
            return error

    with ThreadPoolExecutor(count) as threads:
        return list(threads.map(run, range(count)))


def training_round(coordinator: Coordinator, num_sites: int = 2, **policy: Any) -> list[SiteCaller]:
    """Return the sites of a federation whose first training round collects."""
    coordinator.federation(**(POLICY | policy))
    sites = coordinator.sites(num_sites)
    coordinator.publish_statistics(sites)
    assert coordinator.live_round()["task"] == "training"
    return sites


def test_a_federation_runs_to_its_end(coordinator: Coordinator) -> None:
    sites = training_round(coordinator)
    for number in (2, 3, 4):
        for site in sites:
            site.train(0.5, num_examples=7)
        coordinator.settle()
        assert coordinator.parameters(number)["head.bias"] == pytest.approx(0.5 * (number - 1))
    assert {site.assignment()["action"] for site in sites} == {"finished"}


def test_two_workers_that_race_on_one_round_make_exactly_one_version(coordinator: Coordinator) -> None:
    sites = training_round(coordinator)
    for site in sites:
        site.train()
    round_id = coordinator.live_round()["round_id"]

    results = at_once(4, lambda _: driver.tick(coordinator.context))

    assert not [result for result in results if isinstance(result, Exception)]
    coordinator.settle()
    with coordinator.context.database.read() as tx:
        query = select(func.count()).where(ModelVersionRecord.round_id == round_id)
        assert tx.session.scalars(query).one() == 1
    events = [
        event["action"]
        for event in coordinator.admin.get("/v1/federations/alpha/events?limit=200")["items"]
        if event["subject"] == round_id
    ]
    assert events == ["round.started", "round.closed", "round.aggregated", "round.published"]


def test_the_loser_of_a_race_is_fenced_off_by_the_epoch(coordinator: Coordinator) -> None:
    sites = training_round(coordinator)
    for site in sites:
        site.train()
    round_id = close_round(coordinator)
    database = coordinator.context.database
    with database.read() as tx:
        plan = progress.plan(tx, found(rounds.by_id(tx, round_id)))
    coordinator.settle()
    digest = coordinator.versions()[0]["digest"]

    def complete_late() -> None:
        with database.write("worker") as tx:
            federations.lock_of_round(tx, round_id)
            progress.complete(tx, found(rounds.by_id(tx, round_id)), plan, Aggregate(digest, 1, None))

    with pytest.raises(LostRace):
        complete_late()

    assert len(coordinator.versions()) == 3


def test_a_stale_epoch_moves_nothing(coordinator: Coordinator) -> None:
    training_round(coordinator)
    round_id, database = coordinator.live_round()["round_id"], coordinator.context.database
    with database.read() as tx:
        stale = found(rounds.by_id(tx, round_id))
        tx.session.expunge_all()
    with database.write("admin") as tx:
        service.abandon(tx, found(rounds.by_id(tx, round_id)), "for the test")
    before = coordinator.dump()

    def abandon_late() -> None:
        with database.write("worker") as tx:
            tx.session.add(stale)
            service.abandon(tx, stale, "too late")

    with pytest.raises(LostRace):
        abandon_late()

    assert coordinator.dump() == before


def test_redoing_an_aggregation_after_a_crash_gives_the_same_digest(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(settings) as first:
        sites = training_round(first, num_sites=3)
        for site, value, count in zip(sites, (0.1, 0.7, -0.3), (3, 5, 100), strict=True):
            site.train(value, count)
        close_round(first)
        with monkeypatch.context() as patched:
            crashes = RuntimeError("the process dies after the file is kept, before it is recorded")
            patched.setattr(progress, "complete", raising(crashes))
            first.tick()
        orphan = computed_digest(first)
        assert first.live_round()["status"] == "aggregating"

    with running(settings) as second:
        assert second.live_round()["status"] == "aggregating"
        second.settle()
        version = second.versions()[0]
        assert version["digest"] == orphan
        assert [part["digest"] for part in version["inputs"]] == sorted(
            part["digest"] for part in version["inputs"]
        )
        assert sum(part["weight"] for part in version["inputs"]) == pytest.approx(1.0)
        assert {part["site_id"] for part in version["inputs"]} == {site.site_id for site in sites}


def test_weights_are_capped_at_three_times_the_median(coordinator: Coordinator) -> None:
    sites = training_round(coordinator, num_sites=3)
    for site, value, count in zip(sites, (0.0, 0.0, 1.0), (10, 10, 10**6), strict=True):
        site.train(value, count)
    coordinator.settle()
    # The third weighs 3 * 10 examples instead of a million: 30 of 50.
    assert coordinator.parameters(2)["head.bias"] == pytest.approx(0.6)


def test_an_update_that_lands_while_the_round_closes_is_either_in_it_or_refused(
    coordinator: Coordinator,
) -> None:
    sites = training_round(coordinator, num_sites=8)
    round_ = coordinator.live_round()
    for site in sites[:2]:
        site.train()
    files = [site.update(round_, 1.0, 10) for site in sites]

    def work(number: int) -> Any:
        if number == 7:
            return coordinator.admin.request("POST", f"/v1/rounds/{round_['round_id']}/close")
        return sites[number].submit_file(round_["round_id"], files[number])

    answers = at_once(8, work)

    assert {answer.status_code for answer in answers[2:7]} <= {201, 409}
    assert answers[7].status_code == 200
    coordinator.settle()
    acknowledged = {sites[number].site_id for number in range(7) if answers[number].status_code in {200, 201}}
    assert {part["site_id"] for part in coordinator.versions()[0]["inputs"]} == acknowledged


def test_the_same_update_sent_many_times_at_once_is_taken_once(coordinator: Coordinator) -> None:
    sites = training_round(coordinator)
    round_ = coordinator.live_round()
    content = sites[0].update(round_, 1.0, 10)

    answers = at_once(6, lambda _: sites[0].submit_file(round_["round_id"], content))

    assert sorted(answer.status_code for answer in answers) == [200] * 5 + [201]
    assert len({answer.text for answer in answers}) == 1


def test_different_updates_of_one_site_at_once_leave_one_winner(coordinator: Coordinator) -> None:
    sites = training_round(coordinator)
    round_ = coordinator.live_round()
    files = [sites[0].update(round_, float(number + 1), 10) for number in range(5)]

    answers = at_once(5, lambda number: sites[0].submit_file(round_["round_id"], files[number]))

    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 4
    assert {problem_of(answer) for answer in answers if answer.status_code == 409} == {"update_conflict"}


def test_many_starts_at_once_make_one_round(coordinator: Coordinator) -> None:
    coordinator.federation(min_sites_to_start=2, quorum=2)
    coordinator.sites(2)
    answers = at_once(5, lambda _: coordinator.admin.request("POST", "/v1/federations/alpha/rounds"))
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 4


def test_a_second_live_round_is_impossible_even_without_the_lock(coordinator: Coordinator) -> None:
    """The partial unique index holds where the lock is forgotten."""
    training_round(coordinator)

    def start_another() -> None:
        with coordinator.context.database.write("worker") as tx:
            live = live_round(tx)
            other = RoundRecord(
                id="rnd_other",
                federation_id=live.federation_id,
                number=live.number + 1,
                task=live.task,
                status=live.status,
                base_version_id=live.base_version_id,
                quorum=1,
                target_updates=1,
                started_at=tx.now,
                deadline_at=tx.now,
            )
            service._insert(tx, other)

    with pytest.raises(LostRace):
        start_another()


def test_an_enrolment_token_used_by_many_at_once_admits_one(coordinator: Coordinator) -> None:
    coordinator.federation()
    token = coordinator.token("alpha")
    bodies = [coordinator.enrolment(token, f"site-{number}", SigningKey.generate()) for number in range(5)]
    answers = at_once(
        5, lambda number: coordinator.anonymous().request("POST", "/v1/sites", json=bodies[number])
    )
    assert sorted(answer.status_code for answer in answers) == [201] + [403] * 4


def test_a_damaged_update_is_discarded_and_the_round_goes_on_with_a_quorum(coordinator: Coordinator) -> None:
    sites = training_round(coordinator, num_sites=3)
    receipts = [site.train(value) for site, value in zip(sites, (1.0, 2.0, 3.0), strict=True)]
    close_round(coordinator)
    damage(coordinator, receipts[2]["digest"])

    coordinator.settle()

    assert coordinator.parameters(2)["head.bias"] == pytest.approx(1.5)
    damaged = coordinator.admin.get(f"/v1/updates/{receipts[2]['update_id']}")
    assert damaged["status"] == "discarded"
    assert damaged["verdict"].startswith("file_damaged")


def test_a_round_that_loses_its_quorum_to_damage_is_abandoned(coordinator: Coordinator) -> None:
    sites = training_round(coordinator)
    receipts = [site.train() for site in sites]
    round_id = close_round(coordinator)
    coordinator.context.blobs.delete(receipts[0]["digest"])

    coordinator.tick()

    round_ = coordinator.admin.get(f"/v1/rounds/{round_id}")
    assert round_["status"] == "abandoned"
    assert "quorum lost" in round_["abandoned_reason"]


def test_a_round_that_cannot_be_aggregated_ends_at_its_deadline(coordinator: Coordinator) -> None:
    sites = training_round(coordinator)
    for site in sites:
        site.train()
    round_id = close_round(coordinator)
    coordinator.context.blobs.delete(coordinator.versions()[0]["digest"])
    coordinator.tick()
    assert coordinator.admin.get(f"/v1/rounds/{round_id}")["status"] == "aggregating"

    coordinator.clock.move(coordinator.context.settings.aggregation_deadline_seconds + 1)
    coordinator.tick()

    assert coordinator.admin.get(f"/v1/rounds/{round_id}")["status"] == "abandoned"


def test_deadlines_follow_the_databases_clock(coordinator: Coordinator) -> None:
    sites = training_round(coordinator, deadline_seconds=60.0)
    round_ = coordinator.live_round()
    coordinator.clock.move(61)
    late = sites[0].submit_file(round_["round_id"], sites[0].update(round_, 1.0, 10))
    assert problem_of(late) == "round_closed"


def test_a_round_whose_numbers_cannot_be_a_version_is_abandoned_at_once(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    sites = training_round(coordinator)
    for site in sites:
        site.train()
    round_id = close_round(coordinator)
    monkeypatch.setattr(driver, "aggregate", raising(AggregationError("tensor 'x' outgrows float32")))

    coordinator.tick()

    round_ = coordinator.admin.get(f"/v1/rounds/{round_id}")
    assert round_["abandoned_reason"] == "aggregation failed: tensor 'x' outgrows float32"


def test_a_crash_at_any_write_of_the_worker_is_made_good_by_the_next_tick(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every transaction from closing to publishing fails once at each of its events, and nothing of it remains."""
    sites = training_round(coordinator)
    for site in sites:
        site.train(0.25)
    expected = published_elsewhere(coordinator)
    record, countdown, crashes = events.record, [0], 0

    def record_or_crash(*arguments: Any, **details: Any) -> None:
        record(*arguments, **details)
        countdown[0] -= 1
        if countdown[0] == 0:
            raise RuntimeError("the process dies here")

    monkeypatch.setattr(events, "record", record_or_crash)
    step = 1
    while len(coordinator.versions()) < 3:
        countdown[0] = step
        before = coordinator.dump()
        coordinator.tick()
        if countdown[0] > 0:
            step = 1  # that transaction is through; on to the next one's first write
            continue
        step, crashes = step + 1, crashes + 1
        assert coordinator.dump() == before
    monkeypatch.undo()

    assert crashes == 1 + 7  # closed; created, two updates, aggregated, published, retired, promoted
    assert coordinator.versions()[0]["digest"] == expected
    assert coordinator.versions()[0]["status"] == "serving"


def test_names_taken_at_once_are_given_once(coordinator: Coordinator) -> None:
    body = {"name": "alpha", "specification": specification().model_dump(mode="json")}
    answers = at_once(5, lambda _: coordinator.admin.request("POST", "/v1/federations", json=body))
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 4


def test_connections_that_were_cut_are_replaced(coordinator: Coordinator) -> None:
    database = coordinator.context.database
    if database.is_sqlite:
        database.engine.dispose()
    else:
        with database.read() as tx:
            others = "pid <> pg_backend_pid() AND datname = current_database()"
            tx.session.execute(text(f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}"))
    at_once(4, lambda _: coordinator.admin.get("/v1/federations"))
    assert coordinator.admin.get("/v1/federations")["items"] == []


def test_the_event_chain_is_whole_and_an_edit_breaks_it(coordinator: Coordinator) -> None:
    training_round(coordinator)
    with coordinator.context.database.read() as tx:
        events = event_log.of_federation(tx, live_round(tx).federation_id)
        assert len(events) > 10
        assert first_broken(events) is None
        events[4].actor = "somebody-else"
        assert first_broken(events) == events[4].id
        tx.session.rollback()


@pytest.mark.parametrize("statement", ["UPDATE events SET actor = 'x'", "DELETE FROM events"])
def test_the_database_refuses_to_change_events(coordinator: Coordinator, statement: str) -> None:
    coordinator.draft()
    with (
        pytest.raises(DBAPIError, match="append-only"),
        coordinator.context.database.write("admin") as tx,
    ):
        tx.session.execute(text(statement))


def test_closing_without_a_quorum_is_refused(coordinator: Coordinator) -> None:
    sites = training_round(coordinator)
    sites[0].train()
    round_id = coordinator.live_round()["round_id"]
    with (
        pytest.raises(TransitionNotAllowed, match="its quorum is 2"),
        coordinator.context.database.write("admin") as tx,
    ):
        progress.close(tx, found(rounds.by_id(tx, round_id)), timedelta(seconds=1))


def published_elsewhere(coordinator: Coordinator) -> str:
    """Return the digest that the live round's version must have, computed and rolled back."""
    with coordinator.context.database.engine.connect() as connection:
        connection.begin()
        session = Session(connection)
        tx = Transaction(session, coordinator.clock(session), "worker")
        round_ = live_round(tx)
        progress.close(tx, round_, timedelta(hours=1))
        plan = progress.plan(tx, round_)
        session.close()
    return driver._write_aggregate(coordinator.context, plan).digest


def close_round(coordinator: Coordinator) -> str:
    round_id = coordinator.live_round()["round_id"]
    check(coordinator.admin.request("POST", f"/v1/rounds/{round_id}/close"), 200)
    return str(round_id)


def computed_digest(coordinator: Coordinator) -> str:
    """Return the digest of the aggregate, computed anew from the recorded inputs."""
    with coordinator.context.database.read() as tx:
        plan = progress.plan(tx, found(rounds.by_id(tx, coordinator.live_round()["round_id"])))
    return driver._write_aggregate(coordinator.context, plan).digest


def damage(coordinator: Coordinator, digest: str) -> None:
    digits = digest.removeprefix("sha256:")
    path = coordinator.context.settings.data_dir / "blobs" / "sha256" / digits[:2] / digits
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def live_round(tx: Transaction) -> Any:
    (round_id,) = rounds.all_live_ids(tx)
    return found(rounds.by_id(tx, round_id))


def found(record: Any) -> Any:
    assert record is not None
    return record


def raising(error: Exception) -> Callable[..., None]:
    def raise_it(*_: Any, **__: Any) -> None:
        raise error

    return raise_it
