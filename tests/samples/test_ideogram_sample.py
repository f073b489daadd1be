"""The bundled ideogram sample: whole, small, licensed, and without leaks from train to test."""

import hashlib
import io
import json
from collections import defaultdict
from itertools import product
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageChops, ImageStat

SAMPLE = Path(__file__).parents[2] / "samples" / "ideograms"
MANIFEST: dict[str, Any] = json.loads((SAMPLE / "manifest.json").read_text())
SPLITS = ("train", "test")
DOMAINS = ("google", "twitter", "fluent", "openmoji-color", "openmoji-black")
LICENCE_TEXT = {
    "Apache-2.0": "TERMS AND CONDITIONS FOR USE, REPRODUCTION, AND DISTRIBUTION",
    "CC-BY-4.0": "Creative Commons Attribution 4.0 International Public License",
    "CC-BY-SA-4.0": "Creative Commons Attribution-ShareAlike 4.0 International Public",
    "MIT": "Permission is hereby granted, free of charge",
}
# Below this share of full scale two drawings are the same one, perhaps in other colours. Before compression every
# pair that was kept differs by 3 % or more; compression alone changes a drawing by less than 1 %.
SAME_DRAWING = 0.02


def drawings() -> dict[Path, str]:
    """Every image that the manifest lists, with its SHA-256."""
    return {
        SAMPLE / entry["split"] / domain / entry["class"] / f"{identity}.webp": sha256
        for identity, entry in MANIFEST["identities"].items()
        for domain, sha256 in entry["sha256"].items()
    }


def luminance(path: Path | io.BytesIO) -> Image.Image:
    with Image.open(path) as image:
        return image.convert("L").resize((32, 32), Image.Resampling.BOX)


def difference(one: Image.Image, other: Image.Image) -> float:
    """Root mean square difference, as a share of full scale."""
    return ImageStat.Stat(ImageChops.difference(one, other)).rms[0] / 255


def test_the_images_on_disk_are_exactly_those_on_the_manifest() -> None:
    on_disk = {path for split in SPLITS for path in (SAMPLE / split).rglob("*") if path.is_file()}
    assert on_disk == set(drawings())


def test_every_image_has_the_digest_on_the_manifest() -> None:
    wrong = [
        path for path, sha256 in drawings().items() if hashlib.sha256(path.read_bytes()).hexdigest() != sha256
    ]
    assert wrong == []


def test_every_image_decodes_to_a_96_pixel_rgb_square() -> None:
    for path in drawings():
        with Image.open(path) as image:
            image.load()
            assert (image.format, image.size, image.mode) == ("WEBP", (96, 96), "RGB"), path


def test_the_sample_stays_below_six_megabytes() -> None:
    assert sum(path.stat().st_size for path in SAMPLE.rglob("*") if path.is_file()) <= 6_000_000


def test_every_identity_is_drawn_in_all_five_domains() -> None:
    assert tuple(MANIFEST["domains"]) == DOMAINS
    for identity, entry in MANIFEST["identities"].items():
        assert tuple(entry["sha256"]) == DOMAINS, identity


@pytest.mark.parametrize(("split", "domain"), list(product(SPLITS, DOMAINS)))
def test_every_split_of_every_domain_has_all_31_classes_with_five_images_or_more(
    split: str, domain: str
) -> None:
    counts = {folder.name: len(list(folder.glob("*.webp"))) for folder in (SAMPLE / split / domain).iterdir()}
    assert len(MANIFEST["classes"]) == 31
    assert sorted(counts) == sorted(MANIFEST["classes"])
    assert min(counts.values()) >= 5


def test_no_identity_is_in_both_splits() -> None:
    train, test = ({path.stem for path in (SAMPLE / split).rglob("*.webp")} for split in SPLITS)
    assert train.isdisjoint(test)


def test_no_identity_is_in_two_classes() -> None:
    classes = defaultdict(set)
    for path in drawings():
        classes[path.stem].add(path.parent.name)
    assert {identity: names for identity, names in classes.items() if len(names) > 1} == {}


@pytest.mark.parametrize("domain", DOMAINS)
def test_no_drawing_in_test_repeats_one_of_the_same_class_in_train(domain: str) -> None:
    for name in MANIFEST["classes"]:
        train, test = (
            {path.stem: luminance(path) for path in (SAMPLE / split / domain / name).iterdir()}
            for split in SPLITS
        )
        repeated = [
            (known, unseen)
            for known, unseen in product(train, test)
            if difference(train[known], test[unseen]) < SAME_DRAWING
        ]
        assert repeated == [], f"{domain}/{name}"


@pytest.mark.parametrize("domain", DOMAINS)
def test_the_check_for_repeated_drawings_knows_one_that_was_recompressed(domain: str) -> None:
    for path in sorted((SAMPLE / "test" / domain).rglob("*.webp")):
        copy = io.BytesIO()
        with Image.open(path) as image:
            image.save(copy, "WEBP", quality=60)
        assert difference(luminance(path), luminance(copy)) < SAME_DRAWING, path


@pytest.mark.parametrize("domain", DOMAINS)
def test_every_domain_names_its_licence_beside_its_text_and_the_changes_made(domain: str) -> None:
    source = MANIFEST["domains"][domain]
    notice = (SAMPLE / source["notice"]).read_text()
    assert f"train/{domain}" in notice
    assert f"test/{domain}" in notice
    name, version = source["package"].rsplit("@", 1)
    assert f"{name} {version}" in notice
    assert source["licence"] in notice
    assert LICENCE_TEXT[source["licence"]] in notice
    assert "Changes made:" in notice


def test_the_readme_counts_what_is_there() -> None:
    readme = (SAMPLE / "README.md").read_text()
    for name in MANIFEST["classes"]:
        counts = [len(list((SAMPLE / split / "fluent" / name).iterdir())) for split in SPLITS]
        assert f"| {name} | {counts[0]} | {counts[1]} |" in readme
