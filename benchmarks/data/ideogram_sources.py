"""Where the drawings come from: four npm packages, pinned by version and digest, read without unpacking.

Rules:
    1. A package is fetched with `npm pack NAME@VERSION` into the cache when it is not there yet, and is used only
       if its SHA-512 is the one pinned here (the `integrity` that npm publishes).
    2. An ideogram's identity is its code-point sequence: lower-case hex, joined by hyphens, without the variation
       selector FE0F, which some vendors write in their file names and others do not.
    3. A drawing becomes an RGB square: scaled to fit, centred, composited on white.
"""

import base64
import hashlib
import io
import json
import subprocess
import tarfile
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import resvg_py
from PIL import Image, ImageOps

VARIATION_SELECTOR = "fe0f"


class SourceError(Exception):
    """A source package cannot be fetched, or is not the one pinned."""


@dataclass(frozen=True, slots=True)
class Package:
    """One npm package.

    `integrity` is the base64 SHA-512 of its tarball, `licence` the SPDX name of its drawings' licence, `notice` the
    file with their attribution and the licence's text.
    """

    name: str
    version: str
    integrity: str
    licence: str
    notice: str

    @property
    def spec(self) -> str:
        """The package as npm names it, with its version."""
        return f"{self.name}@{self.version}"

    @property
    def filename(self) -> str:
        """The tarball's file name, as `npm pack` writes it."""
        return f"{self.name.removeprefix('@').replace('/', '-')}-{self.version}.tgz"


@dataclass(frozen=True, slots=True)
class Domain:
    """One style of drawing: the files with this `suffix` in one `folder` of a package."""

    name: str
    package: Package
    folder: str
    suffix: str


@dataclass(frozen=True, slots=True)
class Ideogram:
    """One entry of `emoji.json`."""

    identity: str
    short_name: str
    subcategory: str


NOTO = Package(
    "emoji-datasource-google",
    "16.0.0",
    "ZRexfzs7MVoLnmzZmNsO4TKhnAJp5D++Vm6PpUpH/jEQQlemp3l88CjZ+DoZ2faM9R4QxZkOPJCoT8DlPhfQ3A==",
    "Apache-2.0",
    "LICENSES/noto-emoji.txt",
)
TWEMOJI = Package(
    "emoji-datasource-twitter",
    "16.0.0",
    "7F+uCuHH+7Qnrc15P5tnbvKkg9E6tlzi4MnT2uW1RlN4pLYTza6cP/dstIfSDMtpjFLWuZewWg8jBbuL2eyELQ==",
    "CC-BY-4.0",
    "LICENSES/twemoji.txt",
)
FLUENT = Package(
    "@lobehub/fluent-emoji-3d",
    "1.1.0",
    "Wlq2lVStTnr8BDpIJ0pEnTKO4LuDxxqTEhTvRtD1DLRF0me7ogeRQjKoehDHXuVJ2Qaecgl5wRBv60lUAG3h7g==",
    "MIT",
    "LICENSES/fluent-emoji.txt",
)
OPENMOJI = Package(
    "openmoji",
    "17.0.0",
    "EBnYrNGdcdw+OSXmENeNE1yBNRu6tOraTmoOyUbJkTmvT/+XETp8RZLSJFzD3lrPc5N9CzsyPnRTk0Vp4UaI9w==",
    "CC-BY-SA-4.0",
    "LICENSES/openmoji.txt",
)

DOMAINS: tuple[Domain, ...] = (
    Domain("google", NOTO, "package/img/google/64/", ".png"),
    Domain("twitter", TWEMOJI, "package/img/twitter/64/", ".png"),
    Domain("fluent", FLUENT, "package/assets/", ".webp"),
    Domain("openmoji-color", OPENMOJI, "package/color/svg/", ".svg"),
    Domain("openmoji-black", OPENMOJI, "package/black/svg/", ".svg"),
)


def identity_of(code_points: str) -> str:
    """Identity of a hyphenated hex sequence or file stem, such as `2764-FE0F-200D-1F525` (rule 2)."""
    return "-".join(part for part in code_points.lower().split("-") if part != VARIATION_SELECTOR)


def fetch(package: Package, cache: Path) -> Path:
    """Path of the package's tarball in `cache`, downloaded if absent.

    Raises:
        SourceError: npm is missing or fails, or the tarball's digest is not the pinned one.
    """
    target = cache / package.filename
    if not target.exists():
        cache.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=cache) as folder:
            _pack(package, Path(folder)).replace(target)
    with target.open("rb") as file:
        found = base64.b64encode(hashlib.file_digest(file, "sha512").digest()).decode()
    if found != package.integrity:
        raise SourceError(
            f"{target} has SHA-512 {found}, but {package.spec} is pinned to {package.integrity}: "
            "delete the file and run again"
        )
    return target


def _pack(package: Package, folder: Path) -> Path:
    command = ["npm", "pack", package.spec, "--silent", "--pack-destination", str(folder)]
    try:
        subprocess.run(command, check=True, capture_output=True, text=True)
    except FileNotFoundError as error:
        raise SourceError(f"npm is needed to fetch {package.spec}, and is not installed") from error
    except subprocess.CalledProcessError as error:
        raise SourceError(f"npm could not fetch {package.spec}: {error.stderr.strip()}") from error
    return folder / package.filename


def read_ideograms(cache: Path) -> Iterator[Ideogram]:
    """All of Unicode's ideograms in code-chart order, without their skin-tone variants."""
    with tarfile.open(fetch(NOTO, cache)) as archive:
        entries = json.loads(_content(archive, "package/emoji.json"))
    for entry in sorted(entries, key=lambda entry: entry["sort_order"]):
        yield Ideogram(identity_of(entry["unified"]), entry["short_name"], entry["subcategory"])


def read_drawings(domain: Domain, cache: Path) -> dict[str, bytes]:
    """Undecoded drawings of one domain, by identity."""
    with tarfile.open(fetch(domain.package, cache)) as archive:
        return {
            identity_of(Path(member.name).stem): _content(archive, member)
            for member in archive
            if member.name.startswith(domain.folder) and member.name.endswith(domain.suffix)
        }


def _content(archive: tarfile.TarFile, member: str | tarfile.TarInfo) -> bytes:
    file = archive.extractfile(member)
    if file is None:
        name = member if isinstance(member, str) else member.name
        raise SourceError(f"{name} is listed in a package, but is not a file")
    return file.read()


def draw(data: bytes, domain: Domain, size: int) -> Image.Image:
    """Decode one drawing of `domain` into a `size` x `size` RGB image on white (rule 3)."""
    if domain.suffix == ".svg":
        # No system fonts: the result may not depend on the machine.
        data = bytes(resvg_py.svg_to_bytes(svg_string=data.decode(), width=size, skip_system_fonts=True))
    with Image.open(io.BytesIO(data)) as decoded:
        drawing = ImageOps.contain(decoded.convert("RGBA"), (size, size), Image.Resampling.LANCZOS)
    canvas = Image.new("RGBA", (size, size), "white")
    canvas.alpha_composite(drawing, ((size - drawing.width) // 2, (size - drawing.height) // 2))
    return canvas.convert("RGB")


def encode(image: Image.Image, quality: int) -> bytes:
    """WebP bytes of `image`: lossy at `quality` or lossless, whichever is smaller (flat line art often is)."""
    lossy, lossless = io.BytesIO(), io.BytesIO()
    image.save(lossy, "WEBP", quality=quality, method=6)
    image.save(lossless, "WEBP", lossless=True, quality=75, method=6)  # here quality means effort
    return min(lossy.getvalue(), lossless.getvalue(), key=len)
