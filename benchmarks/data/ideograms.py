# /// script
# requires-python = ">=3.11"
# dependencies = ["pillow==13.0.0", "resvg-py==0.5.0"]
# ///
"""Build the ideogram data: the same pictures drawn by several vendors, 31 classes, five domains.

    python benchmarks/data/ideograms.py sample --out DIR [--cache DIR]
    python benchmarks/data/ideograms.py full   --out DIR [--cache DIR]

Rules:
    1. An identity (one ideogram) is kept only if it has a class and exists in all five domains.
    2. The split is by identity: all five drawings of one ideogram are in train, or all are in test.
    3. In each class, identities are ranked by SHA-256 of "SEED:identity"; the first third is test, the rest train.
       So the split depends on nothing but the identity and its class.
    4. The sample takes the first few of each side of the full split, so its train identities are in the full
       train split, and its test identities in the full test split.

Layout: `<out>/<split>/<domain>/<class>/<identity>.webp`, the sources' licences in `<out>/LICENSES/`, and
`<out>/manifest.json` with the class, the split and the SHA-256 of the five drawings of every identity.
"""

import argparse
import hashlib
import json
import shutil
import sys
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ideogram_classes import CLASSES, class_of, is_gendered
from ideogram_sources import (
    DOMAINS,
    Domain,
    Ideogram,
    SourceError,
    draw,
    encode,
    read_drawings,
    read_ideograms,
)

SEED = 0
SPLITS = ("train", "test")
DEFAULT_CACHE = Path(".cache/ideograms")
LICENSES = Path(__file__).resolve().parents[2] / "samples" / "ideograms" / "LICENSES"


class BuildError(Exception):
    """The data cannot be written where it was asked for."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """Image side in pixels, WebP quality (0-100), and the most identities per class on each side of the split."""

    size: int
    quality: int
    train: int | None = None
    test: int | None = None


@dataclass(frozen=True, slots=True)
class Member:
    """One identity of the data, with its class and its side of the split."""

    identity: str
    short_name: str
    class_name: str
    split: str


RECIPES = {
    "sample": Recipe(size=96, quality=80, train=30, test=6),
    "full": Recipe(size=112, quality=90),
}


def main(arguments: list[str] | None = None) -> int:
    """Build one of the two sets; returns the exit status."""
    options = _parser().parse_args(arguments)
    try:
        members = build(RECIPES[options.set], options.out, options.cache)
    except (BuildError, SourceError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(table(members))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description="Build the ideogram data from four npm packages: 31 classes, five domains, split by identity."
    )
    parser.add_argument("set", choices=sorted(RECIPES), help="the small sample, or everything")
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    parser.add_argument(
        "--cache", type=Path, default=DEFAULT_CACHE, help="folder for the downloaded packages"
    )
    return parser


def build(recipe: Recipe, out: Path, cache: Path) -> list[Member]:
    """Write the drawings, the manifest and the licences under `out`; returns what was taken, in manifest order.

    Raises:
        BuildError: `out` already holds drawings, which might be of another build.
        SourceError: a package cannot be had.
    """
    for split in SPLITS:
        if (out / split).exists():
            raise BuildError(f"{out / split} exists already: remove it, or choose another --out")
    drawings = {domain: read_drawings(domain, cache) for domain in DOMAINS}
    complete = set.intersection(*(set(of_domain) for of_domain in drawings.values()))
    known = (ideogram for ideogram in read_ideograms(cache) if ideogram.identity in complete)
    members = list(select(known, recipe))
    digests = {member: _write(member, drawings, recipe, out) for member in members}
    (out / "manifest.json").write_text(_manifest(recipe, digests))
    if out.resolve() != LICENSES.parent:
        shutil.copytree(LICENSES, out / "LICENSES", dirs_exist_ok=True)
    return members


def select(ideograms: Iterable[Ideogram], recipe: Recipe) -> Iterator[Member]:
    """Identities that have a class, class by class, each with its side of the split (rules 1 to 4)."""
    by_class: dict[str, list[Ideogram]] = {entry.name: [] for entry in CLASSES}
    for ideogram in ideograms:
        class_name = class_of(ideogram.short_name, ideogram.subcategory)
        if class_name is not None and not is_gendered(ideogram.identity):
            by_class[class_name].append(ideogram)
    for class_name, found in by_class.items():
        ranked = sorted(found, key=_rank)
        cut = round(len(ranked) / 3)
        sides = {"train": ranked[cut:][: recipe.train], "test": ranked[:cut][: recipe.test]}
        for split in SPLITS:
            for ideogram in sorted(sides[split], key=lambda one: one.identity):
                yield Member(ideogram.identity, ideogram.short_name, class_name, split)


def _rank(ideogram: Ideogram) -> str:
    return hashlib.sha256(f"{SEED}:{ideogram.identity}".encode()).hexdigest()


def _write(
    member: Member, drawings: dict[Domain, dict[str, bytes]], recipe: Recipe, out: Path
) -> dict[str, str]:
    """Write the five drawings of one identity; returns their SHA-256 by domain."""
    digests = {}
    for domain, of_domain in drawings.items():
        content = encode(draw(of_domain[member.identity], domain, recipe.size), recipe.quality)
        path = out / member.split / domain.name / member.class_name / f"{member.identity}.webp"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        digests[domain.name] = hashlib.sha256(content).hexdigest()
    return digests


def _manifest(recipe: Recipe, digests: dict[Member, dict[str, str]]) -> str:
    """JSON text with one line per identity: readable, small, and its differences are easy to review."""
    header: dict[str, Any] = {
        "path": "<split>/<domain>/<class>/<identity>.webp",
        "size": recipe.size,
        "quality": recipe.quality,
        "seed": SEED,
        "domains": {domain.name: _source(domain) for domain in DOMAINS},
        "classes": [entry.name for entry in CLASSES],
    }
    head = [f"{json.dumps(key)}: {json.dumps(value)}" for key, value in header.items()]
    lines = [f"{json.dumps(member.identity)}: {_entry(member, sha256)}" for member, sha256 in digests.items()]
    return "{\n" + ",\n".join([*head, '"identities": {\n' + ",\n".join(lines) + "\n}"]) + "\n}\n"


def _source(domain: Domain) -> dict[str, str]:
    package = domain.package
    return {"package": package.spec, "licence": package.licence, "notice": package.notice}


def _entry(member: Member, sha256: dict[str, str]) -> str:
    entry = {"name": member.short_name, "class": member.class_name, "split": member.split, "sha256": sha256}
    return json.dumps(entry, separators=(",", ":"))


def table(members: Iterable[Member]) -> str:
    """Identities per class and split, as a Markdown table; each identity has one drawing per domain."""
    counts = Counter((member.class_name, member.split) for member in members)
    rows = [(entry.name, *(counts[entry.name, split] for split in SPLITS)) for entry in CLASSES]
    total = ("total", *(sum(counts[entry.name, split] for entry in CLASSES) for split in SPLITS))
    body = [f"| {name} | {train} | {test} |" for name, train, test in [*rows, total]]
    return "\n".join(["| class | train identities | test identities |", "|---|---:|---:|", *body])


if __name__ == "__main__":
    sys.exit(main())
