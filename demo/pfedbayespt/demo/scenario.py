"""Who takes part in the demo, with which images, and on what terms.

Three organisations hold drawings of the same 31 kinds of ideograms by several vendors. Each holds its own
mixture of vendors (its *domains*) and its own ideograms; no image is at two organisations. One domain, black line
art, is at no organisation: it plays the camera nobody trained for. Every ideogram is either trained on or held
out, in all its drawings, so nothing leaks.
"""

import random
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from pfedbayespt.protocol import (
    BackboneSpecification,
    FederationSpecification,
    PosteriorSpecification,
    RoundPolicy,
    TrainingSpecification,
)

UNSEEN_DOMAIN = "openmoji-black"
IMAGE_SIZE_PIXELS = 112
_SEPARATOR = "__"  # between code point and domain in the name of a site's file


@dataclass(frozen=True)
class SitePlan:
    """An organisation's site and the shares of its domains, which sum to one."""

    name: str
    mixture: Mapping[str, float]


SITES = (
    SitePlan("clinic-north", {"google": 0.6, "twitter": 0.3, "fluent": 0.1}),
    SitePlan("clinic-south", {"twitter": 0.5, "openmoji-color": 0.4, "fluent": 0.1}),
    SitePlan("clinic-west", {"fluent": 0.6, "openmoji-color": 0.2, "google": 0.2}),
)


@dataclass(frozen=True)
class Scale:
    """How much the demo does: the number of images and of rounds decides how long it takes."""

    train_identities_per_class: int
    train_drawings_per_identity: int
    held_out_identities_per_class: int
    held_out_drawings_per_identity: int
    num_rounds: int
    local_epochs: int


FULL = Scale(30, 2, 6, 1, num_rounds=10, local_epochs=2)
QUICK = Scale(9, 1, 2, 1, num_rounds=4, local_epochs=2)


@dataclass(frozen=True)
class Drawing:
    """One image of the sample."""

    path: Path
    domain: str
    label: str

    @property
    def identity(self) -> str:
        """The code point: what the drawing depicts, whoever drew it."""
        return self.path.stem.split(_SEPARATOR)[0]


def drawings(sample: Path, split: str) -> list[Drawing]:
    """Return every image of a split (`train` or `test`) of the bundled sample, in a fixed order.

    Raises:
        FileNotFoundError: `sample` is not a folder of the sample's layout.
    """
    paths = sorted((sample / split).glob("*/*/*.webp"))
    if not paths:
        raise FileNotFoundError(f"{sample} holds no {split}/<domain>/<class>/<code point>.webp")
    return [Drawing(path, domain=path.parts[-3], label=path.parts[-2]) for path in paths]


def class_names(sample: Path) -> tuple[str, ...]:
    """Return the sample's classes in alphabetical order."""
    return tuple(sorted({drawing.label for drawing in drawings(sample, "train")}))


def unseen_drawings(sample: Path, scale: Scale) -> list[Drawing]:
    """Return images of the domain that no site has, of things that nobody trained on."""
    by_label: dict[str, list[Drawing]] = {}
    for drawing in drawings(sample, "test"):
        if drawing.domain == UNSEEN_DOMAIN:
            by_label.setdefault(drawing.label, []).append(drawing)
    return [drawing for row in by_label.values() for drawing in row[: scale.held_out_identities_per_class]]


def held_out_drawings(site_folder: Path) -> list[Drawing]:
    """Return the images that a site laid out by `lay_out_sites` evaluates on."""
    paths = sorted((site_folder / "held-out").glob("*/*.webp"))
    return [Drawing(path, path.stem.split(_SEPARATOR)[1], path.parent.name) for path in paths]


def lay_out_sites(sample: Path, directory: Path, scale: Scale, seed: int) -> dict[str, Path]:
    """Copy each site's images into `directory/<site>/{train,held-out}/<class>/` and return its folder."""
    rng = random.Random(seed)  # noqa: S311 - shares out images, guards nothing
    folders = {plan.name: directory / plan.name for plan in SITES}
    for split, chosen in (
        ("train", list(_training_images(sample, scale, rng))),
        ("held-out", list(_held_out_images(sample, scale, rng))),
    ):
        for site_name, drawing in chosen:
            target = (
                folders[site_name]
                / split
                / drawing.label
                / f"{drawing.identity}{_SEPARATOR}{drawing.domain}.webp"
            )
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(drawing.path, target)
    return folders


def specification(
    classes: tuple[str, ...],
    backbone_digest: str,
    scale: Scale,
    *,
    family: str = "semi_implicit",
    num_sites: int = len(SITES),
) -> FederationSpecification:
    """Return the terms of one federation; the rivals differ in `family` or `num_sites` and in nothing else."""
    return FederationSpecification(
        classes=classes,
        backbone=BackboneSpecification(
            architecture="vit_small_patch14_dinov2",
            weights_digest=backbone_digest,
            image_size_pixels=IMAGE_SIZE_PIXELS,
        ),
        posterior=PosteriorSpecification.model_validate({"family": family}),
        training=TrainingSpecification(local_epochs=scale.local_epochs),
        rounds=RoundPolicy(
            num_rounds=scale.num_rounds,
            min_sites_to_start=num_sites,
            quorum=num_sites,
            deadline_seconds=600,
            evaluation_deadline_seconds=300,
        ),
    )


def _training_images(sample: Path, scale: Scale, rng: random.Random) -> Iterator[tuple[str, Drawing]]:
    for by_domain, position in _identities(drawings(sample, "train"), rng):
        if position >= scale.train_identities_per_class:
            continue
        plan = SITES[position % len(SITES)]
        for domain in _draw_domains(plan, scale.train_drawings_per_identity, rng):
            yield plan.name, by_domain[domain]


def _held_out_images(sample: Path, scale: Scale, rng: random.Random) -> Iterator[tuple[str, Drawing]]:
    for by_domain, position in _identities(drawings(sample, "test"), rng):
        if position >= scale.held_out_identities_per_class:
            continue
        for plan in SITES:
            for domain in _draw_domains(plan, scale.held_out_drawings_per_identity, rng):
                yield plan.name, by_domain[domain]


def _identities(images: list[Drawing], rng: random.Random) -> Iterator[tuple[dict[str, Drawing], int]]:
    """Yield each identity's drawings by domain, and its position within its class, in a shuffled order."""
    classes: dict[str, dict[str, dict[str, Drawing]]] = {}
    for image in images:
        classes.setdefault(image.label, {}).setdefault(image.identity, {})[image.domain] = image
    for label in sorted(classes):
        identities = sorted(classes[label])
        rng.shuffle(identities)
        for position, identity in enumerate(identities):
            yield classes[label][identity], position


def _draw_domains(plan: SitePlan, count: int, rng: random.Random) -> list[str]:
    """Return `count` different domains, drawn by the site's mixture."""
    chosen: list[str] = []
    while len(chosen) < count:
        (domain,) = rng.choices(list(plan.mixture), weights=list(plan.mixture.values()))
        if domain not in chosen:
            chosen.append(domain)
    return chosen
