"""What Prometheus is told: real figures, behind the admin token, with labels that callers cannot multiply."""

import re

from prometheus_client.parser import text_string_to_metric_families
from tests.server.harness import Coordinator, problem_of

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
