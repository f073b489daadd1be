"""Every live state ends by itself, whoever has gone: all sites, the admin, or half of the federation."""

from datetime import timedelta
from typing import Any

import pytest
from tests.server.harness import Coordinator, check, problem_of
from tests.server.test_rounds import POLICY, rounds, start

from pfedbayespt.protocol import RoundStatus
from pfedbayespt.server.model_versions import repository as versions
from pfedbayespt.server.rounds.models import RoundRecord
from pfedbayespt.server.rounds.repository import idle_federation_ids

BUFFER = {"late_policy": "buffer", "asynchronous": {"buffer_size": 3}}


def revoke(coordinator: Coordinator, sites: list[Any]) -> None:
    for site in sites:
        coordinator.admin.post(f"/v1/sites/{site.site_id}/revoke")


@pytest.mark.parametrize("mode", [{}, BUFFER], ids=["synchronous", "asynchronous"])
def test_a_round_whose_sites_have_all_gone_ends_at_its_deadline(
    coordinator: Coordinator, mode: dict[str, Any]
) -> None:
    sites = start(coordinator, **mode)
    sites[0].train()
    revoke(coordinator, sites)
    coordinator.settle()
    coordinator.clock.move(101)
    coordinator.settle()
    latest = rounds(coordinator)[0]
    assert (latest["status"], latest["abandoned_reason"]) == (
        "abandoned",
        "quorum missed: 0 of 2 updates before the deadline",
    )


@pytest.mark.parametrize("mode", [{}, BUFFER], ids=["synchronous", "asynchronous"])
def test_an_evaluation_whose_sites_have_all_gone_is_over_at_once(
    coordinator: Coordinator, mode: dict[str, Any]
) -> None:
    sites = start(coordinator, **mode)
    for site in sites:
        site.train()
    coordinator.settle()
    assert coordinator.live_round()["status"] == "evaluating"
    revoke(coordinator, sites)
    coordinator.settle()
    assert rounds(coordinator)[0]["status"] == "published"


def test_a_paused_federation_does_not_keep_its_live_round_waiting(coordinator: Coordinator) -> None:
    start(coordinator)
    coordinator.admin.post("/v1/federations/alpha/pause")
    coordinator.clock.move(101)
    coordinator.settle()
    assert [round_["status"] for round_ in rounds(coordinator)] == ["abandoned", "published"]


@pytest.mark.parametrize(("num_in", "ending"), [(2, "published"), (1, "abandoned")])
def test_a_buffer_that_does_not_fill_ends_at_its_deadline(
    coordinator: Coordinator, num_in: int, ending: str
) -> None:
    sites = start(coordinator, num_sites=4, evaluate=False, **BUFFER)
    for site in sites[:num_in]:
        site.train()
    coordinator.settle()
    assert coordinator.live_round()["status"] == "collecting"
    coordinator.clock.move(101)
    coordinator.settle()
    latest, ended = rounds(coordinator)[:2]
    assert (latest["status"], ended["status"]) == ("collecting", ending)


def test_a_round_that_was_never_opened_ends_at_its_deadline(coordinator: Coordinator) -> None:
    """No step leaves one behind; should one be there all the same, it is not in the way for ever."""
    coordinator.federation(**POLICY)
    with coordinator.context.database.write("test") as tx:
        (federation_id,) = idle_federation_ids(tx)
        base = versions.serving(tx, federation_id)
        assert base is not None
        tx.session.add(
            RoundRecord(
                id="rnd_" + "0" * 32,
                federation_id=federation_id,
                number=1,
                task="statistics",
                status=RoundStatus.PENDING,
                base_version_id=base.id,
                quorum=2,
                target_updates=2,
                started_at=tx.now,
                deadline_at=tx.now + timedelta(seconds=100),
            )
        )
    coordinator.settle()
    assert rounds(coordinator)[0]["status"] == "pending"
    coordinator.clock.move(101)
    coordinator.settle()
    assert rounds(coordinator)[0]["status"] == "abandoned"


def test_late_work_waits_while_a_federation_is_paused_and_not_when_it_is_archived(
    coordinator: Coordinator,
) -> None:
    *quick, slow = start(coordinator, evaluate=False, late_policy="next_round")
    round_ = slow.assignment()["round"]
    late = (round_["round_id"], slow.update(round_, 1.0, 10))
    for site in quick:
        site.train()
    coordinator.admin.post("/v1/federations/alpha/pause")
    coordinator.admin.post(f"/v1/rounds/{round_['round_id']}/close")
    coordinator.settle()
    assert problem_of(slow.submit_file(*late)) == "no_open_round"
    assert slow.assignment()["action"] == "wait"
    coordinator.admin.post("/v1/federations/alpha/resume")
    coordinator.settle()
    check(slow.submit_file(*late), 201)
    coordinator.admin.post("/v1/federations/alpha/archive")
    assert slow.assignment()["action"] == "finished"
    assert problem_of(slow.submit_file(late[0], slow.update(round_, 2.0, 10))) == "update_conflict"


def test_too_few_sites_to_start_by_hand_are_named(coordinator: Coordinator) -> None:
    coordinator.federation(min_sites_to_start=3, quorum=2)
    coordinator.sites(2)
    answer = coordinator.admin.request("POST", "/v1/federations/alpha/rounds")
    assert problem_of(answer) == "transition_not_allowed"
    assert "has 2 active sites; a round needs 3" in answer.json()["detail"]
