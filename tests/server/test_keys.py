"""A site's keys and tokens: what opens the door, what does not, and what closes it at once."""

import stat
import threading
from pathlib import Path
from typing import Any

import jwt
import pytest
from sqlalchemy import select
from tests.server.harness import (
    Caller,
    Coordinator,
    SiteCaller,
    check,
    key_addition,
    problem_of,
    rotate,
    running,
    settings_for,
)

from pfedbayespt.protocol import (
    CoordinatorIdentity,
    FederationTerms,
    Receipt,
    SigningKey,
    SiteKeyRetire,
    digest_of_bytes,
)
from pfedbayespt.server import keys
from pfedbayespt.server.sites.models import UsedAssertionRecord


@pytest.fixture
def site(coordinator: Coordinator) -> SiteCaller:
    coordinator.federation(min_sites_to_start=2, quorum=2, num_rounds=1)
    site, _ = coordinator.sites(2)
    coordinator.settle()
    return site


def refused_unchanged(coordinator: Coordinator, site: SiteCaller, assertion: str) -> str:
    before = coordinator.dump()
    kind = problem_of(site.ask_for_token(assertion))
    assert coordinator.dump() == before
    return kind


@pytest.mark.parametrize(
    "claims",
    [
        {"aud": "key_" + "0" * 32},
        {"iss": "sit_0"},
        {"sub": "sit_0"},
        {"iss": "sit_0", "sub": "sit_0"},
        {"jti": "short"},
        {"jti": None},
        {"exp": 2**60},
        {"iat": True},
        {"iat": "0"},
        {"role": "admin"},
    ],
    ids=str,
)
def test_an_assertion_with_a_wrong_claim_is_refused(
    coordinator: Coordinator, site: SiteCaller, claims: dict[str, Any]
) -> None:
    assert refused_unchanged(coordinator, site, site.assertion(**claims)) == "authentication_required"


@pytest.mark.parametrize("name", ["iss", "sub", "aud", "iat", "exp", "jti"])
def test_an_assertion_without_a_claim_is_refused(
    coordinator: Coordinator, site: SiteCaller, name: str
) -> None:
    claims = jwt.decode(site.assertion(), options={"verify_signature": False})
    del claims[name]
    text = jwt.encode(claims, site.key.private, "EdDSA", headers={"kid": site.key.key_id})
    assert refused_unchanged(coordinator, site, text) == "authentication_required"


@pytest.mark.parametrize("seconds", [-61, 10])
def test_an_assertion_that_is_not_for_now_is_refused_and_told_the_time(
    coordinator: Coordinator, site: SiteCaller, seconds: int
) -> None:
    now = int(site.now().timestamp())
    response = site.ask_for_token(site.assertion(iat=now + seconds, exp=now + seconds + 60))
    assert problem_of(response) == "authentication_required"
    assert response.json()["server_time"].startswith(str(site.now().date()))


def test_an_assertion_for_longer_than_a_minute_is_refused(coordinator: Coordinator, site: SiteCaller) -> None:
    now = int(site.now().timestamp())
    assertion = site.assertion(iat=now, exp=now + 61)
    assert refused_unchanged(coordinator, site, assertion) == "authentication_required"


def test_an_assertion_signed_with_another_key_or_not_at_all_is_refused(
    coordinator: Coordinator, site: SiteCaller
) -> None:
    claims = jwt.decode(site.assertion(), options={"verify_signature": False})
    stranger, kid = SigningKey.generate(), {"kid": site.key.key_id}
    forged = [
        jwt.encode(claims, stranger.private, "EdDSA", headers=kid),
        jwt.encode(claims, None, "none", headers=kid),
        jwt.encode(claims, "x" * 32, "HS256", headers=kid),
        jwt.encode(claims, site.key.public_key, "HS256", headers=kid),
        jwt.encode(claims, site.key.private, "EdDSA", headers={"kid": stranger.key_id}),
        jwt.encode(claims, site.key.private, "EdDSA"),
        "",
        "a.b.c",
        "x" * 5000,
    ]
    for assertion in forged:
        assert problem_of(site.ask_for_token(assertion)) in {"authentication_required", "invalid_request"}


def test_an_assertion_is_taken_once_by_however_many_ask(coordinator: Coordinator, site: SiteCaller) -> None:
    assertion, answers = site.assertion(), []
    threads = [
        threading.Thread(target=lambda: answers.append(site.ask_for_token(assertion).status_code))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(answers) == [200, *[401] * 7]


def test_an_assertion_is_not_taken_again_by_another_process(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    with running(settings) as first:
        first.federation()
        site = first.enrol()
        assertion = site.assertion()
        check(site.ask_for_token(assertion), 200)
    with running(settings) as second:
        site.http = second.http
        assert problem_of(site.ask_for_token(assertion)) == "authentication_required"
        check(site.ask_for_token(site.assertion()), 200)


def test_used_assertions_are_forgotten_once_their_age_refuses_them(
    coordinator: Coordinator, site: SiteCaller
) -> None:
    assertion = site.assertion()
    check(site.ask_for_token(assertion), 200)
    coordinator.clock.move(61)
    site.log_in()
    with coordinator.context.database.read() as tx:
        assert len(tx.session.scalars(select(UsedAssertionRecord)).all()) == 1
    assert problem_of(site.ask_for_token(assertion)) == "authentication_required"


def test_an_access_token_lasts_a_quarter_of_an_hour_by_the_databases_clock(
    coordinator: Coordinator, site: SiteCaller
) -> None:
    answer = check(site.ask_for_token(site.assertion()), 200)
    assert answer["expires_in"] == 900
    holder = Caller(site.http, answer["access_token"])
    coordinator.clock.move(890)
    holder.get("/v1/sites/me")
    coordinator.clock.move(11)
    assert problem_of(holder.request("GET", "/v1/sites/me")) == "authentication_required"


def test_revocation_bites_on_the_very_next_request(coordinator: Coordinator, site: SiteCaller) -> None:
    site.get("/v1/sites/me")
    coordinator.admin.post(f"/v1/sites/{site.site_id}/revoke")
    assert problem_of(site.request("GET", "/v1/sites/me")) == "authentication_required"
    assert problem_of(site.ask_for_token(site.assertion())) == "authentication_required"


def test_a_suspended_site_gets_no_token_and_gets_one_again_later(
    coordinator: Coordinator, site: SiteCaller
) -> None:
    coordinator.admin.post(f"/v1/sites/{site.site_id}/suspend")
    assert problem_of(site.ask_for_token(site.assertion())) == "permission_denied"
    coordinator.admin.post(f"/v1/sites/{site.site_id}/reinstate")
    check(site.ask_for_token(site.assertion()), 200)


def test_a_stolen_access_token_alone_submits_nothing(coordinator: Coordinator, site: SiteCaller) -> None:
    thief = SiteCaller(site.http, site.credential, site.site_id, "alpha")  # with a key of its own
    round_ = coordinator.live_round()
    content = thief.update(round_, 1.0, 10)
    before = coordinator.dump()
    assert problem_of(thief.submit_file(round_["round_id"], content)) == "signature_rejected"
    borrowed = thief.statement(round_["round_id"], content).model_copy(update={"key_id": site.key.key_id})
    response = thief.submit_file(round_["round_id"], content, statement=borrowed)
    assert problem_of(response) == "signature_rejected"
    plain = thief.put_file(f"/v1/rounds/{round_['round_id']}/updates/{site.site_id}", content)
    assert problem_of(plain) == "invalid_request"
    assert coordinator.dump() == before


def test_a_stolen_access_token_alone_changes_no_key(coordinator: Coordinator, site: SiteCaller) -> None:
    thief = SiteCaller(site.http, site.credential, site.site_id, "alpha")
    before = coordinator.dump()
    body = key_addition(thief, SigningKey.generate())
    assert problem_of(thief.request("POST", "/v1/sites/me/keys", json=body)) == "signature_rejected"
    retirement = SiteKeyRetire.signed(thief.key, site_id=site.site_id, retired_key_id=site.key.key_id)
    path = f"/v1/sites/me/keys/{site.key.key_id}/retire"
    response = thief.request("POST", path, json=retirement.model_dump(mode="json"))
    assert problem_of(response) == "signature_rejected"
    assert coordinator.dump() == before


@pytest.mark.parametrize(
    "change",
    [
        {"federation": "beta"},
        {"round_id": "rnd_0"},
        {"site_id": "sit_0"},
        {"update_digest": digest_of_bytes(b"other")},
        {"base_digest": digest_of_bytes(b"other")},
        {"num_examples": 11},
    ],
    ids=str,
)
def test_a_statement_about_something_else_is_refused_although_its_signature_is_good(
    coordinator: Coordinator, site: SiteCaller, change: dict[str, Any]
) -> None:
    round_ = coordinator.live_round()
    content = site.update(round_, 1.0, 10)
    before = coordinator.dump()
    statement = site.statement(round_["round_id"], content, **change)
    response = site.submit_file(round_["round_id"], content, statement=statement)
    assert problem_of(response) == "signature_rejected"
    assert coordinator.dump() == before


def test_the_receipt_is_signed_and_names_the_head_of_the_chain(
    coordinator: Coordinator, site: SiteCaller
) -> None:
    receipt = Receipt.model_validate(site.train())
    identity = CoordinatorIdentity.model_validate(
        coordinator.anonymous().get("/.well-known/pfedbayespt-coordinator")
    )
    receipt.check_signature(identity.public_key)
    accepted = [row for row in coordinator.dump()["events"] if "'update.accepted'" in row]
    assert len(accepted) == 1
    assert repr(receipt.audit_head) in accepted[0]


def test_the_terms_are_signed_when_the_federation_is_created(coordinator: Coordinator) -> None:
    coordinator.federation()
    federation = coordinator.admin.get("/v1/federations/alpha")
    terms = FederationTerms.model_validate(federation["terms"])
    terms.check_signature(coordinator.context.signer.public_key)
    assert terms.specification_digest == federation["specification_digest"]


def test_two_keys_live_side_by_side_until_the_old_one_is_retired(
    coordinator: Coordinator, site: SiteCaller
) -> None:
    old, old_token = site.key, str(site.credential)
    new = SigningKey.generate()
    body = key_addition(site, new)
    site.post("/v1/sites/me/keys", body)
    site.post("/v1/sites/me/keys", body)
    listed = site.get("/v1/sites/me/keys")["items"]
    assert {key["key_id"] for key in listed} == {old.key_id, new.key_id}
    third = key_addition(site, SigningKey.generate())
    assert problem_of(site.request("POST", "/v1/sites/me/keys", json=third)) == "transition_not_allowed"
    site.key = new
    site.log_in()
    Caller(site.http, old_token).get("/v1/sites/me")
    retirement = SiteKeyRetire.signed(new, site_id=site.site_id, retired_key_id=old.key_id)
    path, message = f"/v1/sites/me/keys/{old.key_id}/retire", retirement.model_dump(mode="json")
    assert site.post(path, message) == site.post(path, message)
    assert (
        problem_of(Caller(site.http, old_token).request("GET", "/v1/sites/me")) == "authentication_required"
    )
    site.train()


def test_a_retired_key_signs_nothing_and_never_comes_back(coordinator: Coordinator, site: SiteCaller) -> None:
    old = rotate(site)
    again = key_addition(site, old)
    assert problem_of(site.request("POST", "/v1/sites/me/keys", json=again)) == "transition_not_allowed"
    round_ = coordinator.live_round()
    content = site.update(round_, 1.0, 10)
    statement = site.statement(round_["round_id"], content, key=old)
    response = site.submit_file(round_["round_id"], content, statement=statement)
    assert problem_of(response) == "signature_rejected"


def test_a_site_cannot_retire_the_key_that_signs_the_request(
    coordinator: Coordinator, site: SiteCaller
) -> None:
    retirement = SiteKeyRetire.signed(site.key, site_id=site.site_id, retired_key_id=site.key.key_id)
    path = f"/v1/sites/me/keys/{site.key.key_id}/retire"
    response = site.request("POST", path, json=retirement.model_dump(mode="json"))
    assert problem_of(response) == "signature_rejected"


def test_a_key_belongs_to_one_site(coordinator: Coordinator, site: SiteCaller) -> None:
    token = coordinator.token("alpha")
    body = coordinator.enrolment(token, "site-9", site.key)
    assert problem_of(coordinator.anonymous().request("POST", "/v1/sites", json=body)) == "already_exists"


@pytest.mark.parametrize("what", ["signature", "coordinator_key_id", "public_key", "site_name"])
def test_an_enrolment_that_is_not_signed_for_this_coordinator_spends_no_token(
    coordinator: Coordinator, what: str
) -> None:
    coordinator.federation()
    token, key, other = coordinator.token("alpha"), SigningKey.generate(), SigningKey.generate()
    body = coordinator.enrolment(token, "site-1", key)
    replaced = {
        "signature": coordinator.enrolment(token, "site-1", other)["signature"],
        "public_key": other.public_key,
        "site_name": "site-2",
    }
    if what == "coordinator_key_id":
        body = coordinator.enrolment(token, "site-1", key, coordinator_key_id=other.key_id)
    else:
        body[what] = replaced[what]
    before = coordinator.dump()
    response = coordinator.anonymous().request("POST", "/v1/sites", json=body)
    assert problem_of(response) == "signature_rejected"
    assert coordinator.dump() == before


def test_the_coordinators_key_is_made_once_by_however_many_processes(tmp_path: Path) -> None:
    file, made = tmp_path / "deep" / "coordinator-key.pem", []
    threads = [threading.Thread(target=lambda: made.append(keys.load_or_make(file).key_id)) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(set(made)) == 1
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in file.parent.iterdir()] == [file.name]


def test_a_coordinators_key_that_others_may_read_stops_the_start(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    keys.make(settings.effective_signing_key_file)
    settings.effective_signing_key_file.chmod(0o644)
    with pytest.raises(keys.SigningKeyError, match="chmod 600"), running(settings):
        pass


def test_a_damaged_key_of_the_coordinator_stops_the_start(tmp_path: Path) -> None:
    settings = settings_for(tmp_path)
    keys.make(settings.effective_signing_key_file)
    settings.effective_signing_key_file.write_text("hello")
    with pytest.raises(keys.SigningKeyError, match="PKCS #8"), running(settings):
        pass
