"""What `site check` says of a clock that is wrong and of images that fit nowhere."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
from tests.client_sdk.harness import Coordinator
from tests.client_sdk.transports import Spy

from pfedbayespt.client import HttpAnswer, HttpRequest, Site, checks


@pytest.mark.parametrize(("ahead", "is_fit"), [(10, True), (-10, True), (90, False), (-3600, False)])
def test_a_clock_that_is_wrong_by_more_than_a_minute_is_unfit(
    coordinator: Coordinator, tmp_path: Path, ahead: int, is_fit: bool
) -> None:
    def elsewhere(request: HttpRequest, answer: HttpAnswer) -> HttpAnswer:
        then = datetime.now(UTC) - timedelta(seconds=ahead)
        return replace(answer, headers={**answer.headers, "date": format_datetime(then, usegmt=True)})

    coordinator.found()
    site: Site = coordinator.enrol(tmp_path / "state", "clinic-a", transport=Spy(after=elsewhere))
    finding = checks._asked("clock", lambda: checks._clock(site))
    assert finding.is_fit is is_fit
    assert ("ahead of" if ahead > 0 else "behind") in finding.detail
    assert ("NTP" in finding.detail) is not is_fit


def test_images_that_do_not_fit_into_memory_go_to_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sysconf", {"SC_AVPHYS_PAGES": 2**20, "SC_PAGE_SIZE": 2**12}.__getitem__)
    assert checks._cache_advice(2 * 2**30) == "all images fit into memory encoded: --cache-gib 2.0"
    assert checks._cache_advice(5 * 2**30).endswith("on the disk: --cache-gib 2.0 --store-gib 5.0")
