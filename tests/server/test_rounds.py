"""What moves a round on: updates, deadlines, evaluations, admins."""

import pytest
from tests.server.harness import Coordinator, SiteCaller, check, problem_of

POLICY = {"num_rounds": 5, "min_sites_to_start": 2, "quorum": 2, "deadline_seconds": 100.0}


def start(coordinator: Coordinator, num_sites: int = 3, **policy: object) -> list[SiteCaller]:
    """Return the sites of a federation whose first training round collects."""
    coordinator.federation(**(POLICY | policy))
    sites = coordinator.sites(num_sites)
    coordinator.publish_statistics(sites)
    return sites


def train_and_evaluate(coordinator: Coordinator, sites: list[SiteCaller], accuracy: float) -> None:
    for site in sites:
        site.train()
    coordinator.settle()
    for site in sites:
        site.evaluate(accuracy)
    coordinator.settle()


def rounds(coordinator: Coordinator) -> list[dict[str, object]]:
    return list(coordinator.admin.get("/v1/federations/alpha/rounds")["items"])


def test_no_round_starts_before_there_are_enough_sites(coordinator: Coordinator) -> None:
    coordinator.federation(**POLICY)
    coordinator.enrol(name="site-1")
    coordinator.settle()
    assert rounds(coordinator) == []
    coordinator.enrol(name="site-2")
    coordinator.settle()
    assert len(rounds(coordinator)) == 1


def test_without_num_rounds_rounds_start_by_hand_only(coordinator: Coordinator) -> None:
    coordinator.federation(min_sites_to_start=2, quorum=2)
    coordinator.sites(2)
    coordinator.settle()
    assert rounds(coordinator) == []
    round_ = coordinator.admin.post("/v1/federations/alpha/rounds", status=201)
    assert (round_["round_number"], round_["status"], round_["task"]) == (1, "collecting", "statistics")
    again = coordinator.admin.request("POST", "/v1/federations/alpha/rounds")
    assert problem_of(again) == "transition_not_allowed"


@pytest.mark.parametrize("state", ["draft", "paused", "archived"])
def test_rounds_start_in_active_federations_only(coordinator: Coordinator, state: str) -> None:
    coordinator.draft(min_sites_to_start=2, quorum=2)
    if state != "draft":
        coordinator.put_initial("alpha")
        coordinator.admin.post("/v1/federations/alpha/activate")
        coordinator.admin.post(f"/v1/federations/alpha/{state.removesuffix('d')}")
    answer = coordinator.admin.request("POST", "/v1/federations/alpha/rounds")
    assert problem_of(answer) == "transition_not_allowed"
    assert state in answer.json()["detail"]


def test_a_round_waits_for_its_cohort_until_the_deadline(coordinator: Coordinator) -> None:
    sites = start(coordinator)
    sites[0].train()
    sites[1].train()
    coordinator.settle()
    assert coordinator.live_round()["status"] == "collecting"
    coordinator.clock.move(101)
    coordinator.settle()
    assert coordinator.live_round()["status"] == "evaluating"
    assert coordinator.live_round()["updates_accepted"] == 2


def test_a_deadline_without_quorum_abandons_the_round_and_the_next_one_starts(
    coordinator: Coordinator,
) -> None:
    sites = start(coordinator)
    receipt = sites[0].train()
    coordinator.clock.move(101)
    coordinator.settle()
    latest, abandoned = rounds(coordinator)[:2]
    assert (latest["status"], latest["round_number"], latest["task"]) == ("collecting", 3, "training")
    assert abandoned["status"] == "abandoned"
    assert abandoned["abandoned_reason"] == "quorum missed: 1 of 2 updates before the deadline"
    assert coordinator.admin.get(f"/v1/updates/{receipt['update_id']}")["status"] == "discarded"
    assert coordinator.versions()[0]["version_number"] == 1


def test_an_abandoned_first_round_is_followed_by_another_statistics_round(coordinator: Coordinator) -> None:
    coordinator.federation(**POLICY)
    coordinator.sites(2)
    coordinator.settle()
    coordinator.clock.move(101)
    coordinator.settle()
    assert [round_["task"] for round_ in rounds(coordinator)] == ["statistics", "statistics"]


def test_a_site_that_is_shut_out_is_not_waited_for(coordinator: Coordinator) -> None:
    sites = start(coordinator)
    sites[0].train()
    sites[1].train()
    coordinator.admin.post(f"/v1/sites/{sites[2].site_id}/suspend")
    coordinator.settle()
    assert coordinator.live_round()["status"] == "evaluating"


def test_what_a_revoked_site_has_waiting_is_discarded(coordinator: Coordinator) -> None:
    sites = start(coordinator)
    receipt = sites[0].train()
    coordinator.admin.post(f"/v1/sites/{sites[0].site_id}/revoke")
    update = coordinator.admin.get(f"/v1/updates/{receipt['update_id']}")
    assert (update["status"], update["verdict"].split(":")[0]) == ("discarded", "site_revoked")
    sites[1].train()
    sites[2].train()
    coordinator.settle()
    inputs = coordinator.versions()[0]["inputs"]
    assert sites[0].site_id not in {part["site_id"] for part in inputs}


def test_a_cohort_of_limited_size_closes_when_it_is_full(coordinator: Coordinator) -> None:
    coordinator.federation(**(POLICY | {"cohort_size": 2, "over_select_ratio": 1.5}))
    sites = {site.site_id: site for site in coordinator.sites(5)}
    coordinator.settle()
    round_ = coordinator.live_round()
    assert len(round_["cohort"]) == 3
    asked = [sites[site_id] for site_id in round_["cohort"]]
    (left_out, *_) = [site for site_id, site in sites.items() if site_id not in round_["cohort"]]
    assert left_out.assignment()["action"] == "wait"
    refused = left_out.submit_file(round_["round_id"], left_out.update(round_, 1.0, 10))
    assert problem_of(refused) == "not_in_cohort"
    asked[0].train()
    asked[1].train()
    coordinator.settle()
    late = asked[2].submit_file(round_["round_id"], asked[2].update(round_, 1.0, 10))
    assert problem_of(late) == "round_closed"


def test_an_admin_closes_early_with_a_quorum_only(coordinator: Coordinator) -> None:
    sites = start(coordinator)
    path = f"/v1/rounds/{coordinator.live_round()['round_id']}"
    sites[0].train()
    assert problem_of(coordinator.admin.request("POST", f"{path}/close")) == "transition_not_allowed"
    sites[1].train()
    assert coordinator.admin.post(f"{path}/close")["status"] == "aggregating"
    assert problem_of(coordinator.admin.request("POST", f"{path}/close")) == "transition_not_allowed"


def test_an_admin_abandons_a_live_round_but_no_finished_one(coordinator: Coordinator) -> None:
    start(coordinator)
    path = f"/v1/rounds/{coordinator.live_round()['round_id']}/abandon"
    assert coordinator.admin.post(path)["status"] == "abandoned"
    assert problem_of(coordinator.admin.request("POST", path)) == "transition_not_allowed"


def test_a_paused_federation_finishes_its_round_and_starts_no_other(coordinator: Coordinator) -> None:
    sites = start(coordinator)
    coordinator.admin.post("/v1/federations/alpha/pause")
    train_and_evaluate(coordinator, sites, 0.5)
    assert [round_["status"] for round_ in rounds(coordinator)] == ["published", "published"]
    assert sites[0].assignment()["action"] == "wait"
    coordinator.admin.post("/v1/federations/alpha/resume")
    coordinator.settle()
    assert coordinator.live_round()["status"] == "collecting"


def test_archiving_abandons_the_live_round_and_tells_the_sites(coordinator: Coordinator) -> None:
    sites = start(coordinator)
    assert coordinator.admin.post("/v1/federations/alpha/archive")["status"] == "archived"
    assert coordinator.live_round()["abandoned_reason"] == "the federation was archived"
    assert sites[0].assignment()["action"] == "finished"


def test_evaluations_are_asked_of_the_cohort_and_waited_for_until_the_deadline(
    coordinator: Coordinator,
) -> None:
    sites = start(coordinator, evaluation_deadline_seconds=50.0)
    for site in sites:
        site.train()
    coordinator.settle()
    candidate = sites[0].assignment()
    assert (candidate["action"], candidate["model_version"]) == ("evaluate", 2)
    assert candidate["model_digest"] == coordinator.versions()[0]["digest"]
    sites[0].evaluate(0.5)
    assert sites[0].assignment()["action"] == "wait"
    coordinator.settle()
    assert coordinator.live_round()["status"] == "evaluating"
    coordinator.clock.move(51)
    coordinator.settle()
    assert rounds(coordinator)[1]["status"] == "published"


def test_an_accuracy_that_falls_too_far_at_one_site_holds_the_candidate(coordinator: Coordinator) -> None:
    sites = start(coordinator, max_accuracy_drop=0.1)
    train_and_evaluate(coordinator, sites, 0.8)
    for site in sites:
        site.train()
    coordinator.settle()
    for site, accuracy in zip(sites, (0.9, 0.8, 0.69), strict=True):
        site.evaluate(accuracy)
    coordinator.settle()

    latest, held = rounds(coordinator)[:2]
    assert (held["status"], held["result_version"]) == ("held", 3)
    assert (latest["status"], latest["base_version"]) == ("collecting", 2)
    assert [(version["version_number"], version["status"]) for version in coordinator.versions()[:2]] == [
        (3, "held"),
        (2, "serving"),
    ]
    reasons = [
        event["details"]["reason"]
        for event in coordinator.admin.get("/v1/federations/alpha/events?limit=200")["items"]
        if event["action"] == "round.held"
    ]
    assert reasons == [f"at site {sites[2].site_id} accuracy falls by 0.1100; allowed: 0.1000"]


def test_a_held_version_can_be_released_by_an_admin(coordinator: Coordinator) -> None:
    sites = start(coordinator, max_accuracy_drop=0.0)
    train_and_evaluate(coordinator, sites, 0.8)
    train_and_evaluate(coordinator, sites, 0.7)
    assert coordinator.admin.get("/v1/federations/alpha")["serving_version"] == 2
    released = coordinator.admin.post("/v1/federations/alpha/model-versions/3/promote")
    assert released["status"] == "serving"
    assert coordinator.admin.get("/v1/federations/alpha")["serving_version"] == 3
    coordinator.settle()
    assert coordinator.live_round()["base_version"] == 3


def test_a_rollback_abandons_the_round_that_would_undo_it(coordinator: Coordinator) -> None:
    sites = start(coordinator)
    train_and_evaluate(coordinator, sites, 0.5)
    for site in sites:
        site.train()
    coordinator.settle()
    doomed = coordinator.live_round()
    assert doomed["status"] == "evaluating"

    coordinator.admin.post("/v1/federations/alpha/model-versions/1/promote")

    assert coordinator.admin.get(f"/v1/rounds/{doomed['round_id']}")["status"] == "abandoned"
    statuses = {version["version_number"]: version["status"] for version in coordinator.versions()}
    assert statuses == {0: "retired", 1: "serving", 2: "retired", 3: "held"}
    coordinator.settle()
    assert coordinator.live_round()["base_version"] == 1


@pytest.mark.parametrize(("number", "why"), [(1, "serving"), (2, "candidate")])
def test_neither_the_serving_version_nor_a_candidate_can_be_promoted(
    coordinator: Coordinator, number: int, why: str
) -> None:
    sites = start(coordinator)
    for site in sites:
        site.train()
    coordinator.settle()
    before = coordinator.dump()
    answer = coordinator.admin.request("POST", f"/v1/federations/alpha/model-versions/{number}/promote")
    assert problem_of(answer) == "transition_not_allowed"
    assert why in answer.json()["detail"]
    assert coordinator.dump() == before


def test_a_federation_whose_rounds_are_held_again_and_again_is_paused(coordinator: Coordinator) -> None:
    sites = start(coordinator, max_accuracy_drop=0.0)
    train_and_evaluate(coordinator, sites, 0.8)
    for _ in range(3):
        train_and_evaluate(coordinator, sites, 0.1)
    assert coordinator.admin.get("/v1/federations/alpha")["status"] == "paused"
    coordinator.clock.move(1)
    coordinator.admin.post("/v1/federations/alpha/resume")
    coordinator.settle()
    assert coordinator.live_round()["status"] == "collecting"


def test_silence_does_not_pass_a_gate(coordinator: Coordinator) -> None:
    sites = start(coordinator, max_accuracy_drop=0.5, evaluation_deadline_seconds=10.0)
    for site in sites:
        site.train()
    coordinator.settle()
    coordinator.clock.move(11)
    coordinator.settle()
    assert rounds(coordinator)[1]["status"] == "held"


def test_an_evaluation_is_idempotent_and_never_changes(coordinator: Coordinator) -> None:
    sites = start(coordinator)
    first = sites[0].report(1, 0.5)
    before = coordinator.dump()
    assert sites[0].report(1, 0.5) == first
    sites[0].report(1, 0.6, status=409)
    assert coordinator.dump() == before


def test_the_worker_of_one_broken_federation_does_not_stop_the_others(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    from pfedbayespt.server.rounds import schedule

    for name in ("alpha", "beta"):
        coordinator.federation(name, **POLICY)
        coordinator.sites(2, name)
    start_if_due = schedule.start_if_due

    def broken_for_alpha(tx: object, federation: object) -> bool:
        if federation.name == "alpha":  # type: ignore[attr-defined]
            raise RuntimeError("broken")
        return start_if_due(tx, federation)  # type: ignore[arg-type]

    monkeypatch.setattr(schedule, "start_if_due", broken_for_alpha)
    coordinator.tick()
    assert coordinator.admin.get("/v1/federations/alpha/rounds")["items"] == []
    assert len(coordinator.admin.get("/v1/federations/beta/rounds")["items"]) == 1


def test_a_receipt_is_given_again_after_the_round_has_closed(coordinator: Coordinator) -> None:
    sites = start(coordinator)
    round_ = coordinator.live_round()
    content = sites[0].update(round_, 1.0, 10)
    first = check(sites[0].submit_file(round_["round_id"], content), 201)
    sites[1].train()
    sites[2].train()
    coordinator.settle()
    before = coordinator.dump()
    assert check(sites[0].submit_file(round_["round_id"], content), 200) == first
    assert coordinator.dump() == before
