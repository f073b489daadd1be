"""Who gets which images in the demo."""

from pathlib import Path

import pytest

from pfedbayespt.demo.scenario import (
    FULL,
    QUICK,
    SITES,
    UNSEEN_DOMAIN,
    class_names,
    drawings,
    held_out_drawings,
    lay_out_sites,
    specification,
    unseen_drawings,
)

SAMPLE = Path(__file__).parents[2] / "samples/ideograms"


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    return lay_out_sites(SAMPLE, tmp_path_factory.mktemp("sites"), QUICK, seed=0)


def names_in(folder: Path) -> set[str]:
    return {path.name for path in folder.glob("*/*.webp")}


def test_every_site_trains_on_every_class(folders: dict[str, Path]) -> None:
    for folder in folders.values():
        assert {path.name for path in (folder / "train").iterdir()} == set(class_names(SAMPLE))


def test_no_ideogram_is_at_two_sites_or_both_trained_on_and_held_out(folders: dict[str, Path]) -> None:
    trained = [{name.split("__")[0] for name in names_in(folder / "train")} for folder in folders.values()]
    held_out = {name.split("__")[0] for folder in folders.values() for name in names_in(folder / "held-out")}
    assert len(set.union(*trained)) == sum(len(names) for names in trained)
    assert not set.union(*trained) & held_out


def test_no_site_has_an_image_of_the_unseen_domain_or_of_a_domain_outside_its_mixture(
    folders: dict[str, Path],
) -> None:
    for plan in SITES:
        domains = {Path(name).stem.split("__")[1] for name in names_in(folders[plan.name] / "train")}
        assert domains == set(plan.mixture)
        assert UNSEEN_DOMAIN not in domains


def test_each_site_mixes_its_domains_in_about_the_planned_shares(folders: dict[str, Path]) -> None:
    for plan in SITES:
        names = names_in(folders[plan.name] / "train")
        for domain, share in plan.mixture.items():
            actual = sum(name.endswith(f"__{domain}.webp") for name in names) / len(names)
            assert actual == pytest.approx(share, abs=0.12)


def test_the_same_seed_lays_out_the_same_sites(folders: dict[str, Path], tmp_path: Path) -> None:
    again = lay_out_sites(SAMPLE, tmp_path, QUICK, seed=0)
    other = lay_out_sites(SAMPLE, tmp_path / "other", QUICK, seed=1)
    for name, folder in folders.items():
        assert names_in(folder / "train") == names_in(again[name] / "train")
        assert names_in(folder / "train") != names_in(other[name] / "train")


def test_held_out_and_unseen_drawings_know_what_they_show(folders: dict[str, Path]) -> None:
    known = held_out_drawings(folders["clinic-north"])
    assert {drawing.label for drawing in known} == set(class_names(SAMPLE))
    assert {drawing.domain for drawing in known} <= set(SITES[0].mixture)
    unseen = unseen_drawings(SAMPLE, QUICK)
    assert {drawing.domain for drawing in unseen} == {UNSEEN_DOMAIN}
    assert len(unseen) == QUICK.held_out_identities_per_class * len(class_names(SAMPLE))


def test_rivals_differ_from_the_method_in_one_term() -> None:
    digest = "sha256:" + "0" * 64
    method = specification(class_names(SAMPLE), digest, FULL).model_dump()
    shared = specification(class_names(SAMPLE), digest, FULL, family="shared").model_dump()
    assert shared.pop("posterior") == method.pop("posterior") | {"family": "shared"}
    assert shared == method


def test_a_folder_that_is_no_sample_is_refused(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="holds no train/<domain>/<class>"):
        drawings(tmp_path, "train")
