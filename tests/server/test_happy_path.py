"""A federation from its creation to its last round, over HTTP."""

import numpy as np
import pytest
from tests.server.harness import Coordinator


def test_three_sites_train_evaluate_and_finish(coordinator: Coordinator) -> None:
    coordinator.federation(num_rounds=2, min_sites_to_start=3, quorum=2)
    sites = coordinator.sites(3)
    assert [site.assignment()["action"] for site in sites] == ["wait"] * 3

    coordinator.settle()
    assert coordinator.live_round()["task"] == "statistics"
    for site, value, num_examples in zip(sites, (1.0, 2.0, 4.0), (10, 10, 20), strict=True):
        site.train(value, num_examples)
    coordinator.settle()

    # Statistics pool exactly: (10*1 + 10*2 + 20*4) / 40.
    assert coordinator.parameters(1)["statistics.mean"] == pytest.approx(2.75)
    assert not coordinator.parameters(1)["head.weight"].any()

    for number in (2, 3):
        for site in sites:
            site.train(1.0)
            assert site.assignment()["action"] == "wait"
        coordinator.settle()
        for site in sites:
            site.evaluate(0.5)
        coordinator.settle()
        assert coordinator.parameters(number)["head.weight"] == pytest.approx(float(number - 1))
    assert np.all(coordinator.parameters(3)["statistics.mean"] == np.float32(2.75))

    assert {site.assignment()["action"] for site in sites} == {"finished"}
    federation = coordinator.admin.get("/v1/federations/alpha")
    assert (federation["serving_version"], federation["rounds_published"]) == (3, 3)
    assert [version["status"] for version in coordinator.versions()] == [
        "serving",
        "retired",
        "retired",
        "retired",
    ]
