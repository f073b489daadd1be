"""Updates that come after their round: counted where the members agreed, once, and weighed by their staleness."""

from collections.abc import Sequence
from typing import Any

import pytest
from sqlalchemy.exc import IntegrityError
from tests.contracts.test_rounds import POLICY, at_once, close_round, computed_digest, raising, training_round
from tests.server.harness import Coordinator, SiteCaller, check, problem_of, running

from pfedbayespt.protocol import UpdateStatus
from pfedbayespt.server.rounds import progress
from pfedbayespt.server.settings import Settings
from pfedbayespt.server.updates.models import UpdateRecord

NEXT = {"num_rounds": 6, "late_policy": "next_round"}


on_one_database = pytest.mark.parametrize("settings", ["sqlite"], indirect=True)
"""For rules that no row or query of its own decides."""


def asynchronous(**mode: Any) -> dict[str, Any]:
    choices = {"buffer_size": 2, "max_staleness": 10, "staleness_weight": 0.5} | mode
    return {"num_rounds": 30, "late_policy": "buffer", "asynchronous": choices}


def prepared(site: SiteCaller, value: float = 1.0, num_examples: int = 10) -> tuple[str, bytes]:
    """Return the round that the site is asked in now, and its update for it, not yet submitted."""
    assignment = site.assignment()
    assert assignment["action"] == "train", assignment
    round_ = assignment["round"]
    return round_["round_id"], site.update(round_, value, num_examples)


def run_round(coordinator: Coordinator, sites: Sequence[SiteCaller], value: float = 0.0) -> dict[str, Any]:
    """Let these sites train and the round close; return its version."""
    for site in sites:
        site.train(value)
    close = coordinator.live_round()
    if close["status"] == "collecting" and close["updates_accepted"] < len(close["cohort"]):
        coordinator.admin.request("POST", f"/v1/rounds/{close['round_id']}/close")
    coordinator.settle()
    return dict(coordinator.versions()[0])


def update_of(coordinator: Coordinator, receipt: dict[str, Any]) -> dict[str, Any]:
    return dict(coordinator.admin.get(f"/v1/updates/{receipt['update_id']}"))


# next_round


def test_a_late_update_counts_in_the_next_round_once(coordinator: Coordinator) -> None:
    *quick, slow = training_round(coordinator, num_sites=3, **NEXT)
    late = prepared(slow, value=3.0)
    run_round(coordinator, quick, value=1.0)
    following = coordinator.live_round()

    receipt = check(slow.submit_file(*late), 201)

    assert (receipt["round_id"], receipt["staleness"]) == (late[0], 1)
    update = update_of(coordinator, receipt)
    assert (update["round_id"], update["manifest"]["round_id"]) == (following["round_id"], late[0])
    assert slow.assignment()["action"] == "wait"
    run_round(coordinator, quick, value=0.0)
    assert coordinator.parameters(3)["head.bias"] == pytest.approx(1.0 + 3.0 / 3)
    assert update_of(coordinator, receipt)["status"] == "aggregated"
    # Asked anew in the round after that, and not counted again.
    assert slow.assignment()["action"] == "train"
    before = coordinator.dump()
    assert check(slow.submit_file(*late), 200) == receipt
    assert coordinator.dump() == before


@on_one_database
def test_a_late_update_comes_again_while_no_round_is_open(coordinator: Coordinator) -> None:
    *quick, slow = training_round(coordinator, num_sites=3, **NEXT)
    late = prepared(slow)
    for site in quick:
        site.train()
    close_round(coordinator)
    before = coordinator.dump()
    assert problem_of(slow.submit_file(*late)) == "no_open_round"
    assert coordinator.dump() == before
    coordinator.settle()
    check(slow.submit_file(*late), 201)


@on_one_database
def test_past_its_deadline_a_round_takes_nothing_even_before_the_worker_comes(
    coordinator: Coordinator,
) -> None:
    *quick, slow = training_round(coordinator, num_sites=3, deadline_seconds=60.0, **NEXT)
    late = prepared(slow)
    for site in quick:
        site.train()
    coordinator.clock.move(61)
    assert problem_of(slow.submit_file(*late)) == "no_open_round"
    coordinator.settle()
    assert check(slow.submit_file(*late), 201)["staleness"] == 1


@on_one_database
def test_two_rounds_late_is_too_late(coordinator: Coordinator) -> None:
    *quick, slow = training_round(coordinator, num_sites=3, **NEXT)
    late = prepared(slow)
    run_round(coordinator, quick)
    run_round(coordinator, quick)
    before = coordinator.dump()
    assert problem_of(slow.submit_file(*late)) == "round_closed"
    assert coordinator.dump() == before
    assert slow.assignment()["action"] == "train"


@on_one_database
def test_after_an_abandoned_round_the_work_for_it_counts_in_the_next(coordinator: Coordinator) -> None:
    *_, slow = training_round(coordinator, num_sites=3, **NEXT)
    late = prepared(slow)
    coordinator.admin.post(f"/v1/rounds/{late[0]}/abandon")
    coordinator.settle()
    assert check(slow.submit_file(*late), 201)["staleness"] == 0


@on_one_database
def test_a_site_that_trained_for_the_next_round_has_no_room_for_a_late_update(
    coordinator: Coordinator,
) -> None:
    *quick, slow = training_round(coordinator, num_sites=3, **NEXT)
    late = prepared(slow)
    run_round(coordinator, quick)
    slow.train(0.25)
    assert problem_of(slow.submit_file(*late)) == "update_conflict"


@on_one_database
def test_under_drop_a_late_update_is_refused(coordinator: Coordinator) -> None:
    *quick, slow = training_round(coordinator, num_sites=3)
    late = prepared(slow)
    run_round(coordinator, quick)
    before = coordinator.dump()
    assert problem_of(slow.submit_file(*late)) == "round_closed"
    assert coordinator.dump() == before


@on_one_database
@pytest.mark.parametrize("policy", [NEXT, asynchronous()], ids=["next_round", "buffer"])
def test_statistics_are_never_late(coordinator: Coordinator, policy: dict[str, Any]) -> None:
    coordinator.federation(**(POLICY | policy))
    *quick, slow = coordinator.sites(3)
    coordinator.settle()
    late = prepared(slow)
    for site in quick:
        site.train()
    close_round(coordinator)
    coordinator.settle()
    assert coordinator.live_round()["task"] == "training"
    assert problem_of(slow.submit_file(*late)) == "round_closed"


@on_one_database
def test_after_the_last_round_nothing_is_late_any_more(coordinator: Coordinator) -> None:
    *quick, slow = training_round(coordinator, num_sites=3, **(NEXT | {"num_rounds": 1}))
    late = prepared(slow)
    run_round(coordinator, quick)
    assert slow.assignment()["action"] == "finished"
    assert problem_of(slow.submit_file(*late)) == "round_closed"


# Asynchronous mode


@on_one_database
def test_a_round_closes_when_its_buffer_is_full_and_the_next_opens_at_once(coordinator: Coordinator) -> None:
    sites = training_round(coordinator, num_sites=4, **asynchronous())
    sites[0].train()
    coordinator.settle()
    assert coordinator.live_round()["round_number"] == 2
    assert sites[0].assignment()["action"] == "wait"
    sites[1].train()
    coordinator.settle()
    assert (coordinator.live_round()["round_number"], coordinator.live_round()["base_version"]) == (3, 2)
    assert {site.assignment()["action"] for site in sites} == {"train"}


def test_a_stale_update_is_weighed_down(coordinator: Coordinator) -> None:
    sites = training_round(coordinator, num_sites=3, **asynchronous(staleness_weight=1.0))
    late = prepared(sites[2], value=8.0)
    for _ in range(3):
        run_round(coordinator, sites[:2])
    receipt = check(sites[2].submit_file(*late), 201)
    assert receipt["staleness"] == 3
    sites[0].train(1.0)
    coordinator.settle()
    inputs = coordinator.versions()[0]["inputs"]
    assert {part["site_id"]: part["weight"] for part in inputs} == {
        sites[0].site_id: 0.5,
        sites[2].site_id: 0.5 / 4,
    }
    assert coordinator.parameters(5)["head.bias"] == pytest.approx(0.5 * 1.0 + 0.125 * 8.0)


def test_an_update_staler_than_allowed_is_refused_and_the_site_asked_anew(coordinator: Coordinator) -> None:
    *quick, slow, slower = training_round(coordinator, num_sites=4, **asynchronous(max_staleness=1))
    on_the_edge, too_old = prepared(slow), prepared(slower)
    run_round(coordinator, quick)
    check(slow.submit_file(*on_the_edge), 201)
    run_round(coordinator, quick[:1])
    before = coordinator.dump()
    answer = slower.submit_file(*too_old)
    assert problem_of(answer) == "update_too_stale"
    assert "version 1, which is more than 1 versions behind version 3" in answer.json()["detail"]
    assert coordinator.dump() == before
    assert slower.assignment()["action"] == "train"


@on_one_database
def test_nothing_is_built_on_a_version_that_was_rolled_back(coordinator: Coordinator) -> None:
    sites = training_round(coordinator, num_sites=3, **asynchronous())
    run_round(coordinator, sites[:2])
    late = prepared(sites[2])
    coordinator.admin.post("/v1/federations/alpha/model-versions/1/promote")
    coordinator.settle()
    assert coordinator.live_round()["base_version"] == 1
    assert problem_of(sites[2].submit_file(*late)) == "update_too_stale"


@on_one_database
def test_staleness_counts_ancestors_and_not_candidates_that_were_held(coordinator: Coordinator) -> None:
    gate = {"evaluate": True, "max_accuracy_drop": 0.1}
    sites = training_round(coordinator, num_sites=3, **(asynchronous() | gate))
    late = prepared(sites[2])
    for accuracy in (0.9, 0.1, 0.1):
        run_round(coordinator, sites[:2])
        for site in sites[:2]:
            site.evaluate(accuracy)
        coordinator.settle()
    assert [version["status"] for version in coordinator.versions()[:3]] == ["held", "held", "serving"]
    assert check(sites[2].submit_file(*late), 201)["staleness"] == 1


def test_only_the_sites_behind_a_candidate_are_asked_to_evaluate_it(coordinator: Coordinator) -> None:
    sites = training_round(coordinator, num_sites=3, **(asynchronous() | {"evaluate": True}))
    run_round(coordinator, sites[:2])
    assert [site.assignment()["action"] for site in sites] == ["evaluate", "evaluate", "wait"]
    for site in sites[:2]:
        site.evaluate(0.5)
    coordinator.settle()
    assert coordinator.live_round()["status"] == "collecting"


def test_the_same_late_update_many_times_at_once_is_taken_once(coordinator: Coordinator) -> None:
    sites = training_round(coordinator, num_sites=3, **asynchronous(buffer_size=3))
    late = prepared(sites[2])
    run_round(coordinator, sites[:2])
    answers = at_once(6, lambda _: sites[2].submit_file(*late))
    assert sorted(answer.status_code for answer in answers) == [200] * 5 + [201]
    assert len({answer.text for answer in answers}) == 1


def test_a_late_and_a_timely_update_of_one_site_at_once_leave_one(coordinator: Coordinator) -> None:
    sites = training_round(coordinator, num_sites=3, **asynchronous(buffer_size=3))
    late = prepared(sites[2])
    run_round(coordinator, sites[:2])
    files = [late, prepared(sites[2], 2.0)]
    answers = at_once(2, lambda number: sites[2].submit_file(*files[number]))
    assert sorted(answer.status_code for answer in answers) == [201, 409]
    with coordinator.context.database.read() as tx:
        waiting = tx.session.query(UpdateRecord).filter_by(status=UpdateStatus.ACCEPTED).count()
    assert waiting == 1


@pytest.mark.parametrize("where", ["round_id", "origin_round_id"])
def test_a_second_update_is_impossible_even_without_the_lock(coordinator: Coordinator, where: str) -> None:
    """In a round, and for a round: the partial unique indexes hold where the lock is forgotten."""
    sites = training_round(coordinator, num_sites=3, **asynchronous())
    receipt = sites[0].train()
    run_round(coordinator, sites[1:2])
    free = "origin_round_id" if where == "round_id" else "round_id"

    def insert_another() -> None:
        with coordinator.context.database.write("test") as tx:
            there = tx.session.get_one(UpdateRecord, receipt["update_id"])
            columns = {column.name: getattr(there, column.name) for column in UpdateRecord.__table__.columns}
            tx.session.add(
                UpdateRecord(**(columns | {"id": "upd_other", free: coordinator.live_round()["round_id"]}))
            )

    with pytest.raises(IntegrityError, match=where):
        insert_another()


def test_a_round_with_stale_inputs_is_redone_to_the_same_digest(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(settings) as first:
        sites = training_round(first, num_sites=3, **asynchronous())
        late = prepared(sites[2], 0.7)
        run_round(first, sites[:2], 0.3)
        check(sites[2].submit_file(*late), 201)
        sites[0].train(0.1)
        with monkeypatch.context() as patched:
            patched.setattr(progress, "complete", raising(RuntimeError("the process dies here")))
            first.tick()
        computed = computed_digest(first)
    with running(settings) as second:
        second.settle()
        assert second.versions()[0]["digest"] == computed


def test_a_federation_with_one_site_ten_times_slower_keeps_publishing_and_uses_its_work(
    coordinator: Coordinator,
) -> None:
    """Every turn each site works for one unit of time; a quick site's training takes one, the slow one's ten."""
    *quick, slow = training_round(coordinator, num_sites=3, **asynchronous(max_staleness=20))
    working: dict[str, tuple[int, str, bytes]] = {}
    receipts = []
    for turn in range(23):
        for site in (*quick, slow):
            duration = 10 if site is slow else 1
            if site.site_id not in working and site.assignment()["action"] == "train":
                working[site.site_id] = (turn + duration, *prepared(site, 0.01))
            if site.site_id in working and working[site.site_id][0] <= turn:
                _, round_id, content = working.pop(site.site_id)
                receipt = check(site.submit_file(round_id, content), 201)
                receipts += [receipt] if site is slow else []
        coordinator.settle()

    versions = coordinator.versions()
    assert len(versions) > 10  # one every other turn, while the slow site needs ten turns for one update
    assert len(receipts) == 2
    assert min(receipt["staleness"] for receipt in receipts) >= 4
    weights = {part["update_id"]: part["weight"] for version in versions for part in version["inputs"]}
    assert update_of(coordinator, receipts[0])["status"] == "aggregated"
    assert 0 < weights[receipts[0]["update_id"]] < 0.5 / 2
