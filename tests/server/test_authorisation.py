"""The authorisation matrix: every operation x every kind of principal x their own and other people's objects.

A cell that must not pass is refused with the right kind of problem and changes nothing; one that must pass is not
refused for who asks. What a row of the matrix means: `authorisation_rows.py`.
"""

import base64
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import select
from tests.server.authorisation_rows import PRINCIPALS, ROWS, Principal, Row, expected
from tests.server.harness import (
    ADMIN_TOKEN,
    Caller,
    Coordinator,
    SiteCaller,
    problem_of,
    rotate,
    running,
    settings_for,
    statement_header,
    upload_headers,
)
from tests.server.openid_provider import Provider, ec_key, providing

from pfedbayespt.protocol import SigningKey, TrialStatus, TrialTerms
from pfedbayespt.server import create_app
from pfedbayespt.server.auth import tokens
from pfedbayespt.server.federations.models import FederationRecord
from pfedbayespt.server.identifiers import new_id
from pfedbayespt.server.model_versions import repository as versions
from pfedbayespt.server.trials.models import TrialRecord

AUDIENCE = "coordinator"
ABOUT_WHO_ASKS = {"authentication_required", "permission_denied", "not_found"}


@dataclass(frozen=True)
class Target:
    """The objects of one federation, as path parameters.

    Attributes:
        live: in full use; what is refused is tried on these.
        spent: in a state in which no verb applies; what is allowed is tried on these.
    """

    federation: str
    live: dict[str, str]
    spent: dict[str, str]


@dataclass
class World:
    """Two federations with everything in them, and everybody who might call."""

    coordinator: Coordinator
    callers: dict[str, Caller]
    targets: list[Target]

    def signed(self, places: dict[str, str]) -> dict[str, str]:
        """Return a statement of the site whose objects the path names: others may have caught it."""
        owners = (caller for caller in self.callers.values() if isinstance(caller, SiteCaller))
        owner = next((site for site in owners if site.site_id == places["site_id"]), None)
        return {} if owner is None else statement_header(owner.statement(places["round_id"], b"x"))

    def call(self, operation: str, caller: str, places: dict[str, str]) -> Any:
        method, _, path = operation.partition(" ")
        row = ROWS[operation]
        options: dict[str, Any] = {"json": row.body} if row.body is not None else {}
        if row.body and "organisation" in row.body:
            options = {"json": row.body | {"organisation": places["organisation"]}}
        if row.is_upload:
            options = {"content": b"x", "headers": upload_headers(b"x") | self.signed(places)}
        return self.callers[caller].request(method, path.format(**places), **options)


def unknown_site_token(coordinator: Coordinator) -> str:
    signer = coordinator.context.signer
    with coordinator.context.database.read() as tx:
        return tokens.issue(signer, "sit_0", SigningKey.generate().key_id, tx.now, 900).access_token


def expired_token(coordinator: Coordinator, site: SiteCaller) -> str:
    signer = coordinator.context.signer
    with coordinator.context.database.read() as tx:
        then = tx.now - timedelta(seconds=900)
    return tokens.issue(signer, site.site_id, site.key.key_id, then, 900).access_token


def token_of_a_retired_key(site: SiteCaller) -> str:
    """Rotate the site's key; return a token of the old one."""
    old_token = str(site.credential)
    rotate(site)
    return old_token


def api_key(coordinator: Coordinator, federation: str, role: str, organisation: str = "clinic") -> Caller:
    body = {
        "organisation": f"{federation.removesuffix('-draft')}-{organisation}",
        "name": role.replace("_", "-"),
        "role": role,
    }
    made = coordinator.admin.post(f"/v1/federations/{federation}/api-keys", body, status=201)
    return Caller(coordinator.http, made["key"])


def revoked_api_key(coordinator: Coordinator) -> Caller:
    caller = api_key(coordinator, "alpha", "federation_lead")
    key_id = f"api_{str(caller.credential).split('_')[2]}"
    coordinator.admin.post(f"/v1/api-keys/{key_id}/revoke")
    return caller


def spoilt_api_key(coordinator: Coordinator) -> Caller:
    """A secret that was guessed, with the checksum that it should have."""
    sound = str(api_key(coordinator, "alpha", "federation_lead").credential)
    rest = sound[:-9] + ("A" if sound[-9] != "A" else "B")
    return Caller(coordinator.http, f"{rest}{zlib.crc32(rest.encode()):08x}")


def ended_trial(coordinator: Coordinator, name: str) -> str:
    """Put a trial there that is over: the federation has no second version to try."""
    with coordinator.context.database.write("admin") as tx:
        federation = tx.session.scalars(select(FederationRecord).where(FederationRecord.name == name)).one()
        version = versions.serving(tx, federation.id)
        assert version is not None
        trial = TrialRecord(
            id=new_id("trl"),
            federation_id=federation.id,
            version_id=version.id,
            serving_version_id=version.id,
            status=TrialStatus.STOPPED,
            terms=TrialTerms().model_dump(mode="json"),
            started_at=tx.now,
            finished_at=tx.now,
        )
        tx.session.add(trial)
    return trial.id


def people(coordinator: Coordinator, provider: Provider) -> dict[str, Caller]:
    """Return callers with tokens of the provider, in the federations and in their drafts."""
    with coordinator.context.database.read() as tx:
        now = int(tx.now.timestamp())

    def person(*roles: str, seconds: int = 900) -> Caller:
        claims = {"iss": provider.url, "aud": AUDIENCE, "sub": "ada", "iat": now - 900, "exp": now + seconds}
        return Caller(coordinator.http, provider.token(claims | {"pfedbayespt_roles": list(roles)}))

    leading = {
        f"{name}{place}": person(f"federation_lead:{federation}{draft}")
        for name, federation in (
            ("person who leads", "alpha"),
            ("person who leads another federation", "beta"),
        )
        for place, draft in (("", ""), (", draft", "-draft"))
    }
    return leading | {
        "person whose token has expired": person("admin", seconds=-300),
        "person without a role": person("staff"),
        "person who audits": person("auditor:alpha"),
        "person who predicts": person("predictor:alpha:alpha-clinic"),
        "person who predicts, draft": person("predictor:alpha-draft:alpha-clinic"),
        "person who administers an organisation": person("org_admin:alpha:alpha-clinic"),
        "person who administers an organisation, draft": person("org_admin:alpha-draft:alpha-clinic"),
        "person who is an admin": person("admin"),
    }


def furnish(coordinator: Coordinator, name: str) -> tuple[list[SiteCaller], Target]:
    """Found a federation with a live round and six sites, the last two of them shut out."""
    coordinator.federation(name, min_sites_to_start=2, quorum=2, num_rounds=1)
    organisations = ("clinic", "clinic", "hospital", "clinic", "clinic", "clinic")
    sites = [
        coordinator.enrol(name, f"site-{number}", f"{name}-{organisation}")
        for number, organisation in enumerate(organisations)
    ]
    coordinator.settle()
    spent_round = coordinator.live_round(name)
    spent_update = sites[3].train()
    coordinator.admin.post(f"/v1/rounds/{spent_round['round_id']}/abandon")
    coordinator.settle()
    coordinator.admin.post(f"/v1/sites/{sites[4].site_id}/suspend")
    coordinator.admin.post(f"/v1/sites/{sites[5].site_id}/revoke")
    live_update = sites[3].train()
    draft = coordinator.draft(f"{name}-draft")
    body = {"organisation": f"{name}-clinic", "name": "spare"}
    key_id = coordinator.admin.post(f"/v1/federations/{name}/api-keys", body, status=201)["api_key"][
        "api_key_id"
    ]
    live = {
        "name": name,
        "site_id": sites[0].site_id,
        "key_id": sites[0].key.key_id,
        "round_id": coordinator.live_round(name)["round_id"],
        "update_id": live_update["update_id"],
        "number": "0",
        "api_key_id": key_id,
        "organisation": f"{name}-clinic",
        "version": "0",
        "trial_id": ended_trial(coordinator, name),
    }
    spent = live | {
        "site_id": sites[5].site_id,
        "round_id": spent_round["round_id"],
        "update_id": spent_update["update_id"],
        "draft": draft,
    }
    return sites, Target(name, live, spent)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with inhabited(tmp_path_factory.mktemp("authorisation")) as world:
        yield world


@contextmanager
def inhabited(folder: Path) -> Iterator[World]:
    """Run a coordinator with everything and everybody in it."""
    with ExitStack() as stack:
        provider = stack.enter_context(providing(ec_key("ec")))
        settings = settings_for(folder, oidc_issuer=provider.url, oidc_audience=AUDIENCE)
        coordinator = stack.enter_context(running(settings))
        (own, sibling, peer, _, suspended, revoked), alpha = furnish(coordinator, "alpha")
        (stranger, *_), beta = furnish(coordinator, "beta")
        http = coordinator.http
        callers: dict[str, Caller] = {
            "nobody": coordinator.anonymous(),
            "garbage": Caller(http, "x"),
            "JSON without end": Caller(http, base64.urlsafe_b64encode(b"[" * 3000).decode() + ".e30.AA"),
            "not ASCII": Caller(http, "é.ü.ü"),
            "wrong admin token": Caller(http, "x" * len(ADMIN_TOKEN)),
            "wrong site credential": Caller(http, str(own.credential)[:-2] + "!!"),
            "unknown site": Caller(http, unknown_site_token(coordinator)),
            "expired token": Caller(http, expired_token(coordinator, own)),
            "token of a retired key": Caller(http, token_of_a_retired_key(own)),
            "revoked site": revoked,
            "suspended site": suspended,
            "own site": own,
            "sibling of the same organisation": sibling,
            "peer of another organisation": peer,
            "site of another federation": stranger,
            "federation lead": api_key(coordinator, "alpha", "federation_lead"),
            "auditor": api_key(coordinator, "alpha", "auditor"),
            "predictor": api_key(coordinator, "alpha", "predictor"),
            "lead of another federation": api_key(coordinator, "beta", "federation_lead"),
            "auditor of another federation": api_key(coordinator, "beta", "auditor"),
            "predictor of another federation": api_key(coordinator, "beta", "predictor"),
            "organisation admin": api_key(coordinator, "alpha", "org_admin"),
            "admin of another organisation": api_key(coordinator, "alpha", "org_admin", "hospital"),
            "organisation admin of another federation": api_key(coordinator, "beta", "org_admin"),
            "organisation admin, draft": api_key(coordinator, "alpha-draft", "org_admin"),
            "organisation admin of another federation, draft": api_key(
                coordinator, "beta-draft", "org_admin"
            ),
            "federation lead, draft": api_key(coordinator, "alpha-draft", "federation_lead"),
            "predictor, draft": api_key(coordinator, "alpha-draft", "predictor"),
            "lead of another federation, draft": api_key(coordinator, "beta-draft", "federation_lead"),
            "predictor of another federation, draft": api_key(coordinator, "beta-draft", "predictor"),
            "revoked API key": revoked_api_key(coordinator),
            "spoilt API key": spoilt_api_key(coordinator),
            "admin": coordinator.admin,
            **people(coordinator, provider),
        }
        yield World(coordinator, callers, [alpha, beta])


@dataclass(frozen=True)
class Cell:
    """One call and what must come of it."""

    principal: Principal
    places: dict[str, str]
    problem: str | None
    stand_in: str | None = None

    @property
    def caller(self) -> str:
        """Whose credential is used."""
        return self.stand_in or self.principal.name


def cells(world: World, operation: str) -> Iterator[Cell]:
    row = ROWS[operation]
    for principal in PRINCIPALS:
        for target in world.targets if "{" in operation else world.targets[:1]:
            yield _cell(world, operation, row, principal, target)


def _cell(world: World, operation: str, row: Row, principal: Principal, target: Target) -> Cell:
    caller = world.callers[principal.name]
    federation = target.federation if "{" in operation else None
    itself = isinstance(caller, SiteCaller) and caller.site_id == target.live["site_id"]
    problem = expected(row, principal, federation, target.live["organisation"], names_itself=itself)
    if problem is not None:
        return Cell(principal, target.live, problem)
    changes_federation = operation.startswith("POST /v1/federations/{name}/") and not any(
        place in operation for place in ("{number}", "{trial_id}")
    )
    is_by_admin = not isinstance(caller, SiteCaller)
    places = target.spent if is_by_admin else target.live
    if is_by_admin and changes_federation:
        places = places | {"name": places["draft"]}
        if principal.federations is not None:  # a key is good for one federation, so the draft has its own
            return Cell(principal, places, None, f"{principal.name}, draft")
    return Cell(principal, places, None)


@pytest.mark.parametrize("operation", sorted(ROWS))
def test_every_cell_of_the_matrix_is_as_it_must_be(world: World, operation: str) -> None:
    before = world.coordinator.dump()
    allowed = []
    for cell in cells(world, operation):
        if cell.problem is None:
            allowed.append(cell)
            continue
        response = world.call(operation, cell.caller, cell.places)
        assert problem_of(response) == cell.problem, (cell, response.text)
    assert world.coordinator.dump() == before, "something that was refused has changed something"
    for cell in allowed:
        response = world.call(operation, cell.caller, cell.places)
        assert response.status_code < 400 or problem_of(response) not in ABOUT_WHO_ASKS, (cell, response.text)
        if operation.startswith("GET") and response.status_code != 200:
            assert problem_of(response) == "inference_unavailable", (cell, response.text)


def test_every_operation_of_the_live_document_has_a_row_and_every_row_an_operation(tmp_path: Any) -> None:
    paths = create_app(settings_for(tmp_path)).openapi()["paths"]
    documented = {f"{method.upper()} {path}" for path, methods in paths.items() for method in methods}
    assert documented == set(ROWS), "add a row to authorisation_rows.py"


def test_a_site_that_names_itself_in_another_federation_is_told_of_nothing(world: World) -> None:
    """The path names the caller, but the round and the version are another federation's."""
    stranger = world.callers["site of another federation"]
    assert isinstance(stranger, SiteCaller)
    places = world.targets[0].live | {"site_id": stranger.site_id}
    (principal,) = (one for one in PRINCIPALS if one.name == "site of another federation")
    for operation in (name for name, row in ROWS.items() if row.own_name):
        row = ROWS[operation]
        path = operation.partition(" ")[2].format(**places)
        options: dict[str, Any] = {"json": {"num_examples": 1, "metrics": {}}}
        if row.is_upload:
            statement = statement_header(stranger.statement(places["round_id"], b"x"))
            options = {"content": b"x", "headers": upload_headers(b"x") | statement}
        assert problem_of(stranger.request("PUT", path, **options)) == "not_found", (principal, operation)
