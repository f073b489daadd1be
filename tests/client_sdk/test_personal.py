"""Personal parameters: kept beside versions, tuned from a few images, never sent."""

from pathlib import Path

import numpy as np
import pytest
from tests.client_sdk.harness import CLASSES, Coordinator, draw_images
from tests.client_sdk.transports import Spy

from pfedbayespt.client import Site
from pfedbayespt.client.adaptation import choose_shots
from pfedbayespt.client.errors import DatasetError, StateError
from pfedbayespt.client.personal import KEPT_FILES, PersonalManifest, PersonalStore, version_of
from pfedbayespt.protocol import tensors


def file_of(version: int, value: float = 1.0) -> bytes:
    manifest = PersonalManifest(model_version=version)
    return tensors.encode({"residual.bias": np.full(3, value, np.float32)}, manifest)


def test_a_version_is_used_with_the_newest_parameters_tuned_from_it_or_before_it(tmp_path: Path) -> None:
    store = PersonalStore(tmp_path / "personal")
    assert store.of_version(9) is None
    for version in (2, 5):
        store.keep(file_of(version))
    found = {number: store.of_version(number) for number in (1, 2, 4, 5, 9)}
    assert found == {1: None, 2: file_of(2), 4: file_of(2), 5: file_of(5), 9: file_of(5)}


def test_tuning_again_takes_the_place_of_what_was_tuned_from_the_same_version(tmp_path: Path) -> None:
    store = PersonalStore(tmp_path / "personal")
    store.keep(file_of(3, 1.0))
    store.keep(file_of(3, 2.0))
    assert store.of_version(3) == file_of(3, 2.0)


def test_the_last_few_are_kept_by_number_and_readable_by_their_owner_alone(tmp_path: Path) -> None:
    store = PersonalStore(tmp_path / "personal")
    for version in range(KEPT_FILES + 2):
        store.keep(file_of(version))
    assert store.of_version(1) is None
    assert store.of_version(2) == file_of(2)
    assert all(path.stat().st_mode & 0o077 == 0 for path in tmp_path.rglob("*"))


def test_a_damaged_file_is_an_error_of_the_state(tmp_path: Path) -> None:
    with pytest.raises(StateError, match="damaged"):
        version_of(b"no tensors")


def test_shots_are_taken_from_every_class_and_are_the_same_for_the_same_seed() -> None:
    labels = [0] * 10 + [1] * 10 + [2] * 2
    chosen, others = choose_shots(labels, 3, seed=1)
    assert sorted(labels[position] for position in chosen) == [0, 0, 0, 1, 1, 1, 2, 2]
    assert sorted(chosen + others) == list(range(22))
    assert choose_shots(labels, 3, seed=1) == (chosen, others)
    assert choose_shots(labels, 3, seed=2) != (chosen, others)


@pytest.fixture
def trained(coordinator: Coordinator, images: Path, tmp_path: Path) -> Coordinator:
    """A federation whose rounds are done by a site other than the one that adapts."""
    coordinator.found(num_rounds=1, min_sites_to_start=1, quorum=1)
    coordinator.enrol(tmp_path / "other", "clinic-b").run(images / "train", images / "held-out")
    return coordinator


def test_a_new_site_tunes_a_head_of_its_own_which_never_leaves_it(
    trained: Coordinator, images: Path, tmp_path: Path
) -> None:
    """Its classes are named the other way round: what the federation learnt is wrong here."""
    home = tmp_path / "images"
    home.mkdir()
    draw_images(tmp_path / "drawn", 12, seed=7)
    for name, told in zip(CLASSES, (*CLASSES[1:], CLASSES[0]), strict=True):
        (tmp_path / "drawn" / name).rename(home / told)
    spy = Spy()
    site = trained.enrol(tmp_path / "state", "clinic-a", transport=spy)
    unseen = images / "held-out" / "square" / "2-0.png"
    shared = site.predict(unseen)
    spy.sent.clear()

    report = site.adapt(home, shots=6, kind="head")
    assert (report.num_tuned_on, report.before.num_examples, report.model_version) == (18, 18, 2)
    assert report.after.metrics["nll"] < report.before.metrics["nll"]
    assert report.is_kept
    assert {request.method for request in spy.sent} == {"GET"}, "nothing is sent"

    personal = site.predict(unseen)
    assert personal.probabilities != shared.probabilities
    assert personal == Site.resume(tmp_path / "state").predict(unseen)
    assert site.evaluate(home).metrics.keys() == {
        *("accuracy", "nll", "brier", "ece"),
        *("accuracy_shared", "nll_shared", "brier_shared", "ece_shared"),
    }
    assert site.predict(unseen, model_version=1) == trained_on_the_first(site, unseen), (
        "an older version has none"
    )


def trained_on_the_first(site: Site, image: Path) -> object:
    predictor = site.predictor(model_version=1)
    assert not predictor.model.has_personal_head
    return predictor.predict(image)


def test_a_head_that_does_not_help_is_not_kept_unless_it_is_wanted_all_the_same(
    trained: Coordinator, images: Path, tmp_path: Path
) -> None:
    """It learns from images whose labels are wrong."""
    wrong = draw_images(tmp_path / "wrong", 6, seed=8)
    for name, other in (("circle", "swap"), ("square", "circle"), ("swap", "square")):
        (wrong / name).rename(wrong / other)
    site = trained.enrol(tmp_path / "state", "clinic-a")
    report = site.adapt(wrong, images / "held-out", kind="head")
    assert report.after.metrics["nll"] > report.before.metrics["nll"]
    assert not report.is_kept
    assert not (tmp_path / "state" / "personal").exists()
    assert site.adapt(wrong, images / "held-out", kind="head", insist=True).is_kept


def test_without_images_to_compare_on_nothing_is_tuned(trained: Coordinator, tmp_path: Path) -> None:
    site = trained.enrol(tmp_path / "state", "clinic-a")
    with pytest.raises(DatasetError, match="no image is left to compare on"):
        site.adapt(draw_images(tmp_path / "few", 2))
