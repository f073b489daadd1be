"""An SDK and a coordinator of different releases: a clear answer from whichever of them notices."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest
from tests.client_sdk.harness import Coordinator
from tests.client_sdk.scripted_app import Scripted, ScriptedApp

from pfedbayespt.client import CoordinatorClient
from pfedbayespt.client.errors import ProtocolMismatch
from pfedbayespt.protocol import PROTOCOL_HEADER, PROTOCOL_VERSION, protocol_mismatch

Serve = Callable[[Any], str]


def test_every_answer_of_the_coordinator_says_its_protocol(coordinator: Coordinator) -> None:
    for path in ("/livez", "/v1/nothing", "/v1/federations"):
        assert httpx.get(coordinator.url + path).headers[PROTOCOL_HEADER] == PROTOCOL_VERSION


@pytest.mark.parametrize(("theirs", "to_upgrade"), [("0", "the SDK"), ("2", "the coordinator")])
def test_the_coordinator_refuses_an_sdk_of_another_protocol(
    coordinator: Coordinator, theirs: str, to_upgrade: str
) -> None:
    answer = httpx.put(
        coordinator.url + "/v1/rounds/rnd_1/updates/sit_1",
        headers={PROTOCOL_HEADER: theirs},
        content=b"x" * 10,
    )
    assert answer.status_code == 426
    problem = answer.json()
    assert problem["type"] == "urn:pfedbayespt:problem:protocol_mismatch"
    assert f"upgrade {to_upgrade}" in problem["detail"]
    assert answer.headers["X-Request-Id"]


@pytest.mark.parametrize(("theirs", "to_upgrade"), [("0", "the coordinator"), ("2", "the SDK")])
def test_the_sdk_refuses_a_coordinator_of_another_protocol_whatever_it_says(
    serve: Serve, theirs: str, to_upgrade: str
) -> None:
    """It does not try to understand the answer, nor to ask again."""
    app = ScriptedApp(Scripted(503, b"gibberish", {PROTOCOL_HEADER: theirs}))
    with CoordinatorClient(serve(app), "token") as client, pytest.raises(ProtocolMismatch) as refused:
        client.federations.get("shapes")
    assert f"upgrade {to_upgrade}" in str(refused.value)
    assert len(app.asked) == 1
    assert app.asked[0].headers[PROTOCOL_HEADER.lower()] == PROTOCOL_VERSION


def test_callers_without_the_header_are_served(coordinator: Coordinator) -> None:
    assert httpx.get(coordinator.url + "/livez").status_code == 200


@pytest.mark.parametrize("theirs", ["", "one", "1.0", "\u0662", "9" * 1000])
def test_whatever_the_header_holds_is_told_in_short(theirs: str) -> None:
    told = protocol_mismatch("1", theirs, "the SDK", "the coordinator")
    assert told is not None
    assert len(told) < 200
