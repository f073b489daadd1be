"""A federation with something to see in it: versions, evaluations, a refused update, a round under way."""

from typing import Any

from tests.server.harness import Coordinator, SiteCaller, problem_of

METRICS = (
    {"accuracy": 0.41, "nll": 1.92, "ece": 0.21, "brier": 0.7},
    {"accuracy": 0.58, "nll": 1.31, "ece": 0.12, "brier": 0.55},
    {"accuracy": 0.71, "nll": 0.92, "ece": 0.06, "brier": 0.4},
)


def furnish(coordinator: Coordinator, name: str = "alpha") -> list[SiteCaller]:
    """Run statistics and three training rounds with three sites, and leave a fourth round half way."""
    coordinator.federation(name, min_sites_to_start=3, quorum=2, num_rounds=9)
    sites = [
        coordinator.enrol(name, site, organisation)
        for site, organisation in (("north", "clinic-a"), ("south", "clinic-b"), ("west", "lab-c"))
    ]
    coordinator.publish_statistics(sites)
    for number, metrics in enumerate(METRICS):
        for index, site in enumerate(sites):
            site.train(1.0 - 0.7 * index + 0.1 * number)
        coordinator.settle()
        for index, site in enumerate(sites):
            evaluate(site, {key: value * (1 + 0.07 * index) for key, value in metrics.items()})
        coordinator.settle()
        coordinator.clock.move(90)
    refuse_an_update(sites[1])
    sites[0].train(0.5)
    return sites


def evaluate(site: SiteCaller, metrics: dict[str, float]) -> None:
    version = site.assignment()["model_version"]
    path = f"/v1/federations/{site.federation}/model-versions/{version}/evaluations/{site.site_id}"
    assert site.request("PUT", path, json={"num_examples": 40, "metrics": metrics}).status_code == 200


def refuse_an_update(site: SiteCaller) -> str:
    """Send an update that is far too long, and return what it was refused for."""
    round_: dict[str, Any] = site.assignment()["round"]
    response = site.submit_file(round_["round_id"], site.update(round_, 1e9, 10))
    assert problem_of(response) == "update_rejected", response.text
    return str(response.json()["detail"])
