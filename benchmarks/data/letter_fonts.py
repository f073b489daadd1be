"""Where the letters come from: Debian's font packages, unpacked into a cache, never installed.

Rules:
    1. A package is downloaded once, with `apt-get download`, and unpacked with `dpkg -x`, never installed.
    2. A family belongs to one domain: its package's, unless its name says otherwise (`OVERRIDES`).
    3. A font counts only if its a-z and A-Z are all there, drawn differently from each other, and, outside script
       and blackletter, look like a plain font's: symbol fonts put pictures in those places.
"""

import re
import subprocess
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont

DOMAINS = ("serif", "sans", "mono", "script", "blackletter", "display")
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"

PACKAGES: dict[str, str] = {
    "serif": "adf-accanthis adf-baskervald adf-berenis adf-irianis adf-romande adf-tribun arapey averia-serif-gwf "
    "cardo century-catalogue cmu crosextra-caladea ebgaramond elstob essays1743 fanwood freefont-ttf "
    "georgewilliams gfs-artemisia gfs-didot goudybookletter junicode levien-museum lindenhill linuxlibertine "
    "lmodern oldstandard "
    "prociono quattrocento roboto-slab sil-charis sil-gentium-basic solide-mirage stix texgyre urw-base35 vollkorn",
    "sans": "adf-gillius adf-ikarius adf-libris adf-mekanus adf-switzera adf-universalis adf-verana allerta "
    "averia-sans-gwf b612 beteckna cabin cantarell clear-sans croscore crosextra-carlito dejavu-core dosis "
    "eurofurence gfs-neohellenic junction jura karla lato liberation manrope national-park open-sans opendin "
    "opendyslexic oxygen paratype play quicksand roadgeek roboto-unhinted routed-gothic sil-andika sora tiresias "
    "tuffy yanone-kaffeesatz",
    "mono": "3270 agave anonymous-pro courier-prime fantasque-sans firacode glasstty gnutypewriter go hack hermit "
    "inconsolata jetbrains-mono league-mono monofur monoid mononoki noto-mono ocr-a ocr-b spleen",
    "script": "breip bwht comic-neue dancingscript dkg-handwriting ecolier-court femkeklaver humor-sans joscelyn "
    "kaushanscript kristi leckerli-one levien-typoscript lobster lobstertwo rufscript sjfonts tomsontalks",
    "blackletter": "blankenburg gamaliel gotico-antiqua isabella klaudia-berenika",
    "display": "adf-oldania adf-solothurn aenigma apropal bajaderka bebas-neue cabinsketch cherrybomb comfortaa "
    "compagnon dustin engadget f500 fantasma ferrite-core havana le-murmure league-spartan okolaks "
    "radisnoir staypuft stick train triod-postnaja ubuntu-title",
}

OVERRIDES = (
    (r"mono|courier|cursor|typewriter|cousine|\bcode$|\bgo$", "mono"),
    (r"fraktur|gotisch|textura|gothic leaf", "blackletter"),
    (r"chancery|chorus|caliban", "script"),
    (r"sans|heros|adventor|urw gothic|arimo|biolinum", "sans"),
    (r"serif|roman|tinos|bookman|schola|bonum|pagella|termes|c059|p052", "serif"),
)
NOT_LETTERS = re.compile(
    r"symbol|dingbat|d050|ornament|initials|math|icon|braille|emoji|barcode|bullet|cards|quotation|binary|fascii",
    re.IGNORECASE,
)
_WEIGHTS = re.compile(
    r"\b(thin|hairline|extra ?light|ultra ?light|light|book|regular|medium|semi ?bold|demi ?(bold)?|bold|"
    r"extra ?bold|ultra|black|heavy|italic|oblique|condensed|semi ?condensed|narrow|wide|expanded|[-0-9]+)\b",
    re.IGNORECASE,
)
_REFERENCE = "DejaVuSans.ttf"
_LIKENESS = 0.25


@dataclass(frozen=True, slots=True)
class Font:
    """One usable font file, with the family that the split goes by and its domain."""

    path: Path
    family: str
    domain: str


@dataclass(frozen=True, slots=True)
class Package:
    """One downloaded Debian package."""

    name: str
    version: str
    folder: Path


class FontError(Exception):
    """A font package cannot be had."""


def fetch_packages(cache: Path) -> list[Package]:
    """Download and unpack every package of the table into `cache`; what is there already stays as it is."""
    archives = cache / "archives"
    archives.mkdir(parents=True, exist_ok=True)
    names = sorted(f"fonts-{name}" for row in PACKAGES.values() for name in row.split())
    missing = [name for name in names if not any(archives.glob(f"{name}_*.deb"))]
    if missing:
        command = ["apt-get", "download", "-q", "-o", "APT::Sandbox::User=root", *missing]
        result = subprocess.run(command, cwd=archives, capture_output=True, text=True, check=False)
        if result.returncode:
            raise FontError(f"apt-get download failed; run `apt-get update` first?\n{result.stderr[-500:]}")
    return [_unpack(next(iter(sorted(archives.glob(f"{name}_*.deb")))), cache) for name in names]


def _unpack(archive: Path, cache: Path) -> Package:
    name, version, _ = archive.stem.split("_")
    folder = cache / "unpacked" / name
    if not folder.exists():
        folder.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["dpkg", "-x", str(archive), str(folder)], check=True)
    return Package(name, version.replace("%3a", ":"), folder)


def usable_fonts(packages: list[Package]) -> list[Font]:
    """Return one font per family (its most ordinary style), in a fixed order."""
    domain_of_package = {f"fonts-{name}": domain for domain, row in PACKAGES.items() for name in row.split()}
    reference = next(path for package in packages for path in package.folder.rglob(_REFERENCE))
    shapes = _shapes(reference)
    families: dict[str, tuple[tuple[int, str], Font]] = {}
    for package in packages:
        for path in sorted(p for p in package.folder.rglob("*") if p.suffix.lower() in {".ttf", ".otf"}):
            name = _name(path)
            if name is None or NOT_LETTERS.search(f"{name[0]} {path.stem}"):
                continue
            family, style = _WEIGHTS.sub("", name[0]).strip() or name[0], name[1]
            font = Font(path, family, _domain(family, domain_of_package[package.name]))
            rank = (_plainness(style, path.stem), path.name)
            if family not in families or rank < families[family][0]:
                families[family] = (rank, font)
    found = (font for _, font in families.values())
    return sorted((font for font in found if _is_alphabet(font, shapes)), key=lambda f: f.family)


def _name(path: Path) -> tuple[str, str] | None:
    try:
        family, style = ImageFont.truetype(path, 12).getname()
    except OSError:
        return None
    return (family or path.stem), (style or "")


def _plainness(style: str, stem: str) -> int:
    words = f"{style} {stem}".lower()
    return sum(word in words for word in ("italic", "oblique", "bold", "thin", "light", "black", "condensed"))


def _domain(family: str, of_package: str) -> str:
    if of_package in {"script", "blackletter"}:
        return of_package
    for pattern, domain in OVERRIDES:
        if re.search(pattern, family, re.IGNORECASE) and not (
            of_package == "display" and domain in {"sans", "serif"}
        ):
            return domain
    return of_package


def _shapes(path: Path) -> np.ndarray | None:
    """Return the 52 letters, cropped to their ink, squeezed to 16 x 16; None if any is empty or two are alike."""
    font = ImageFont.truetype(path, 48)
    shapes = []
    for letter in LETTERS + LETTERS.lower():
        canvas = Image.new("L", (160, 160))
        try:
            ImageDraw.Draw(canvas).text((50, 40), letter, fill=255, font=font)
        except OSError:
            return None
        box = canvas.getbbox()
        if box is None:
            return None
        left, top, right, bottom = box  # a frame around the ink, so that a solid bar has a shape too
        framed = canvas.crop((left - 2, top - 2, right + 2, bottom + 2))
        shapes.append(np.asarray(framed.resize((16, 16)), np.float64).ravel())
    result = np.stack(shapes)
    distinct_upper = len(np.unique(result[:26].round(), axis=0)) == 26
    return result if distinct_upper and len(np.unique(result[26:].round(), axis=0)) == 26 else None


def _is_alphabet(font: Font, reference: np.ndarray | None) -> bool:
    """Compare capitals with a plain font's: on average a letter must resemble its own namesake, not any other."""
    shapes = _shapes(font.path)
    if shapes is None or reference is None:
        return False
    if font.domain in {"script", "blackletter"}:
        return True
    likeness = np.corrcoef(shapes[:26], reference[:26])[:26, 26:]
    own = np.diag(likeness)
    others = (likeness.sum(1) - own) / 25
    return bool((own - others).mean() > _LIKENESS)
