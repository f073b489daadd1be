"""From the bytes of an image file to the tensor that the trunk takes.

Rules, in this order, so that no pixel is decoded before its cost is known:
1. 1 byte to 10 MiB of content.
2. One of three named formats, found from the content: JPEG, PNG, WEBP.
3. One frame, no side over 10,000 pixels, at most 25 million pixels, read from the header. Fewer in WEBP (11.5) and
   in CMYK (15), whose decoders take more memory for each: no image costs more than 190 MB.
4. Decoded in full, turned upright as EXIF says, transparency composited on white, converted to RGB.
"""

import io

import numpy as np
import torch
from jaxtyping import Float
from PIL import ExifTags, Image
from torch import Tensor

from pfedbayespt.model.config import BackboneConfig

FORMATS = ("JPEG", "PNG", "WEBP")
MAX_IMAGE_BYTES = 10 * 1024 * 1024
MAX_SIDE_PIXELS = 10_000
MAX_PIXELS = 25_000_000
MAX_WEBP_PIXELS = 11_500_000
MAX_CMYK_PIXELS = 15_000_000
_BAND_ROWS = 64
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}  # by EXIF orientation


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
        image.load()
        return _upright_on_white(image)
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


def _upright_on_white(image: Image.Image) -> Image.Image:
    """Return the decoded image as it is meant to be seen; `image` is used up where that takes work.

    Colour by colour: Pillow keeps 4 bytes for a pixel of 3 colours, so that two whole images would be 200 MB.
    """
    turn = _TURNS.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    if image.mode == "RGB" and turn is None and not image.has_transparency_data:
        return image
    planes = _planes_on_white(image)
    image.close()
    if turn is not None:
        planes = [plane.transpose(turn) for plane in planes]
    return Image.merge("RGB", planes)


def _planes_on_white(image: Image.Image) -> list[Image.Image]:
    """Return red, green and blue, laid out in bands: a whole layer or two more would be 100 MB each."""
    planes = [Image.new("L", image.size) for _ in "RGB"]
    for top in range(0, image.height, _BAND_ROWS):
        band = image.crop((0, top, image.width, min(top + _BAND_ROWS, image.height)))
        for plane, part in zip(planes, _flat(band).split(), strict=True):
            plane.paste(part, (0, top))
    return planes


def _flat(band: Image.Image) -> Image.Image:
    if band.mode.startswith("I"):  # 16-bit grey, which Pillow would clip at 255
        return Image.fromarray((np.asarray(band) // 257).astype(np.uint8)).convert("RGB")
    if not band.has_transparency_data:
        return band.convert("RGB")
    layer = band.convert("RGBA")
    return Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer).convert("RGB")
