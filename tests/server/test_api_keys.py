"""API keys: what they look like, what they open, and how much they may ask."""

import re

import pytest
from tests.server.harness import Caller, Coordinator, check, problem_of, running, settings_for

from pfedbayespt.server.auth import api_keys
from pfedbayespt.server.errors import RateLimited
from pfedbayespt.server.rate_limits import ORGANISATION_SHARE, RateLimits

BODY = {"organisation": "clinic", "name": "reading-room"}
PATH = "/v1/federations/alpha/api-keys"


def test_a_key_has_a_prefix_an_id_a_secret_and_a_checksum() -> None:
    text, key_id, secret = api_keys.make()
    assert re.fullmatch(rf"fp_live_{key_id}_{re.escape(secret)}[0-9a-f]{{8}}", text)
    assert len({api_keys.make()[0] for _ in range(100)}) == 100


def test_a_key_is_shown_once_and_the_database_keeps_its_hash_only(coordinator: Coordinator) -> None:
    coordinator.federation()
    made = coordinator.admin.post(PATH, BODY, status=201)
    secret = made["key"].split("_", 3)[3][:43]
    assert secret not in repr(coordinator.dump())
    (listed,) = coordinator.admin.get(PATH)["items"]
    assert listed == made["api_key"]


def test_a_revoked_key_opens_nothing_from_the_next_request_on(coordinator: Coordinator) -> None:
    coordinator.federation()
    made = coordinator.admin.post(PATH, BODY | {"role": "auditor"}, status=201)
    auditor = Caller(coordinator.http, made["key"])
    auditor.get("/v1/federations/alpha/events")
    path = f"/v1/api-keys/{made['api_key']['api_key_id']}/revoke"
    assert coordinator.admin.post(path) == coordinator.admin.post(path)
    assert problem_of(auditor.request("GET", "/v1/federations/alpha/events")) == "authentication_required"


def test_who_leads_a_federation_makes_no_other_lead_but_predictors(coordinator: Coordinator) -> None:
    coordinator.federation()
    made = coordinator.admin.post(PATH, BODY | {"role": "federation_lead"}, status=201)
    lead = Caller(coordinator.http, made["key"])
    lead.post(PATH, BODY, status=201)
    refused = lead.request("POST", PATH, json=BODY | {"role": "federation_lead"})
    assert problem_of(refused) == "permission_denied"
    events = coordinator.admin.get("/v1/federations/alpha/events")["items"]
    assert events[-1]["actor"] == made["api_key"]["api_key_id"]


@pytest.mark.parametrize("place", [9, 20, -9, -1])
def test_a_mistyped_key_is_refused(coordinator: Coordinator, place: int) -> None:
    coordinator.federation()
    text = coordinator.admin.post(PATH, BODY | {"role": "auditor"}, status=201)["key"]
    spoilt = list(text)
    spoilt[place] = "0" if spoilt[place] != "0" else "1"
    caller = Caller(coordinator.http, "".join(spoilt))
    assert problem_of(caller.request("GET", "/v1/federations/alpha")) == "authentication_required"


def test_too_many_requests_with_a_key_are_told_when_to_come_again(tmp_path: object) -> None:
    with running(settings_for(tmp_path, api_key_requests_per_minute=3)) as coordinator:  # type: ignore[arg-type]
        coordinator.federation()
        text = coordinator.admin.post(PATH, BODY | {"role": "auditor"}, status=201)["key"]
        auditor = Caller(coordinator.http, text)
        for _ in range(3):
            auditor.get("/v1/federations/alpha")
        refused = auditor.request("GET", "/v1/federations/alpha")
        assert (refused.status_code, problem_of(refused)) == (429, "rate_limited")
        assert 1 <= int(refused.headers["retry-after"]) <= 20
        check(auditor.request("GET", "/v1/federations/alpha/events"), 200)  # another kind of operation
        check(coordinator.admin.request("GET", "/v1/federations/alpha"), 200)


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def test_a_bucket_fills_up_evenly() -> None:
    clock = Clock()
    limits = RateLimits(60, clock)
    for _ in range(60):
        limits.count("key", "clinic", "x")
    with pytest.raises(RateLimited) as refusal:
        limits.count("key", "clinic", "x")
    assert refusal.value.retry_after_seconds == 1
    clock.seconds += 1
    limits.count("key", "clinic", "x")
    with pytest.raises(RateLimited):
        limits.count("key", "clinic", "x")


def test_an_organisation_has_a_limit_over_all_its_keys() -> None:
    limits = RateLimits(10, Clock())
    for number in range(10 * ORGANISATION_SHARE):
        limits.count(f"key-{number}", "clinic", "x")
    with pytest.raises(RateLimited):
        limits.count("another key", "clinic", "x")
    limits.count("another key", "hospital", "x")
