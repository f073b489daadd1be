"""A site behind a forward proxy that cuts idle connections and loses answers."""

from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.client_sdk.forward_proxy import proxying
from tests.client_sdk.harness import Coordinator, coordinating

from pfedbayespt.client import Site, events
from pfedbayespt.client.events import SiteEvent
from pfedbayespt.model.config import BackboneConfig
from pfedbayespt.protocol import RoundStatus, UpdateStatus

IDLE_SECONDS = 0.2  # thirty in a hospital; scaled down, as are the waits


@pytest.fixture
def coordinator(
    tmp_path: Path, backbone_file: Path, backbone_config: BackboneConfig
) -> Iterator[Coordinator]:
    """Asks sites to wait longer than the proxy keeps a connection open."""
    with coordinating(
        tmp_path / "coordinator", backbone_file, backbone_config, retry_after_seconds=2 * IDLE_SECONDS
    ) as running:
        yield running


def test_a_site_works_through_a_proxy_that_cuts_idle_connections_and_loses_answers(
    coordinator: Coordinator, images: Path, tmp_path: Path
) -> None:
    coordinator.found(num_rounds=4, min_sites_to_start=1, quorum=1)
    with proxying(idle_seconds=IDLE_SECONDS) as proxy:
        coordinator.enrol(tmp_path / "state", "clinic-a", proxy=proxy.url)
        assert proxy.num_requests > 0, "enrolment takes the proxy too"
        proxy.lose_every = 20  # five in a hundred
        seen: list[SiteEvent] = []
        site = Site.resume(tmp_path / "state")  # which remembers the proxy
        progress = site.run(images / "train", images / "held-out", on_event=seen.append)
        assert proxy.num_lost > 0
        assert proxy.num_cut > 0
    assert progress.rounds_contributed == 5
    assert seen[-1] == events.SiteFinished(stopped=False)
    rounds = list(coordinator.admin.rounds.list("shapes"))
    assert {round_.status for round_ in rounds} == {RoundStatus.PUBLISHED}
    for round_ in rounds:
        (update,) = coordinator.admin.updates.list(round_.round_id)
        assert update.status is UpdateStatus.AGGREGATED


def test_every_answer_of_a_submission_lost_once_leads_to_no_second_update(
    coordinator: Coordinator, images: Path, tmp_path: Path
) -> None:
    """Every second answer is lost: each call is made twice or more, and everything still happens once."""
    coordinator.found(num_rounds=1, min_sites_to_start=1, quorum=1)
    with proxying(idle_seconds=IDLE_SECONDS) as proxy:
        coordinator.enrol(tmp_path / "state", "clinic-a", proxy=proxy.url)
        proxy.lose_every = 2
        Site.resume(tmp_path / "state").run(images / "train", images / "held-out")
    for round_ in coordinator.admin.rounds.list("shapes"):
        assert len(list(coordinator.admin.updates.list(round_.round_id))) == 1
