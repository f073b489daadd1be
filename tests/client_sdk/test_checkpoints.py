"""A site that dies in the middle of a round goes on after its last epoch, to the same bytes."""

import errno
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from tests.client_sdk.harness import Coordinator, coordinating
from tests.client_sdk.transports import Killed, Spy

from pfedbayespt.client import Site, events
from pfedbayespt.client.checkpoints import Checkpoints
from pfedbayespt.client.events import SiteEvent
from pfedbayespt.client.state import cannot_be_written
from pfedbayespt.model.config import BackboneConfig

TRAINING = {"local_epochs": 4}


@pytest.fixture(scope="module")
def undisturbed(
    tmp_path_factory: pytest.TempPathFactory,
    backbone_file: Path,
    backbone_config: BackboneConfig,
    images: Path,
) -> list[bytes]:
    """What a site that nothing happens to submits, without the headers, which name the round."""
    folder, spy = tmp_path_factory.mktemp("undisturbed"), Spy()
    with coordinating(folder / "coordinator", backbone_file, backbone_config) as coordinator:
        found(coordinator, "shapes")
        site = coordinator.enrol(folder / "state", "clinic-a", transport=spy)
        site.run(images / "train", images / "held-out")
    return [tensor_bytes(update) for update in spy.updates()]


def found(coordinator: Coordinator, name: str) -> None:
    coordinator.found(name, num_rounds=1, min_sites_to_start=1, quorum=1, training=TRAINING)


def tensor_bytes(update: bytes) -> bytes:
    """What follows the header, which names the round."""
    return update[8 + int.from_bytes(update[:8], "little") :]


def dying_after(epoch: int, seen: list[SiteEvent]) -> Callable[[SiteEvent], None]:
    def observer(event: SiteEvent) -> None:
        seen.append(event)
        if isinstance(event, events.EpochFinished) and event.epoch == epoch:
            raise Killed

    return observer


def epochs_of(seen: list[SiteEvent]) -> list[int]:
    return [event.epoch for event in seen if isinstance(event, events.EpochFinished)]


def kept_files(directory: Path) -> list[Path]:
    return sorted((directory / "training").glob("*"))


def test_a_site_killed_after_every_epoch_trains_none_twice_and_submits_the_same_bytes(
    coordinator: Coordinator, images: Path, tmp_path: Path, undisturbed: list[bytes]
) -> None:
    found(coordinator, "shapes")
    coordinator.enrol(tmp_path / "state", "clinic-a")
    seen: list[SiteEvent] = []
    for epoch in (1, 2, 3, 4):
        site = Site.resume(tmp_path / "state")
        with pytest.raises(Killed):
            site.run(images / "train", images / "held-out", on_event=dying_after(epoch, seen))
        (kept,) = kept_files(tmp_path / "state")
        assert kept.stat().st_mode & 0o077 == 0, "parameters trained here are for nobody else to read"
    spy = Spy()
    site = Site.resume(tmp_path / "state", transport=spy)
    site.run(images / "train", images / "held-out", on_event=seen.append)
    assert epochs_of(seen) == [1, 2, 3, 4]
    assert [tensor_bytes(update) for update in spy.updates()] == undisturbed[1:]
    assert kept_files(tmp_path / "state") == [], "removed with the submission"


def test_a_damaged_checkpoint_costs_time_and_nothing_else(
    coordinator: Coordinator, images: Path, tmp_path: Path, undisturbed: list[bytes]
) -> None:
    found(coordinator, "shapes")
    site = coordinator.enrol(tmp_path / "state", "clinic-a")
    with pytest.raises(Killed):
        site.run(images / "train", images / "held-out", on_event=dying_after(2, []))
    (kept,) = kept_files(tmp_path / "state")
    kept.write_bytes(kept.read_bytes()[:-100])
    spy, seen = Spy(), list[SiteEvent]()
    site = Site.resume(tmp_path / "state", transport=spy)
    site.run(images / "train", images / "held-out", on_event=seen.append)
    assert epochs_of(seen) == [1, 2, 3, 4]
    assert [tensor_bytes(update) for update in spy.updates()] == undisturbed[1:]


def test_a_full_disk_costs_the_checkpoint_and_nothing_else(
    coordinator: Coordinator, images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found(coordinator, "shapes")
    site = coordinator.enrol(tmp_path / "state", "clinic-a")

    def full(file: Path, content: bytes) -> None:
        raise cannot_be_written(file, OSError(errno.ENOSPC, os.strerror(errno.ENOSPC)))

    monkeypatch.setattr("pfedbayespt.client.checkpoints.write_whole", full)
    assert site.run(images / "train", images / "held-out").rounds_contributed == 2


def test_another_rounds_checkpoint_is_never_gone_on_from(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.of_round("rnd_1", "sha256:aa").write(b"one")
    assert checkpoints.of_round("rnd_1", "sha256:aa").read() == b"one"
    assert checkpoints.of_round("rnd_1", "sha256:bb").read() is None
    assert kept_files(tmp_path) == [], "it is of no use any more"
