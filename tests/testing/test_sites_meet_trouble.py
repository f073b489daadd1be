"""Real sites, which train a tiny ViT on small images, with the fake coordinator and all that can go wrong."""

import shutil
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.client_sdk.harness import CLASSES, draw_images

from pfedbayespt.cli.founding import initial_parameters_file
from pfedbayespt.client import Site, Timeouts, events
from pfedbayespt.client.errors import SpecificationChangedError, StateError
from pfedbayespt.client.events import SiteEvent
from pfedbayespt.model.backbone import random_backbone
from pfedbayespt.protocol import FederationSpecification, Receipt, RoundStatus, tensors
from pfedbayespt.testing.coordinator import FakeCoordinator
from pfedbayespt.testing.faults import Fault
from pfedbayespt.testing.federation import FakeFederation

UPDATES = "PUT /v1/rounds/[^/]+/updates/[^/]+"
DISK_BYTES = 4 * 2**20


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a backbone and class folders of images."""
    folder = tmp_path_factory.mktemp("place")
    draw_images(folder / "images", 6)
    random_backbone(folder / "tiny.safetensors")
    return folder


def start(fake_coordinator: Callable[..., FakeCoordinator], place: Path) -> FakeCoordinator:
    """Return a running coordinator of a federation in which one site trains for two rounds."""
    backbone = place / "tiny.safetensors"
    config = random_backbone(backbone)
    specification = FederationSpecification.model_validate(
        {
            "classes": CLASSES,
            "backbone": {
                "architecture": config.architecture,
                "weights_digest": config.weights_digest,
                "image_size_pixels": config.image_size_pixels,
            },
            "insertion": {"kind": "prefix", "num_blocks": 2, "prompt_length": 2},
            "posterior": {"latent_dim": 4, "noise_dim": 3, "hidden_dim": 8},
            "training": {"local_epochs": 2, "batch_size": 8},
            "rounds": {"num_rounds": 2, "min_sites_to_start": 1, "quorum": 1},
        }
    )
    initial = tensors.decode(initial_parameters_file("shapes", specification, backbone))[1]
    return fake_coordinator(specification, initial, "shapes")


def join(coordinator: FakeCoordinator, place: Path, directory: Path) -> Site:
    return Site.enrol(
        coordinator.url,
        coordinator.invite(),
        name=directory.name,
        directory=directory,
        backbone=place / "tiny.safetensors",
        timeouts=Timeouts(total_seconds=2.0),
    )


def parameters(coordinator: FakeCoordinator) -> list[dict[str, Any]]:
    """The parameters of every version."""
    federation = coordinator.federation
    return [federation.parameters(version.number) for version in federation.versions]


@pytest.fixture
def undisturbed(
    fake_coordinator: Callable[..., FakeCoordinator], place: Path, tmp_path: Path
) -> list[dict[str, Any]]:
    """What a site comes to when nothing goes wrong."""
    coordinator = start(fake_coordinator, place)
    join(coordinator, place, tmp_path / "clinic").run(place / "images")
    shutil.rmtree(tmp_path / "clinic")
    return parameters(coordinator)


def test_answers_that_are_lost_cut_torn_or_late_change_nothing(
    fake_coordinator: Callable[..., FakeCoordinator],
    place: Path,
    tmp_path: Path,
    undisturbed: list[dict[str, Any]],
) -> None:
    coordinator = start(fake_coordinator, place)
    site, plan = join(coordinator, place, tmp_path / "clinic"), coordinator.faults.plan
    for fault in Fault:
        plan(fault, UPDATES)
        plan(fault, "GET /v1/federations/.*/parameters")
        plan(fault, "GET /v1/sites/me/assignment")
        plan(fault, "PUT .*/evaluations/.*")
    site.run(place / "images")
    assert Counter(line.split()[0] for line in coordinator.faults.happened) == dict.fromkeys(Fault, 4)
    assert [round_.status for round_ in coordinator.federation.rounds] == [RoundStatus.PUBLISHED] * 3
    np.testing.assert_equal(parameters(coordinator), undisturbed)


@pytest.fixture
def impatient_coordinator() -> Iterator[Callable[..., FakeCoordinator]]:
    """As `fake_coordinator`; but it wants a sign of life after every epoch, however fast an epoch is."""
    with ExitStack() as stack:
        yield lambda *arguments: stack.enter_context(
            FakeCoordinator(FakeFederation(*arguments), retry_after_seconds=0.0)
        )


def test_access_tokens_that_die_while_a_round_is_under_way_are_replaced(
    impatient_coordinator: Callable[..., FakeCoordinator],
    place: Path,
    tmp_path: Path,
    undisturbed: list[dict[str, Any]],
) -> None:
    coordinator = start(impatient_coordinator, place)

    def forget(event: SiteEvent) -> None:
        if isinstance(event, events.EpochFinished):
            coordinator.forget_tokens()

    join(coordinator, place, tmp_path / "clinic").run(place / "images", on_event=forget)
    assert coordinator.requests.count("POST /v1/token") >= 5  # four epochs, and the first
    np.testing.assert_equal(parameters(coordinator), undisturbed)


def test_a_key_is_not_replaced_while_a_round_is_under_way(
    fake_coordinator: Callable[..., FakeCoordinator],
    place: Path,
    tmp_path: Path,
    undisturbed: list[dict[str, Any]],
) -> None:
    coordinator = start(fake_coordinator, place)
    site, refusals = join(coordinator, place, tmp_path / "clinic"), list[str]()

    def rotate(event: SiteEvent) -> None:
        if isinstance(event, events.EpochFinished):
            with pytest.raises(StateError) as refused:
                Site.resume(site.directory).rotate_key()
            refusals.append(str(refused.value))

    (member,) = coordinator.federation.members.values()
    keys = dict(member.keys)
    site.run(place / "images", on_event=rotate)
    assert refusals == [f"another process runs the site in {site.directory}"] * 4  # two rounds of two epochs
    assert (member.keys, member.retired) == (keys, set())
    np.testing.assert_equal(parameters(coordinator), undisturbed)


def test_a_coordinator_that_changes_what_was_agreed_on_gets_nothing_more(
    fake_coordinator: Callable[..., FakeCoordinator], place: Path, tmp_path: Path
) -> None:
    coordinator = start(fake_coordinator, place)
    agreed = coordinator.federation.specification
    changed = agreed.model_copy(update={"training": agreed.training.model_copy(update={"local_epochs": 1})})

    def change(event: SiteEvent) -> None:
        if isinstance(event, events.VersionEvaluated):
            coordinator.federation.break_agreement(changed)

    site = join(coordinator, place, tmp_path / "clinic")
    with pytest.raises(SpecificationChangedError, match="if the change is wanted, enrol again"):
        site.run(place / "images", on_event=change)
    assert sum("PUT /v1/rounds" in request for request in coordinator.requests) == 2
    coordinator.federation.break_agreement(agreed)
    Site.resume(site.directory).run(place / "images")
    assert [round_.status for round_ in coordinator.federation.rounds] == [RoundStatus.PUBLISHED] * 3


def test_a_key_that_is_replaced_between_two_runs_goes_on_in_the_middle_of_a_round(
    fake_coordinator: Callable[..., FakeCoordinator],
    place: Path,
    tmp_path: Path,
    undisturbed: list[dict[str, Any]],
) -> None:
    coordinator = start(fake_coordinator, place)
    site = join(coordinator, place, tmp_path / "clinic")

    def stop(event: SiteEvent) -> None:
        if isinstance(event, events.EpochFinished) and event.round_number == 2:
            site.stop()

    site.run(place / "images", on_event=stop)
    (member,) = coordinator.federation.members.values()
    old = set(member.keys)
    new = site.rotate_key()
    assert (set(member.keys), member.retired) == ({new}, old)
    Site.resume(site.directory).run(place / "images")
    np.testing.assert_equal(parameters(coordinator), undisturbed)


@pytest.mark.parametrize("hours", [-7, 7])
def test_a_site_whose_clock_is_hours_off_takes_part(
    fake_coordinator: Callable[..., FakeCoordinator], place: Path, tmp_path: Path, hours: int
) -> None:
    coordinator = start(fake_coordinator, place)
    coordinator.clock = lambda: time.time() + hours * 3600
    join(coordinator, place, tmp_path / "clinic").run(place / "images")
    assert [round_.status for round_ in coordinator.federation.rounds] == [RoundStatus.PUBLISHED] * 3


def test_a_coordinator_that_is_away_when_training_ends_gets_the_same_update_later(
    fake_coordinator: Callable[..., FakeCoordinator],
    place: Path,
    tmp_path: Path,
    undisturbed: list[dict[str, Any]],
) -> None:
    coordinator = start(fake_coordinator, place)
    away: list[str] = []

    def come_and_go(event: SiteEvent) -> None:
        if isinstance(event, events.EpochFinished) and event.epoch == event.num_epochs:
            coordinator.stop()
        elif isinstance(event, events.CoordinatorUnreachable):
            away.append(event.reason)
            coordinator.start()

    join(coordinator, place, tmp_path / "clinic").run(place / "images", on_event=come_and_go)
    assert len(away) == 2
    assert sum("PUT /v1/rounds" in request for request in coordinator.requests) == 3
    np.testing.assert_equal(parameters(coordinator), undisturbed)


@pytest.mark.parametrize(
    "moment",
    [
        events.SiteStarted,
        events.ImagesEncoded,
        events.RoundStarted,
        events.EpochFinished,
        events.UpdateSubmitted,
        events.VersionEvaluated,
    ],
)
def test_a_disk_that_fills_up_is_named_and_the_run_goes_on_where_it_was_once_there_is_room(
    fake_coordinator: Callable[..., FakeCoordinator],
    place: Path,
    small_disk: Path,
    undisturbed: list[dict[str, Any]],
    moment: type[SiteEvent],
) -> None:
    coordinator = start(fake_coordinator, place)
    site, filler = join(coordinator, place, small_disk / "clinic"), small_disk / "filler"

    def fill(event: SiteEvent) -> None:
        if isinstance(event, moment):
            with suppress(OSError), filler.open("ab", buffering=0) as file:
                while True:
                    file.write(bytes(4096))

    with pytest.raises(StateError, match="No space left on device; mend that and run the site again"):
        site.run(place / "images", on_event=fill)
    filler.unlink()
    again = Site.resume(site.directory).run(place / "images")
    receipts = (site.directory / "receipts.jsonl").read_text().splitlines()
    assert len({Receipt.model_validate_json(receipt).round_id for receipt in receipts}) == 3
    assert again.rounds_contributed == 3
    np.testing.assert_equal(parameters(coordinator), undisturbed)


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A folder on a file system of its own."""
    folder = tmp_path / "small-disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={DISK_BYTES},mode=700", "tmpfs", str(folder)]
    if subprocess.run(mount, check=False, capture_output=True).returncode != 0:
        pytest.skip("only who may mount a file system can have a small one")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)
