"""The SDK has a method for every operation that a real coordinator offers, and for no other."""

import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from tests.client_sdk.harness import ADMIN_TOKEN, Coordinator

from pfedbayespt.client import CoordinatorClient, HttpAnswer, HttpRequest, Timeouts
from pfedbayespt.client.errors import ProblemError
from pfedbayespt.protocol import (
    Evaluation,
    KeyPossession,
    SigningKey,
    SiteKeyAdd,
    SiteKeyRetire,
    SiteLeave,
    UpdateStatement,
    digest_of_bytes,
)
from pfedbayespt.server import Settings, create_app

FOR_OTHER_CLIENTS = "/v2"  # the Open Inference Protocol has clients of its own
FOR_PROBES = {("GET", "/livez")}  # asked by process managers, not by people's programs


def every_call(client: CoordinatorClient, coordinator: Coordinator) -> list[Callable[[], object]]:
    evaluation = Evaluation(num_examples=1, metrics={})
    federations, sites, rounds, updates = client.federations, client.sites, client.rounds, client.updates
    versions = client.model_versions
    key = SigningKey.generate()
    possession = KeyPossession.signed(key, site_id="sit_1", public_key=key.public_key)
    digest = digest_of_bytes(b"")
    statement = UpdateStatement.signed(
        key,
        federation="shapes",
        round_id="rnd_1",
        site_id="sit_1",
        base_digest=digest,
        update_digest=digest,
        num_examples=1,
        nonce="0" * 32,
    )
    by_name = [
        federations.get,
        federations.activate,
        federations.pause,
        federations.resume,
        federations.archive,
    ]
    by_name += [client.events, rounds.list, rounds.start, sites.list, versions.list]  # type: ignore[list-item]
    by_id = [sites.suspend, sites.reinstate, sites.revoke, rounds.get, rounds.close, rounds.abandon]
    by_id += [updates.list, updates.get]  # type: ignore[list-item]
    return [
        *(lambda call=call: call("an-id") for call in [*by_name, *by_id]),
        lambda: federations.create("shapes", coordinator.specification()),
        federations.list,
        lambda: federations.upload_initial_parameters("shapes", b""),
        lambda: federations.create_enrolment_token("shapes", "clinic"),
        lambda: federations.create_api_key("shapes", "clinic", "reading-room"),
        lambda: federations.list_api_keys("shapes"),
        lambda: federations.revoke_api_key("api_1"),
        lambda: client.organisations.create("clinic"),
        client.organisations.list,
        lambda: client.organisations.get("clinic"),
        lambda: client.organisations.of_federation("shapes"),
        lambda: sites.enrol("enr_1", "clinic-a", key, key.key_id),
        sites.list_keys,
        lambda: sites.add_key(SiteKeyAdd.signed(key, possession=possession)),
        lambda: sites.retire_key(SiteKeyRetire.signed(key, site_id="sit_1", retired_key_id=key.key_id)),
        client.identity,
        lambda: client.access_token("an.assertion.indeed"),
        sites.me,
        sites.assignment,
        lambda: sites.leave(SiteLeave.signed(key, site_id="sit_1", site_name="clinic-a")),
        lambda: updates.submit(statement, b""),
        lambda: versions.get("shapes", 1),
        lambda: versions.download("shapes", 1, "sha256:"),
        lambda: versions.report_evaluation("shapes", 1, "sit_1", evaluation),
        lambda: versions.lineage("shapes", 1),
        lambda: updates.receipt("upd_1"),
        lambda: updates.download("upd_1", digest),
        lambda: versions.promote("shapes", 1),
        lambda: client.trials.start("shapes", 1),
        lambda: client.trials.list("shapes"),
        lambda: client.trials.get("shapes", "trl_0"),
        lambda: client.trials.stop("shapes", "trl_0"),
        lambda: client.predict("shapes", b""),
        lambda: client.predict_batch("shapes", [b""]),
        client.forget_features,
        client.is_ready,
    ]


def test_every_operation_has_a_method_and_every_method_an_operation(
    coordinator: Coordinator, tmp_path: Path
) -> None:
    asked: list[tuple[str, str]] = []

    def record(request: HttpRequest, timeouts: Timeouts) -> HttpAnswer:
        asked.append((request.method, request.url.removeprefix("http://localhost").partition("?")[0]))
        return HttpAnswer(418)

    client = CoordinatorClient("http://localhost", "t", transport=record)
    for call in every_call(client, coordinator):
        with suppress(ProblemError):
            answer = call()
            if isinstance(answer, Iterator):  # a list asks when it is read
                next(answer)
    settings = Settings(
        admin_token=ADMIN_TOKEN, data_dir=tmp_path, roles=frozenset({"coordinator", "inference"})
    )
    offered = {
        (method.upper(), path)
        for path, operations in create_app(settings).openapi()["paths"].items()
        for method in operations
    }
    ours = {key for key in offered - FOR_PROBES if not key[1].startswith(FOR_OTHER_CLIENTS)}
    patterns = {key: re.compile(re.sub(r"\{[^}]+\}", "[^/]+", key[1])) for key in ours}

    def matches(key: tuple[str, str], request: tuple[str, str]) -> bool:
        return key[0] == request[0] and patterns[key].fullmatch(request[1]) is not None

    assert [key for key in patterns if not any(matches(key, request) for request in asked)] == []
    assert [request for request in asked if not any(matches(key, request) for key in patterns)] == []
