"""People come in with tokens of an OpenID provider: a real one, on this machine, over HTTP."""

import base64
import hmac
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from pydantic import ValidationError
from tests.server.harness import Caller, Coordinator, problem_of, running, settings_for
from tests.server.openid_provider import Key, Provider, ec_key, providing, rsa_key

from pfedbayespt.server.openid import OpenIdProvider, ProviderError, checked_url, discover

AUDIENCE = "coordinator"
RSA, EC, NEW, FOREIGN = rsa_key("rsa"), ec_key("ec"), rsa_key("new"), rsa_key("rsa")
FEDERATION = "/v1/federations/alpha"


@dataclass
class World:
    coordinator: Coordinator
    provider: Provider

    def now(self) -> int:
        with self.coordinator.context.database.read() as tx:
            return int(tx.now.timestamp())

    def claims(self, *roles: str, **changes: Any) -> dict[str, Any]:
        now = self.now()
        honest = {"iss": self.provider.url, "aud": AUDIENCE, "sub": "ada", "iat": now, "exp": now + 300}
        told = honest | {"pfedbayespt_roles": list(roles)} | changes
        return {name: value for name, value in told.items() if value is not None}

    def person(self, *roles: str, key: Key | None = None, **changes: Any) -> Caller:
        token = self.provider.token(self.claims(*roles, **changes), key)
        return Caller(self.coordinator.http, token)


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    with providing(RSA, EC) as provider:
        options = {"oidc_issuer": provider.url, "oidc_audience": AUDIENCE}
        with running(settings_for(tmp_path, **options)) as coordinator:
            coordinator.federation()
            coordinator.federation("beta")
            yield World(coordinator, provider)


def refusal(caller: Caller, path: str = FEDERATION) -> str:
    return problem_of(caller.request("GET", path))


@pytest.mark.parametrize("key", [RSA, EC], ids=["RS256", "ES256"])
def test_an_admin_comes_in_and_the_events_name_them(world: World, key: Key) -> None:
    admin = world.person("admin", key=key)
    admin.post(f"{FEDERATION}/pause")
    (event,) = [event for event in admin.get(f"{FEDERATION}/events")["items"] if "paused" in event["action"]]
    assert event["actor"] == "oidc:ada"


def test_people_with_long_names_stay_different_people(world: World) -> None:
    for last in "ab":
        world.person("admin", sub="x" * 100 + last).post(
            f"{FEDERATION}/{'pause' if last == 'a' else 'resume'}"
        )
    events = world.person("admin").get(f"{FEDERATION}/events")["items"]
    actors = {
        event["actor"] for event in events if event["action"] in {"federation.paused", "federation.resumed"}
    }
    assert len(actors) == 2
    assert all(actor.startswith("oidc:xxx") and len(actor) == 64 for actor in actors)


def test_a_dashboard_session_ends_with_the_provider_s_word(world: World) -> None:
    browser = TestClient(world.coordinator.http.app)
    token = world.person("admin").credential
    answer = browser.post("/ui/sign-in", data={"token": token}, follow_redirects=False)
    assert int(answer.headers["set-cookie"].split("Max-Age=")[1].split(";")[0]) <= 300
    assert browser.get("/ui/federations", follow_redirects=False).status_code == 200
    world.coordinator.clock.move(301)
    assert browser.get("/ui/federations", follow_redirects=False).status_code == 303


def test_roles_hold_in_the_federation_that_they_name(world: World) -> None:
    both = world.person(
        "federation_lead:alpha", "auditor:beta", "made-up:alpha", "auditor", "site:alpha", "x"
    )
    both.get(FEDERATION)
    both.get("/v1/federations/beta/events")
    both.post(f"{FEDERATION}/pause")
    assert problem_of(both.request("POST", "/v1/federations/beta/pause")) == "not_found"
    assert refusal(both, "/v1/federations") == "permission_denied"
    for nothing in (
        world.person(),
        world.person("auditor:nowhere"),
        world.person(pfedbayespt_roles={"a": 1}),
    ):
        assert refusal(nothing) == "permission_denied"


def test_an_organisations_admin_sees_its_own(world: World) -> None:
    own, other = (world.coordinator.enrol(name=name, organisation=name) for name in ("clinic", "hospital"))
    person = world.person("org_admin:alpha:clinic")
    assert [site["site_name"] for site in person.get(f"{FEDERATION}/sites")["items"]] == ["clinic"]
    assert problem_of(person.request("POST", f"/v1/sites/{other.site_id}/revoke")) == "not_found"
    assert person.post(f"/v1/sites/{own.site_id}/revoke")["status"] == "revoked"
    lead_too = world.person("org_admin:alpha:clinic", "federation_lead:alpha")
    assert len(lead_too.get(f"{FEDERATION}/sites")["items"]) == 2


def test_only_an_admin_makes_keys_that_lead(world: World) -> None:
    body = {"organisation": "clinic", "name": "key", "role": "federation_lead"}
    lead = world.person("federation_lead:alpha")
    assert problem_of(lead.request("POST", f"{FEDERATION}/api-keys", json=body)) == "permission_denied"
    world.person("admin").post(f"{FEDERATION}/api-keys", body, status=201)


def test_a_token_that_says_something_else_is_refused(world: World) -> None:
    wrong: list[dict[str, Any]] = [
        {"aud": "another"},
        {"aud": None},
        {"iss": "https://elsewhere.example"},
        {"sub": None},
        {"sub": 7},
        {"exp": None},
        {"exp": "tomorrow"},
        {"exp": True},
        {"nbf": "yesterday"},
    ]
    for changes in wrong:
        assert refusal(world.person("admin", **changes)) == "authentication_required", changes


def test_a_token_is_for_now_by_the_databases_clock_give_or_take_the_skew(world: World) -> None:
    now = world.now()
    world.person("admin", exp=now - 20).get(FEDERATION)
    world.person("admin", iat=now + 20, nbf=now + 20).get(FEDERATION)
    for changes in ({"exp": now - 40}, {"iat": now + 60}, {"nbf": now + 60}):
        assert refusal(world.person("admin", **changes)) == "authentication_required"
    token = world.person("admin")
    token.get(FEDERATION)
    world.coordinator.clock.move(331)
    assert refusal(token) == "authentication_required"


def signed_with_the_public_key(claims: dict[str, Any]) -> str:
    def part(content: bytes) -> str:
        return base64.urlsafe_b64encode(content).rstrip(b"=").decode()

    header = {"alg": "HS256", "kid": "rsa"}
    signed = ".".join(part(json.dumps(each).encode()) for each in (header, claims))
    return f"{signed}.{part(hmac.digest(RSA.as_pem(private=False), signed.encode(), 'sha256'))}"


def test_a_token_that_another_has_signed_is_refused(world: World) -> None:
    """The same key id and claims, but another key; no key at all; the provider's public key as a shared secret."""
    claims = world.claims("admin")
    unsigned = world.provider.token(claims).rpartition(".")[0] + "."
    for token in (
        world.provider.token(claims, FOREIGN),
        unsigned,
        signed_with_the_public_key(claims),
        world.provider.token(claims, EC, kid="rsa"),
        world.provider.token(claims, RSA, kid="never-heard-of"),
        "a.b.c",
    ):
        assert refusal(Caller(world.coordinator.http, token)) == "authentication_required"


def test_a_new_key_is_found_and_one_that_was_withdrawn_is_good_no_more(tmp_path: Path) -> None:
    with providing(RSA) as provider:
        known = OpenIdProvider(provider.url, AUDIENCE, 30.0, refresh_seconds=0.0)
        claims = {"iss": provider.url, "aud": AUDIENCE, "sub": "ada", "exp": 2**31}
        assert known.verified(provider.token(claims))["sub"] == "ada"
        provider.keys.insert(0, NEW)
        assert known.verified(provider.token(claims))["sub"] == "ada"
        provider.keys.remove(RSA)
        patient = OpenIdProvider(provider.url, AUDIENCE, 30.0)
        patient.verified(provider.token(claims))
        with pytest.raises(Exception, match="not valid"):
            patient.verified(provider.token(claims, RSA))


def test_unknown_keys_do_not_have_the_provider_asked_again_and_again(world: World) -> None:
    world.person("admin").get(FEDERATION)
    before = len(world.provider.asked)
    for number in range(5):
        token = world.provider.token(world.claims("admin"), RSA, kid=f"unknown-{number}")
        assert refusal(Caller(world.coordinator.http, token)) == "authentication_required"
    assert len(world.provider.asked) == before


def test_a_provider_that_does_not_answer_is_no_reason_to_let_anybody_in(world: World) -> None:
    world.provider.is_down = True
    response = world.person("admin").request("GET", FEDERATION)
    assert problem_of(response) == "overloaded"
    assert int(response.headers["retry-after"]) >= 1
    asked = len(world.provider.asked)
    assert refusal(world.person("admin")) == "overloaded"
    assert len(world.provider.asked) == asked, "it is left alone for a while"
    world.coordinator.admin.get(FEDERATION)


def test_a_provider_that_calls_itself_something_else_is_not_believed() -> None:
    with providing(RSA) as provider:
        provider.claimed_issuer = "https://elsewhere.example"
        with pytest.raises(ProviderError, match="elsewhere"):
            discover(provider.url)


@pytest.mark.parametrize(
    "url", ["http://provider.example", "file:///etc/passwd", "provider.example", "ftp://x/y"]
)
def test_keys_are_fetched_over_https_or_on_this_machine(url: str) -> None:
    with pytest.raises(ValueError, match="allowed"):
        checked_url(url)
    assert checked_url("https://provider.example/x") == "https://provider.example/x"


def test_the_admin_token_is_good_until_it_is_switched_off_for_the_provider(tmp_path: Path) -> None:
    with providing(RSA) as provider:
        options = {"oidc_issuer": provider.url, "oidc_audience": AUDIENCE, "local_admin": False}
        with running(settings_for(tmp_path, **options)) as coordinator:
            assert refusal(coordinator.admin, "/v1/federations") == "authentication_required"
            World(coordinator, provider).person("admin").get("/v1/federations")


@pytest.mark.parametrize(
    "options",
    [
        {"oidc_issuer": "https://provider.example"},
        {"oidc_audience": AUDIENCE},
        {"local_admin": False},
        {"oidc_issuer": "http://provider.example", "oidc_audience": AUDIENCE},
    ],
)
def test_settings_by_which_nobody_or_anybody_could_come_in_are_refused(
    tmp_path: Path, options: dict[str, Any]
) -> None:
    with pytest.raises(ValidationError):
        settings_for(tmp_path, **options)


def test_a_token_of_a_provider_is_nothing_where_none_is_configured(coordinator: Coordinator) -> None:
    with providing(RSA) as provider:
        assert refusal(World(coordinator, provider).person("admin")) == "authentication_required"
