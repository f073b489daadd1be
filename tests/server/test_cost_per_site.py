"""What a request of one site makes the coordinator read does not grow with the number of the other sites.

Counted, not timed: the objects that are loaded from the database, and the characters of its longest value.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import event
from tests.server.harness import Coordinator, SiteCaller, running, settings_for

from pfedbayespt.server.orm import Base
from pfedbayespt.server.worker.driver import tick

Step = Callable[[Coordinator, SiteCaller], object]


@contextmanager
def loading() -> Iterator[list[str]]:
    """Note the kind of every object that is loaded, and whether what grows with the sites came with it."""
    loaded: list[str] = []

    def note(target: Any, _context: object) -> None:
        has_manifest = "manifest" in target.__dict__ and type(target).__name__ == "ModelVersionRecord"
        loaded.append(f"{type(target).__name__}{' with its manifest' if has_manifest else ''}")

    event.listen(Base, "load", note, propagate=True)
    try:
        yield loaded
    finally:
        event.remove(Base, "load", note)


def do(coordinator: Coordinator, site: SiteCaller) -> None:
    site.evaluate(0.5) if site.assignment()["action"] == "evaluate" else site.train()


def ask(coordinator: Coordinator, site: SiteCaller) -> None:
    site.assignment()


def download(coordinator: Coordinator, site: SiteCaller) -> None:
    number = site.assignment()["model_version"]
    assert site.request("GET", f"/v1/federations/alpha/model-versions/{number}/parameters").status_code == 200


def look_for_work(coordinator: Coordinator, site: SiteCaller) -> None:
    tick(coordinator.context)


def loaded_by(step: Step, state: str, num_sites: int, folder: Path) -> list[str]:
    """Return what a step loads for one of the last two sites of a federation that have not done their part."""
    with running(settings_for(folder / f"{num_sites}-sites")) as coordinator:
        coordinator.federation(num_rounds=2, min_sites_to_start=num_sites, quorum=num_sites)
        sites = coordinator.sites(num_sites)
        coordinator.publish_statistics(sites)
        if state == "evaluating":
            for site in sites:
                site.train()
            coordinator.settle()
        for site in sites[2:]:
            site.evaluate(0.5) if state == "evaluating" else site.train()
        with loading() as loaded:
            step(coordinator, sites[0])
        return sorted(loaded)


@pytest.mark.parametrize("state", ["collecting", "evaluating"])
@pytest.mark.parametrize("step", [ask, download, do, look_for_work])
def test_a_site_among_nine_costs_what_a_site_among_three_costs(
    step: Step, state: str, tmp_path: Path
) -> None:
    few, many = (loaded_by(step, state, num_sites, tmp_path) for num_sites in (3, 9))
    assert few
    assert many == few
    assert "ModelVersionRecord with its manifest" not in many  # it names every update


def test_an_assignment_names_no_other_site_and_the_round_names_all(coordinator: Coordinator) -> None:
    coordinator.federation(min_sites_to_start=3, num_rounds=1)
    sites = coordinator.sites(3)
    coordinator.settle()
    assert [site.assignment()["round"]["cohort"] for site in sites] == [[site.site_id] for site in sites]
    assert coordinator.live_round()["cohort"] == sorted(site.site_id for site in sites)
