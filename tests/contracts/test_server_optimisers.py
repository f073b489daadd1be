"""A federation with a server optimiser, on both databases: its state is part of the lineage."""

import math
from typing import Any

import pytest
from tests.contracts.test_rounds import close_round, computed_digest, raising, training_round
from tests.server.harness import Coordinator, running

from pfedbayespt.protocol import ParametersManifest, canonical_json, digest_of_bytes, tensors
from pfedbayespt.server.rounds import progress
from pfedbayespt.server.settings import Settings

FEDAVGM = {"rule": "fedavgm", "server_learning_rate": 1.0, "momentum": 0.5}
FEDADAM = {"rule": "fedadam", "server_learning_rate": 0.1, "beta_1": 0.5, "beta_2": 0.5, "tau": 0.01}


on_one_database = pytest.mark.parametrize("settings", ["sqlite"], indirect=True)
"""For rules that no row or query of its own decides."""


def train_round(coordinator: Coordinator, sites: list[Any], value: float) -> dict[str, Any]:
    """Run a training round in which every site sends `value`; return its version."""
    for site in sites:
        site.train(value)
    coordinator.settle()
    return dict(coordinator.versions()[0])


def bias(coordinator: Coordinator, number: int) -> float:
    return float(coordinator.parameters(number)["head.bias"][0])


def test_momentum_goes_from_round_to_round(coordinator: Coordinator) -> None:
    sites = training_round(coordinator, aggregation=FEDAVGM)
    assert (
        coordinator.versions()[0]["optimiser_state_digest"] is None
    )  # the statistics round has no optimiser
    for value in (1.0, 1.0, 0.0):
        train_round(coordinator, sites, value)
    # m = 1, 1.5, 0.75; theta adds them up.
    assert [bias(coordinator, number) for number in (2, 3, 4)] == [1.0, 2.5, 3.25]
    with coordinator.context.blobs.open(
        coordinator.versions()[0]["optimiser_state_digest"], verify=True
    ) as file:
        state = tensors.decode(file.read())[1]
    assert state["head.bias"].tolist() == [[0.75]] * 3
    assert "statistics.mean" not in state


@on_one_database
def test_adam_agrees_with_its_equations(coordinator: Coordinator) -> None:
    sites = training_round(coordinator, aggregation=FEDADAM)
    m, v, theta = 0.0, 0.01**2, 0.0
    for number, value in enumerate((0.5, -0.25), start=2):
        train_round(coordinator, sites, value)
        m, v = 0.5 * m + 0.5 * value, 0.5 * v + 0.5 * value**2
        theta += 0.1 * m / (math.sqrt(v) + 0.01)
        assert bias(coordinator, number) == pytest.approx(theta, rel=1e-6)


def test_a_rollback_brings_back_the_state_of_the_version_it_promotes(coordinator: Coordinator) -> None:
    sites = training_round(coordinator, num_rounds=5, aggregation=FEDAVGM)
    second = train_round(coordinator, sites, 1.0)
    train_round(coordinator, sites, 8.0)
    coordinator.admin.post("/v1/federations/alpha/model-versions/2/promote")
    coordinator.settle()
    assert coordinator.live_round()["base_version"] == 2
    train_round(coordinator, sites, 0.0)
    # From theta = 1 with m = 1, as if the third round had never been.
    assert bias(coordinator, 4) == 1.5
    assert coordinator.versions()[1]["optimiser_state_digest"] != second["optimiser_state_digest"]


@on_one_database
def test_a_held_candidates_momentum_is_not_carried_on(coordinator: Coordinator) -> None:
    gate = {"evaluate": True, "max_accuracy_drop": 0.1}
    sites = training_round(coordinator, num_rounds=5, aggregation=FEDAVGM, **gate)
    for value, accuracy in ((1.0, 0.9), (8.0, 0.1), (0.0, 0.9)):
        train_round(coordinator, sites, value)
        for site in sites:
            site.evaluate(accuracy)
        coordinator.settle()
    assert [version["status"] for version in coordinator.versions()[:3]] == ["serving", "held", "retired"]
    assert bias(coordinator, 4) == 1.5


def test_redoing_it_after_a_crash_gives_the_same_digests(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running(settings) as first:
        sites = training_round(first, aggregation=FEDADAM)
        train_round(first, sites, 0.5)
        for site, value in zip(sites, (0.25, -1.0), strict=True):
            site.train(value)
        close_round(first)
        with monkeypatch.context() as patched:
            patched.setattr(progress, "complete", raising(RuntimeError("the process dies here")))
            first.tick()
        computed = computed_digest(first)
    with running(settings) as second:
        second.settle()
        version = second.versions()[0]
        assert version["digest"] == computed
        assert second.context.blobs.exists(version["optimiser_state_digest"])


@on_one_database
def test_the_previous_state_is_among_the_recorded_inputs(coordinator: Coordinator) -> None:
    """Anyone can say from the lineage which inputs the file's manifest speaks of."""
    sites = training_round(coordinator, aggregation=FEDAVGM)
    states: list[str | None] = [None]
    for number in (2, 3):
        version = train_round(coordinator, sites, 0.5)
        inputs: dict[str, Any] = {"inputs": version["inputs"]}
        if states[-1] is not None:
            inputs["optimiser_state"] = states[-1]
        response = coordinator.admin.request(
            "GET", f"/v1/federations/alpha/model-versions/{number}/parameters"
        )
        manifest = ParametersManifest.model_validate_json(tensors.decode(response.content)[0])
        assert manifest.inputs_digest == digest_of_bytes(canonical_json(inputs))
        states.append(version["optimiser_state_digest"])


@on_one_database
def test_a_damaged_state_stops_the_round_at_its_deadline_and_nothing_else(coordinator: Coordinator) -> None:
    sites = training_round(coordinator, num_rounds=5, aggregation=FEDAVGM)
    version = train_round(coordinator, sites, 1.0)
    coordinator.context.blobs.delete(version["optimiser_state_digest"])
    train_round(coordinator, sites, 1.0)
    assert coordinator.live_round()["status"] == "aggregating"
    coordinator.clock.move(coordinator.context.settings.aggregation_deadline_seconds + 1)
    coordinator.tick()
    assert coordinator.admin.get("/v1/federations/alpha")["serving_version"] == 2
    # An earlier version, whose state is whole, can be promoted and trained on.
    coordinator.admin.post("/v1/federations/alpha/model-versions/1/promote")
    coordinator.settle()
    train_round(coordinator, sites, 1.0)
    assert coordinator.admin.get("/v1/federations/alpha")["serving_version"] == 3
