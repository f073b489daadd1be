"""Who may do what: every operation, every kind of caller."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest
from fastapi import APIRouter
from fastapi.routing import APIRoute
from tests.server.harness import (
    ADMIN_TOKEN,
    Caller,
    Coordinator,
    problem_of,
    running,
    settings_for,
    upload_headers,
)

from pfedbayespt.server import app as app_module
from pfedbayespt.server import create_app
from pfedbayespt.server.auth import Allow, Role, check_declared
from pfedbayespt.server.sites import lifecycle as site_lifecycle
from pfedbayespt.server.sites import service as sites
from pfedbayespt.server.updates import endpoints


@dataclass(frozen=True)
class Operation:
    method: str
    path: str
    roles: frozenset[Role] | None

    def __str__(self) -> str:
        return f"{self.method} {self.path}"


def all_operations() -> list[Operation]:
    """Return every operation of the API and the roles that it declares; None: everybody."""
    operations = []
    for router in (*(resource.router for resource in app_module._COORDINATOR), app_module.health.router):
        for route in router.routes:
            assert isinstance(route, APIRoute)
            (allow,) = [part.call for part in route.dependant.dependencies if isinstance(part.call, Allow)]
            roles = None if not allow.roles else allow.roles
            operations += [Operation(method, route.path, roles) for method in route.methods or ()]
    return operations


OPERATIONS = all_operations()
GUARDED = [operation for operation in OPERATIONS if operation.roles is not None]


@dataclass
class World:
    """Two federations, with a round each, and everybody who might call."""

    coordinator: Coordinator
    callers: dict[str, Caller]
    places: dict[str, str]

    def call(self, operation: Operation, caller: str, **places: str) -> Any:
        path = operation.path.format(**(self.places | places))
        options: dict[str, Any] = {}
        if operation.method == "PUT" and "evaluations" not in path:
            options = {"content": b"x", "headers": upload_headers(b"x")}
        elif operation.method in {"POST", "PUT"}:
            options = {"json": {"num_examples": 1, "metrics": {}} if "evaluations" in path else {}}
        return self.callers[caller].request(operation.method, path, **options)


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    with running(settings_for(tmp_path_factory.mktemp("auth"))) as coordinator:
        for name in ("alpha", "beta"):
            coordinator.federation(name, min_sites_to_start=2, quorum=2, num_rounds=1)
        own, suspended, revoked, peer = coordinator.sites(4, "alpha")
        strangers = coordinator.sites(2, "beta")
        coordinator.settle()
        coordinator.admin.post(f"/v1/sites/{suspended.site_id}/suspend")
        coordinator.admin.post(f"/v1/sites/{revoked.site_id}/revoke")
        submitted = peer.train()
        callers: dict[str, Caller] = {
            "nobody": coordinator.anonymous(),
            "admin": coordinator.admin,
            "own site": own,
            "stranger": strangers[0],
            "suspended": suspended,
            "revoked": revoked,
            "wrong admin token": Caller(coordinator.http, "x" * len(ADMIN_TOKEN)),
            "wrong site secret": Caller(coordinator.http, str(own.credential)[:-1] + "!"),
            "unknown site": Caller(coordinator.http, "site_" + "0" * 32 + "_secret"),
            "not ASCII": Caller(coordinator.http, "site_é_ü"),
        }
        places = {
            "name": "alpha",
            "site_id": own.site_id,
            "round_id": coordinator.live_round("alpha")["round_id"],
            "update_id": submitted["update_id"],
            "number": "0",
        }
        yield World(coordinator, callers, places)


@pytest.mark.parametrize("operation", GUARDED, ids=str)
@pytest.mark.parametrize(
    "caller", ["nobody", "revoked", "wrong admin token", "wrong site secret", "unknown site", "not ASCII"]
)
def test_without_valid_credentials_every_guarded_operation_asks_for_them(
    world: World, operation: Operation, caller: str
) -> None:
    before = world.coordinator.dump()
    response = world.call(operation, caller)
    assert (response.status_code, problem_of(response)) == (401, "authentication_required")
    assert world.coordinator.dump() == before


@pytest.mark.parametrize("operation", GUARDED, ids=str)
def test_a_suspended_site_is_refused_at_once(world: World, operation: Operation) -> None:
    before = world.coordinator.dump()
    response = world.call(operation, "suspended")
    assert (response.status_code, problem_of(response)) == (403, "permission_denied")
    assert world.coordinator.dump() == before


@pytest.mark.parametrize(
    "operation", [operation for operation in GUARDED if Role.SITE not in (operation.roles or ())], ids=str
)
def test_what_is_for_the_admin_is_refused_to_a_site(world: World, operation: Operation) -> None:
    before = world.coordinator.dump()
    response = world.call(operation, "own site")
    assert (response.status_code, problem_of(response)) == (403, "permission_denied")
    assert world.coordinator.dump() == before


@pytest.mark.parametrize(
    "operation", [operation for operation in GUARDED if Role.ADMIN not in (operation.roles or ())], ids=str
)
def test_what_is_for_a_site_is_refused_to_the_admin(world: World, operation: Operation) -> None:
    response = world.call(operation, "admin")
    assert (response.status_code, problem_of(response)) == (403, "permission_denied")


@pytest.mark.parametrize(
    "operation",
    [operation for operation in GUARDED if Role.SITE in (operation.roles or ()) and "{" in operation.path],
    ids=str,
)
def test_another_federations_objects_do_not_exist_for_a_site(world: World, operation: Operation) -> None:
    before = world.coordinator.dump()
    stranger = world.callers["stranger"]
    response = world.call(operation, "stranger", site_id=stranger.site_id)
    assert (response.status_code, problem_of(response)) == (404, "not_found")
    assert world.coordinator.dump() == before


def test_a_site_may_read_its_own_federation(world: World) -> None:
    own = world.callers["own site"]
    for path in (
        "/v1/sites/me",
        "/v1/sites/me/assignment",
        "/v1/federations/alpha",
        "/v1/federations/alpha/rounds",
        f"/v1/rounds/{world.places['round_id']}",
        "/v1/federations/alpha/model-versions",
        "/v1/federations/alpha/model-versions/0",
    ):
        own.get(path)


def test_a_site_does_not_write_in_another_sites_name(coordinator: Coordinator) -> None:
    coordinator.federation(min_sites_to_start=2, quorum=2, num_rounds=1)
    one, other = coordinator.sites(2)
    coordinator.settle()
    round_ = coordinator.live_round()
    content = one.update(round_, 1.0, 10)
    path = f"/v1/rounds/{round_['round_id']}/updates/{other.site_id}"
    assert problem_of(one.put_file(path, content)) == "permission_denied"
    path = f"/v1/federations/alpha/model-versions/0/evaluations/{other.site_id}"
    body = {"num_examples": 1, "metrics": {"accuracy": 1.0}}
    assert problem_of(one.request("PUT", path, json=body)) == "permission_denied"


def test_the_three_open_operations_are_the_known_ones() -> None:
    assert {str(operation) for operation in OPERATIONS if operation.roles is None} == {
        "POST /v1/sites",
        "GET /livez",
        "GET /readyz",
    }


def test_an_app_with_an_operation_that_declares_nothing_does_not_start() -> None:
    router = APIRouter()

    @router.get("/forgotten")
    def forgotten() -> None: ...

    with pytest.raises(RuntimeError, match="/forgotten"):
        check_declared([router])


def test_create_app_runs_that_check(tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    router = APIRouter()
    router.add_api_route("/forgotten", lambda: None)
    monkeypatch.setattr(app_module.health, "router", router)
    with pytest.raises(RuntimeError, match="/forgotten"):
        create_app(settings_for(tmp_path))


def test_a_site_that_is_shut_out_while_its_body_arrives_is_refused(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    coordinator.federation(min_sites_to_start=2, quorum=2, num_rounds=1)
    site, _ = coordinator.sites(2)
    coordinator.settle()
    receive = endpoints.receive_update

    async def receive_and_lose_the_right(*arguments: Any) -> Any:
        received = await receive(*arguments)
        with coordinator.context.database.write("admin") as tx:
            site_lifecycle.suspend(tx, sites.find(tx, site.site_id))
        return received

    monkeypatch.setattr(endpoints, "receive_update", receive_and_lose_the_right)
    round_ = coordinator.live_round()
    response = site.submit_file(round_["round_id"], site.update(round_, 1.0, 10))
    assert problem_of(response) == "permission_denied"
    assert coordinator.admin.get(f"/v1/rounds/{round_['round_id']}/updates")["items"] == []
