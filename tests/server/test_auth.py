"""What surrounds the authorisation matrix (`test_authorisation.py`): declarations, names, and races."""

from typing import Any

import pytest
from fastapi import APIRouter
from tests.server.harness import (
    Coordinator,
    problem_of,
    settings_for,
    statement_header,
)

from pfedbayespt.server import app as app_module
from pfedbayespt.server import create_app
from pfedbayespt.server.auth import check_declared
from pfedbayespt.server.sites import lifecycle as site_lifecycle
from pfedbayespt.server.sites import service as sites
from pfedbayespt.server.updates import endpoints


def test_a_site_does_not_write_in_another_sites_name(coordinator: Coordinator) -> None:
    coordinator.federation(min_sites_to_start=2, quorum=2, num_rounds=1)
    one, other = coordinator.sites(2)
    coordinator.settle()
    round_ = coordinator.live_round()
    content = one.update(round_, 1.0, 10)
    path = f"/v1/rounds/{round_['round_id']}/updates/{other.site_id}"
    headers = statement_header(one.statement(round_["round_id"], content))
    assert problem_of(one.put_file(path, content, headers=headers)) == "permission_denied"
    path = f"/v1/federations/alpha/model-versions/0/evaluations/{other.site_id}"
    body = {"num_examples": 1, "metrics": {"accuracy": 1.0}}
    assert problem_of(one.request("PUT", path, json=body)) == "permission_denied"


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
