"""Enrolment, and what a site's state allows it."""

import pytest
from tests.server.harness import Coordinator, SiteCaller, problem_of

from pfedbayespt.protocol import SigningKey, SiteLeave


def enrol(coordinator: Coordinator, token: str, name: str = "site-1") -> object:
    body = coordinator.enrolment(token, name, SigningKey.generate())
    return coordinator.anonymous().request("POST", "/v1/sites", json=body)


def test_a_token_lets_one_site_in_once(coordinator: Coordinator) -> None:
    coordinator.federation()
    token = coordinator.token("alpha", organisation="hospital-north")
    answer = enrol(coordinator, token)
    assert answer.status_code == 201  # type: ignore[attr-defined]
    site = answer.json()["site"]  # type: ignore[attr-defined]
    assert (site["status"], site["organisation"], site["federation"]) == ("active", "hospital-north", "alpha")
    before = coordinator.dump()
    assert problem_of(enrol(coordinator, token, "site-2")) == "enrolment_token_refused"
    assert coordinator.dump() == before


def test_an_expired_token_is_refused_by_the_databases_clock(coordinator: Coordinator) -> None:
    coordinator.federation()
    token = coordinator.token("alpha", valid_seconds=60)
    coordinator.clock.move(60)
    before = coordinator.dump()
    assert problem_of(enrol(coordinator, token)) == "enrolment_token_refused"
    assert coordinator.dump() == before


@pytest.mark.parametrize("token", ["enr_unknown", "", "x" * 10_000])
def test_an_unknown_token_is_refused(coordinator: Coordinator, token: str) -> None:
    assert problem_of(enrol(coordinator, token)) == "enrolment_token_refused"


def test_a_taken_name_leaves_the_token_good(coordinator: Coordinator) -> None:
    coordinator.federation()
    coordinator.enrol(name="site-1")
    token = coordinator.token("alpha")
    before = coordinator.dump()
    assert problem_of(enrol(coordinator, token, "site-1")) == "already_exists"
    assert coordinator.dump() == before
    assert enrol(coordinator, token, "site-2").status_code == 201  # type: ignore[attr-defined]


def test_nobody_joins_an_archived_federation(coordinator: Coordinator) -> None:
    coordinator.federation()
    token = coordinator.token("alpha")
    coordinator.admin.post("/v1/federations/alpha/archive")
    assert problem_of(enrol(coordinator, token)) == "enrolment_token_refused"
    path = "/v1/federations/alpha/enrolment-tokens"
    answer = coordinator.admin.request("POST", path, json={"organisation": "late"})
    assert problem_of(answer) == "transition_not_allowed"


@pytest.mark.parametrize(
    "request_", [{"valid_seconds": 59}, {"valid_seconds": 72 * 3600 + 1}, {"organisation": "A b"}]
)
def test_a_token_request_outside_the_limits_is_refused(
    coordinator: Coordinator, request_: dict[str, object]
) -> None:
    coordinator.federation()
    path = "/v1/federations/alpha/enrolment-tokens"
    answer = coordinator.admin.request("POST", path, json={"organisation": "clinic"} | request_)
    assert problem_of(answer) == "invalid_request"


def test_the_database_holds_no_secret(coordinator: Coordinator) -> None:
    coordinator.federation()
    token = coordinator.token("alpha")
    answer = enrol(coordinator, token)
    assert answer.status_code == 201  # type: ignore[attr-defined]
    rows = repr(coordinator.dump())
    assert token not in rows
    assert coordinator.context.signer.to_pem().decode().split("\n")[1] not in rows


def test_asking_for_work_is_a_heartbeat(coordinator: Coordinator) -> None:
    coordinator.federation()
    site = coordinator.enrol()
    assert site.get("/v1/sites/me")["last_seen_at"] is None
    site.assignment()
    first = site.get("/v1/sites/me")["last_seen_at"]
    coordinator.clock.move(10)
    site.assignment()
    assert site.get("/v1/sites/me")["last_seen_at"] > first


def test_a_suspended_site_comes_back_and_a_revoked_one_does_not(coordinator: Coordinator) -> None:
    coordinator.federation()
    site = coordinator.enrol()
    path = f"/v1/sites/{site.site_id}"
    assert coordinator.admin.post(f"{path}/suspend")["status"] == "suspended"
    assert problem_of(site.request("GET", "/v1/sites/me")) == "permission_denied"
    assert coordinator.admin.post(f"{path}/reinstate")["status"] == "active"
    assert site.get("/v1/sites/me")["status"] == "active"
    assert coordinator.admin.post(f"{path}/revoke")["status"] == "revoked"
    assert problem_of(site.request("GET", "/v1/sites/me")) == "authentication_required"
    for verb in ("suspend", "reinstate", "revoke"):
        assert problem_of(coordinator.admin.request("POST", f"{path}/{verb}")) == "transition_not_allowed"


def leave(site: SiteCaller) -> dict[str, object]:
    name = site.get("/v1/sites/me")["site_name"]
    answer: dict[str, object] = site.post("/v1/sites/me/leave", farewell(site, site_name=name))
    return answer


def farewell(site: SiteCaller, **changes: object) -> dict[str, object]:
    key = changes.pop("key", site.key)
    assert isinstance(key, SigningKey)
    facts = {"site_id": site.site_id, "site_name": "site-1"} | changes
    return SiteLeave.signed(key, **facts).model_dump(mode="json")


def test_a_site_that_leaves_is_out_for_good_and_what_it_submitted_counts(coordinator: Coordinator) -> None:
    coordinator.federation(num_rounds=1, min_sites_to_start=2, quorum=1)
    leaver, stayer = coordinator.sites(2)
    coordinator.settle()
    leaver.train(1.0)
    assert leave(leaver)["status"] == "revoked"
    assert problem_of(leaver.request("GET", "/v1/sites/me")) == "authentication_required"
    stayer.train(3.0)
    coordinator.settle()
    first_round = coordinator.admin.get("/v1/federations/alpha/rounds")["items"][-1]
    assert first_round["updates_accepted"] == 2, "an acknowledged update is never lost"
    assert first_round["status"] == "published"
    events = coordinator.admin.get("/v1/federations/alpha/events")["items"]
    assert [event["actor"] for event in events if event["action"] == "site.left"] == [leaver.site_id]


def test_no_round_waits_for_a_site_that_has_left(coordinator: Coordinator) -> None:
    coordinator.federation(num_rounds=1, min_sites_to_start=2, quorum=1)
    leaver, stayer = coordinator.sites(2)
    coordinator.settle()
    stayer.train(3.0)
    leave(leaver)
    coordinator.settle()
    first_round = coordinator.admin.get("/v1/federations/alpha/rounds")["items"][-1]
    assert first_round["status"] == "published"


def test_a_site_leaves_by_its_own_name_and_signature_alone(coordinator: Coordinator) -> None:
    coordinator.federation()
    site, other = coordinator.sites(2)
    signed = farewell(site)
    for body, problem in (
        (farewell(site, site_name="somebody-else"), "invalid_request"),
        (farewell(site, site_id=other.site_id), "invalid_request"),
        ({}, "invalid_request"),
        ({"site_name": "site-1"}, "invalid_request"),
        (farewell(site, key=SigningKey.generate()), "signature_rejected"),
        (farewell(site, key=other.key), "signature_rejected"),
        (signed | {"signature": farewell(other)["signature"]}, "signature_rejected"),
    ):
        assert problem_of(site.request("POST", "/v1/sites/me/leave", json=body)) == problem
    assert site.get("/v1/sites/me")["status"] == "active"
    assert problem_of(other.request("POST", "/v1/sites/me/leave", json=signed)) == "signature_rejected"
    assert site.post("/v1/sites/me/leave", signed)["status"] == "revoked"


def test_sites_are_listed_in_the_order_of_their_enrolment(coordinator: Coordinator) -> None:
    coordinator.federation()
    sites: list[SiteCaller] = []
    for name in ("zebra", "ape", "mole"):
        sites.append(coordinator.enrol(name=name))
        coordinator.clock.move(1)
    listed = coordinator.admin.get("/v1/federations/alpha/sites")["items"]
    assert [site["site_id"] for site in listed] == [site.site_id for site in sites]


def test_an_assignment_names_everything_a_site_needs(coordinator: Coordinator) -> None:
    coordinator.federation(num_rounds=1, min_sites_to_start=2, quorum=2)
    site, _ = coordinator.sites(2)
    coordinator.settle()
    assignment = site.assignment()
    federation = coordinator.admin.get("/v1/federations/alpha")
    assert assignment["action"] == "train"
    assert assignment["round"] == coordinator.live_round() | {"cohort": [site.site_id]}
    assert assignment["model_version"] == 0
    assert assignment["model_digest"] == coordinator.versions()[0]["digest"]
    assert assignment["specification_digest"] == federation["specification_digest"]
    assert assignment["retry_after_seconds"] == coordinator.context.settings.retry_after_seconds
