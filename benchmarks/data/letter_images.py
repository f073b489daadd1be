"""Draw one letter on a photograph: random colour, turn, shear, size, place and noise, all from one seed.

Rules:
    1. Everything random comes from the generator handed in, so the same seed draws the same bytes.
    2. Letter and ground differ in luminance by `LUMINANCE_GAP` or more, so a person can read every image.
    3. With `crowded`, other letters of the same font stand to the left and right, as house numbers do.
"""

import math
from pathlib import Path

import numpy as np
import numpy.typing as npt
from letter_fonts import LETTERS
from PIL import Image, ImageDraw, ImageFont

LUMINANCE_GAP = 70.0
MAX_TURN = 25.0
MAX_SHEAR = 0.2
_CANVAS = 256
_WEIGHTS = np.array([0.299, 0.587, 0.114])


def draw_letter(
    font_file: Path,
    letter: int,
    textures: list[Image.Image],
    rng: np.random.Generator,
    *,
    size: int,
    crowded: bool = False,
) -> npt.NDArray[np.uint8]:
    """Return a [size, size, 3] image of the class `letter`, in upper or lower case."""
    mask = _mask(font_file, letter, rng, size=size, crowded=crowded)
    ground = _ground(textures, rng, size)
    inked = ground[mask > 0.5]
    colour = _colour(float((inked if len(inked) else ground.reshape(-1, 3)).mean(0) @ _WEIGHTS), rng)
    opacity = mask[..., None] * rng.uniform(0.8, 1.0)
    image = ground * (1 - opacity) + colour * opacity
    image += rng.normal(0, rng.uniform(0, 12), image.shape)
    return image.clip(0, 255).astype(np.uint8)


def _mask(
    font_file: Path, letter: int, rng: np.random.Generator, *, size: int, crowded: bool
) -> npt.NDArray[np.float64]:
    """Return the letter's opacity, turned, sheared, scaled and shifted about the middle of the image."""
    alphabet = LETTERS if rng.random() < 0.5 else LETTERS.lower()
    font = ImageFont.truetype(font_file, 96)
    canvas = Image.new("L", (_CANVAS, _CANVAS))
    pen = ImageDraw.Draw(canvas)
    left, top, right, bottom = pen.textbbox((0, 0), alphabet[letter], font=font)
    x, y = (_CANVAS - left - right) / 2, (_CANVAS - top - bottom) / 2
    pen.text((x, y), alphabet[letter], fill=255, font=font)
    if crowded:
        before, after = (alphabet[int(i)] for i in rng.integers(0, len(LETTERS), 2))
        pen.text((x - pen.textlength(before, font=font) - 4, y), before, fill=255, font=font)
        pen.text((x + pen.textlength(alphabet[letter], font=font) + 4, y), after, fill=255, font=font)
    extent = max(right - left, bottom - top, 1)
    matrix = _affine(rng, size, zoom=extent / (size * rng.uniform(0.45, 0.75)))
    turned = canvas.transform((size, size), Image.Transform.AFFINE, matrix, Image.Resampling.BICUBIC)
    return np.asarray(turned, np.float64) / 255


def _affine(rng: np.random.Generator, size: int, zoom: float) -> tuple[float, ...]:
    angle = math.radians(rng.uniform(-MAX_TURN, MAX_TURN))
    shear = rng.uniform(-MAX_SHEAR, MAX_SHEAR)
    turn = np.array([[math.cos(angle), math.sin(angle)], [-math.sin(angle), math.cos(angle)]])
    linear = zoom * turn @ np.array([[1.0, shear], [0.0, 1.0]])
    shift = _CANVAS / 2 - linear @ (size / 2 + rng.uniform(-0.08, 0.08, 2) * size)
    return (*linear[0], shift[0], *linear[1], shift[1])


def _ground(textures: list[Image.Image], rng: np.random.Generator, size: int) -> npt.NDArray[np.float64]:
    texture = textures[int(rng.integers(len(textures)))]
    side = int(rng.integers(size // 2, min(texture.size) + 1))
    x, y = (int(rng.integers(0, extent - side + 1)) for extent in texture.size)
    crop = texture.crop((x, y, x + side, y + side)).resize((size, size), Image.Resampling.BILINEAR)
    return np.asarray(crop, np.float64)


def _colour(ground: float, rng: np.random.Generator) -> npt.NDArray[np.float64]:
    """Return a random colour whose luminance is far enough from the ground's; black or white always is."""
    for _ in range(50):
        colour: npt.NDArray[np.float64] = rng.uniform(0, 255, 3)
        if abs(float(colour @ _WEIGHTS) - ground) >= LUMINANCE_GAP:
            return colour
    return np.full(3, 0.0 if ground > 127 else 255.0)
