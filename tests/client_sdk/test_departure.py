"""Leaving: the coordinator knows, and nothing is left here."""

from pathlib import Path

import pytest
from tests.client_sdk.harness import Coordinator
from tests.client_sdk.transports import Killed, Spy

from pfedbayespt.client import HttpAnswer, HttpRequest, Site, TransportError
from pfedbayespt.client.errors import AuthenticationRequired
from pfedbayespt.protocol import SiteStatus


def test_leaving_tells_the_coordinator_and_removes_everything_here(
    coordinator: Coordinator, tmp_path: Path
) -> None:
    coordinator.found()
    site = coordinator.enrol(tmp_path / "state", "clinic-a")
    (tmp_path / "state" / "contexts").mkdir()
    (tmp_path / "state" / "contexts" / "encoded.safetensors").write_bytes(b"image data")
    site.leave()
    assert not (tmp_path / "state").exists()
    assert [known.status for known in coordinator.admin.sites.list("shapes")] == [SiteStatus.REVOKED]


def test_a_coordinator_that_cannot_be_told_keeps_the_site_here(
    coordinator: Coordinator, tmp_path: Path
) -> None:
    def out_of_reach(request: HttpRequest) -> HttpRequest:
        if request.url.endswith("/leave"):
            raise TransportError("out of reach", sent=True)
        return request

    coordinator.found()
    site = coordinator.enrol(tmp_path / "state", "clinic-a", transport=Spy(before=out_of_reach))
    with pytest.raises(TransportError):
        site.leave()
    assert Site.resume(tmp_path / "state").status().site.status is SiteStatus.ACTIVE


def test_a_site_that_died_while_it_left_leaves_when_asked_again(
    coordinator: Coordinator, tmp_path: Path
) -> None:
    def die(request: HttpRequest, answer: HttpAnswer) -> HttpAnswer:
        if request.url.endswith("/leave"):
            raise Killed
        return answer

    coordinator.found()
    site = coordinator.enrol(tmp_path / "state", "clinic-a", transport=Spy(after=die))
    with pytest.raises(Killed):
        site.leave()
    again = Site.resume(tmp_path / "state")
    with pytest.raises(AuthenticationRequired):
        again.status()
    again.leave()
    assert not (tmp_path / "state").exists()
