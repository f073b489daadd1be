"""What Prometheus is told: real figures, behind the admin token, with labels that callers cannot multiply."""

import re

import pytest
from prometheus_client.parser import text_string_to_metric_families
from sqlalchemy.exc import OperationalError
from tests.server.harness import Coordinator, problem_of

from pfedbayespt.server.database import Database

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def read(coordinator: Coordinator) -> Samples:
    answer = coordinator.admin.request("GET", "/metrics")
    assert answer.status_code == 200, answer.text
    return {
        (sample.name, frozenset(sample.labels.items())): sample.value
        for family in text_string_to_metric_families(answer.text)
        for sample in family.samples
    }


def of(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


def test_a_stranger_is_told_nothing(coordinator: Coordinator) -> None:
    assert problem_of(coordinator.anonymous().request("GET", "/metrics")) == "authentication_required"


def test_rounds_updates_and_the_audit_log_are_counted(coordinator: Coordinator) -> None:
    coordinator.federation(num_rounds=2, min_sites_to_start=2, quorum=2)
    sites = coordinator.sites(2)
    coordinator.publish_statistics(sites)
    sites[0].train()
    coordinator.clock.move(30)
    samples = read(coordinator)
    assert of(samples, "pfedbayespt_rounds", federation="alpha", state="published") == 1
    assert of(samples, "pfedbayespt_rounds", federation="alpha", state="collecting") == 1
    assert of(samples, "pfedbayespt_round_state_seconds", federation="alpha", state="collecting") >= 30
    assert of(samples, "pfedbayespt_updates", federation="alpha", verdict="aggregated") == 2
    assert of(samples, "pfedbayespt_updates", federation="alpha", verdict="accepted") == 1
    assert of(samples, "pfedbayespt_audit_head_age_seconds", federation="alpha") >= 30


def test_acknowledgements_are_timed_by_template(coordinator: Coordinator) -> None:
    coordinator.federation(num_rounds=2, min_sites_to_start=2, quorum=2)
    coordinator.publish_statistics(coordinator.sites(2))
    route = "/v1/rounds/{round_id}/updates/{site_id}"
    samples = read(coordinator)
    assert of(samples, "pfedbayespt_request_seconds_count", route=route, method="PUT", status="201") == 2


def test_what_callers_make_up_becomes_no_label(coordinator: Coordinator) -> None:
    for number in range(20):
        coordinator.anonymous().request("GET", f"/made/up/{number}")
        coordinator.anonymous().request("GET", f"/v1/federations/made-up-{number}")
    text = coordinator.admin.request("GET", "/metrics").text
    assert not re.search(r"made.up", text)
    assert 'route="unknown"' in text


def test_storage_acknowledgements_and_the_models_age_are_told(coordinator: Coordinator) -> None:
    coordinator.federation(num_rounds=2, min_sites_to_start=2, quorum=2)
    sites = coordinator.sites(2)
    coordinator.publish_statistics(sites)
    coordinator.clock.move(60)
    samples = read(coordinator)
    assert of(samples, "pfedbayespt_acknowledgement_seconds_count") == 2
    assert of(samples, "pfedbayespt_storage_seconds_count") == 3  # two updates and their aggregate
    assert of(samples, "pfedbayespt_model_age_seconds", federation="alpha") >= 60
    assert of(samples, "pfedbayespt_storage_failures_total", kind="damaged") == 0
    assert of(samples, "pfedbayespt_aggregations_repeated_total") == 0


def test_damage_a_repeated_aggregation_and_a_database_that_is_away_are_counted(
    coordinator: Coordinator, monkeypatch: pytest.MonkeyPatch
) -> None:
    coordinator.federation(num_rounds=2, min_sites_to_start=3, quorum=2)
    sites = coordinator.sites(3)
    coordinator.settle()
    digest = sites[0].train()["digest"].removeprefix("sha256:")
    blobs = coordinator.context.settings.data_dir / "blobs" / "sha256"
    (blobs / digest[:2] / digest).write_bytes(b"?")
    for site, value in zip(sites[1:], (2.0, 3.0), strict=True):
        site.train(value)
    coordinator.settle()
    with monkeypatch.context() as outage:
        outage.setattr(Database, "ping", away)
        assert coordinator.http.get("/readyz").status_code == 503
    samples = read(coordinator)
    assert of(samples, "pfedbayespt_storage_failures_total", kind="damaged") == 1
    assert of(samples, "pfedbayespt_aggregations_repeated_total") == 1
    assert of(samples, "pfedbayespt_database_busy_total") == 1


def away(_: object) -> None:
    raise OperationalError("SELECT 1", {}, Exception("gone"))
