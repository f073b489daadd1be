"""From the bytes of an image file to the tensor that the trunk takes.

Rules, in this order, so that no pixel is decoded before its cost is known:
1. 1 byte to 10 MiB of content.
2. One of three named formats, found from the content: JPEG, PNG, WEBP.
3. One frame, no side over 10,000 pixels, at most 25 million pixels, read from the header. Half as many in WEBP and
   two thirds in CMYK, whose decoders take more memory for each: no image costs more than 200 MB.
4. Decoded in full, turned upright as EXIF says, transparency composited on white, converted to RGB.
"""

import io

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image, ImageOps
from torch import Tensor

from pfedbayespt.model.config import BackboneConfig

FORMATS = ("JPEG", "PNG", "WEBP")
MAX_IMAGE_BYTES = 10 * 1024 * 1024
MAX_SIDE_PIXELS = 10_000
MAX_PIXELS = 25_000_000
MAX_WEBP_PIXELS = 12_500_000
MAX_CMYK_PIXELS = 16_500_000
_BAND_ROWS = 64


class ImageError(ValueError):
    """The content is not an image that is taken; the message says what was wrong and what is allowed."""


def read_image(content: bytes) -> Image.Image:
    """Return the image in `content`: RGB, upright, on white.

    Raises:
        ImageError: the content breaks a rule of this module.
    """
    if not 1 <= len(content) <= MAX_IMAGE_BYTES:
        raise ImageError(f"the image has {len(content)} bytes; allowed: 1 to {MAX_IMAGE_BYTES}")
    image = _open(content)
    _check_header(image)
    try:
        ImageOps.exif_transpose(image, in_place=True)
        return _on_white(image)
    except Exception as error:  # decoders fail in many ways, and all mean a damaged file
        raise ImageError(f"the {image.format} image is damaged: {error}") from error


def prepare(image: Image.Image, config: BackboneConfig) -> Float[Tensor, "3 H W"]:
    """Return an RGB image with its shorter side resized bicubically to H = W, its centre kept, normalised.

    Only the centre is computed: of a long strip, nothing is enlarged to be thrown away.
    """
    size, side = config.image_size_pixels, min(image.size)
    left, top = (image.width - side) / 2, (image.height - side) / 2
    square = image.resize((size, size), Image.Resampling.BICUBIC, box=(left, top, left + side, top + side))
    pixels = torch.from_numpy(np.array(square)).movedim(2, 0).float() / 255
    mean, std = (torch.tensor(values).view(3, 1, 1) for values in (config.mean, config.std))
    return ((pixels - mean) / std).contiguous()


def _open(content: bytes) -> Image.Image:
    """Read the header only."""
    try:
        return Image.open(io.BytesIO(content), formats=FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ImageError(f"the image is larger than {MAX_PIXELS} pixels") from error
    except Exception as error:
        raise ImageError(f"the content is no readable image; allowed: {', '.join(FORMATS)}") from error


def _check_header(image: Image.Image) -> None:
    width, height = image.size
    kind, max_pixels = _kind_and_limit(image)
    if max(width, height) > MAX_SIDE_PIXELS or width * height > max_pixels:
        raise ImageError(
            f"the {kind} is {width} x {height} pixels; allowed: sides up to {MAX_SIDE_PIXELS}, "
            f"{max_pixels} pixels in all"
        )
    num_frames = getattr(image, "n_frames", 1)
    if num_frames != 1:
        raise ImageError(f"the image has {num_frames} frames; allowed: 1")


def _kind_and_limit(image: Image.Image) -> tuple[str, int]:
    if image.format == "WEBP":
        return "WEBP image", MAX_WEBP_PIXELS
    if image.mode == "CMYK":
        return "CMYK image", MAX_CMYK_PIXELS
    return "image", MAX_PIXELS


def _on_white(image: Image.Image) -> Image.Image:
    if not (image.mode.startswith("I") or image.has_transparency_data):
        return image.convert("RGB")
    canvas = Image.new("RGB", image.size)
    for top in range(0, image.height, _BAND_ROWS):  # in bands: a whole layer or two more would be 100 MB each
        band = image.crop((0, top, image.width, min(top + _BAND_ROWS, image.height)))
        canvas.paste(_flat(band), (0, top))
    return canvas


def _flat(band: Image.Image) -> Image.Image:
    if band.mode.startswith("I"):  # 16-bit grey, which Pillow would clip at 255
        return Image.fromarray((np.asarray(band) // 257).astype(np.uint8)).convert("RGB")
    layer = band.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
