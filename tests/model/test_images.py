"""Images are refused before they cost anything, and come out upright, opaque, square and normalised."""

import io
import struct
import subprocess
import sys
import zlib

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from pfedbayespt.model.config import BackboneConfig
from pfedbayespt.model.images import MAX_IMAGE_BYTES, ImageError, prepare, read_image

CONFIG = BackboneConfig("test_vit", "sha256:", image_size_pixels=48)


def encode(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def png_of_size(width, height):
    """A PNG of a few dozen bytes whose header says it is `width` x `height`."""

    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


def animation(kind):
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    return encode(frames[0], kind, save_all=True, append_images=frames[1:])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "0 bytes; allowed: 1 to 10485760"),
        (b"\xff" * (MAX_IMAGE_BYTES + 1), "10485761 bytes"),
        (b"not an image", "no readable image; allowed: JPEG, PNG, WEBP"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "no readable image"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "no readable image"),
        (encode(Image.new("RGB", (8, 8)), "GIF"), "no readable image"),
        (encode(Image.new("RGB", (8, 8)), "BMP"), "no readable image"),
        (encode(Image.new("RGB", (8, 8)), "TIFF"), "no readable image"),
        (png_of_size(10_001, 1), "10001 x 1 pixels; allowed: sides up to 10000"),
        (png_of_size(1, 10_001), "1 x 10001 pixels"),
        (png_of_size(5001, 5000), "25000000 pixels in all"),
        (png_of_size(20_000, 20_000), "larger than 25000000 pixels"),
        (png_of_size(0, 8), "no readable image|damaged"),
        (animation("PNG"), "2 frames; allowed: 1"),
        (animation("WEBP"), "2 frames; allowed: 1"),
        (png_of_size(8, 8), "the PNG image is damaged"),
        (encode(Image.fromarray(noise(64, 64, 3)))[:-2000], "the PNG image is damaged"),
        (encode(Image.fromarray(noise(64, 64, 3)), "JPEG")[:-500], "the JPEG image is damaged"),
        (encode(Image.fromarray(noise(64, 64, 3)), "WEBP")[:-500], "no readable image|damaged"),
    ],
)
@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
def test_what_is_not_taken_is_refused_with_the_reason(content, reason):
    with pytest.raises(ImageError, match=reason):
        read_image(content)


def test_a_large_image_is_refused_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr(Image.Image, "load", lambda image: pytest.fail("pixels were decoded"))
    with pytest.raises(ImageError, match="25000000 pixels in all"):
        read_image(png_of_size(9000, 9000))


@pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")
def test_a_warning_about_size_that_was_made_an_error_is_still_an_image_error():
    with pytest.raises(ImageError, match="larger than"):
        read_image(png_of_size(10_000, 10_000))


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(["PNG", "JPEG", "WEBP"]),
    st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.integers(0, 255)), min_size=1, max_size=8),
    st.floats(0, 1),
)
def test_damage_anywhere_ends_in_an_image_or_an_image_error(kind, changes, kept):
    content = bytearray(encode(Image.fromarray(noise(12, 10, 3)), kind))
    for place, value in changes:
        content[int(place * len(content))] = value
    damaged = bytes(content[: max(1, round(len(content) * kept))]) if kept > 0.5 else bytes(content)
    try:
        image = read_image(damaged)
    except ImageError:
        return
    assert image.mode == "RGB"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_each_format_is_read(kind):
    image = read_image(encode(Image.new("RGB", (20, 10), (200, 100, 50)), kind))
    assert (image.mode, image.size) == ("RGB", (20, 10))
    np.testing.assert_allclose(np.asarray(image)[5, 10], (200, 100, 50), atol=2)


def test_the_largest_image_is_read():
    image = read_image(encode(Image.new("L", (10_000, 2500), 7)))
    assert image.size == (10_000, 2500)


@pytest.mark.parametrize(
    ("orientation", "turn"),
    [
        (1, lambda a: a),
        (2, lambda a: a[:, ::-1]),
        (3, lambda a: a[::-1, ::-1]),
        (4, lambda a: a[::-1]),
        (5, lambda a: a.swapaxes(0, 1)),
        (6, lambda a: np.rot90(a, -1)),
        (7, lambda a: a[::-1, ::-1].swapaxes(0, 1)),
        (8, lambda a: np.rot90(a)),
    ],
)
def test_images_are_turned_upright(orientation, turn):
    pixels, exif = noise(5, 7, 3), Image.Exif()
    exif[0x0112] = orientation
    image = read_image(encode(Image.fromarray(pixels), exif=exif))
    np.testing.assert_array_equal(np.asarray(image), turn(pixels))


def test_transparency_shows_white():
    pixels = np.zeros((1, 3, 4), dtype=np.uint8)
    pixels[0, :, 0] = 200
    pixels[0, :, 3] = (0, 128, 255)
    image = np.asarray(read_image(encode(Image.fromarray(pixels))))
    np.testing.assert_allclose(image[0], [(255, 255, 255), (227, 127, 127), (200, 0, 0)], atol=1)


TURNED = Image.Exif()
TURNED[0x0112] = 6


@pytest.mark.parametrize(
    ("image_format", "mode", "size", "options"),
    [
        ("PNG", "RGBA", (5_000, 5_000), {}),
        ("PNG", "LA", (5_000, 5_000), {}),
        ("PNG", "I;16", (5_000, 5_000), {}),
        ("PNG", "RGB", (5_000, 5_000), {"exif": TURNED}),
        ("PNG", "RGBA", (5_000, 5_000), {"exif": TURNED}),
        ("JPEG", "RGB", (5_000, 5_000), {"progressive": True}),
        ("JPEG", "CMYK", (3_870, 3_870), {"progressive": True}),
        ("WEBP", "RGBA", (3_390, 3_390), {"lossless": True}),
    ],
)
def test_no_image_costs_more_than_190_megabytes(tmp_path, image_format, mode, size, options):
    """Decoding and laying on white together; four bytes a pixel and a whole layer more would be 300 and above."""
    Image.new(mode, size).save(tmp_path / "large", image_format, **options)
    measured = (
        "import sys; from pathlib import Path; from pfedbayespt.model.images import read_image\n"
        "def kilobytes(name):\n"
        "    lines = Path('/proc/self/status').read_text().splitlines()\n"
        "    return next(int(line.split()[1]) for line in lines if line.startswith(name))\n"
        "content = Path(sys.argv[1]).read_bytes()\n"
        "Path('/proc/self/clear_refs').write_text('5')\n"
        "before = kilobytes('VmRSS')\n"
        "read_image(content)\n"
        "print(kilobytes('VmHWM') - before)"
    )
    command = [sys.executable, "-c", measured, str(tmp_path / "large")]
    kilobytes = int(subprocess.run(command, capture_output=True, check=True, text=True).stdout)
    assert kilobytes < 190_000


@pytest.mark.parametrize(
    ("image_format", "mode", "size"), [("WEBP", "RGB", (5_000, 2_301)), ("JPEG", "CMYK", (5_000, 3_001))]
)
def test_what_its_decoder_takes_more_memory_for_may_have_fewer_pixels(image_format, mode, size):
    content = io.BytesIO()
    Image.new(mode, size).save(content, image_format)
    with pytest.raises(ImageError, match=rf"the {'CMYK' if mode == 'CMYK' else 'WEBP'} image is {size[0]} x"):
        read_image(content.getvalue())


def test_a_transparent_palette_colour_shows_white():
    image = Image.new("P", (2, 1))
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    pixels = np.asarray(read_image(encode(image, transparency=0)))
    np.testing.assert_array_equal(pixels[0], [(255, 255, 255), (40, 50, 60)])


@pytest.mark.parametrize("mode", ["1", "L", "LA", "P", "RGB", "RGBA"])
def test_every_mode_becomes_rgb(mode):
    image = read_image(
        encode(Image.fromarray(noise(4, 5, 3)).convert("RGBA" if "A" in mode else "RGB").convert(mode))
    )
    assert (image.mode, image.size) == ("RGB", (5, 4))


def test_a_four_colour_jpeg_becomes_rgb():
    image = read_image(encode(Image.new("CMYK", (8, 8), (0, 255, 255, 0)), "JPEG"))
    np.testing.assert_allclose(np.asarray(image)[4, 4], (255, 0, 0), atol=4)


def test_16_bit_grey_keeps_its_range():
    pixels = np.array([[0, 257, 32896, 65535]], dtype=np.uint16)
    image = np.asarray(read_image(encode(Image.fromarray(pixels))))
    np.testing.assert_array_equal(image[0], [(0,) * 3, (1,) * 3, (128,) * 3, (255,) * 3])


def test_an_image_of_the_right_size_is_only_normalised():
    pixels = noise(48, 48, 3)
    prepared = prepare(Image.fromarray(pixels), CONFIG)
    expected = (pixels / 255 - np.array(CONFIG.mean)) / np.array(CONFIG.std)
    np.testing.assert_allclose(prepared.numpy(), expected.transpose(2, 0, 1), atol=1e-6)
    assert prepared.dtype == torch.float32
    assert prepared.is_contiguous()


@pytest.mark.parametrize("size", [(90, 60), (60, 90), (150, 30), (60, 60)])
def test_the_shorter_side_is_resized_and_the_centre_kept(size):
    image = Image.fromarray(
        64 + noise(size[1], size[0], 3) // 2
    )  # no overshoot, which Pillow clips between passes
    scale = 48 / min(size)
    whole = np.array(image.resize((round(size[0] * scale), round(size[1] * scale)), Image.Resampling.BICUBIC))
    top, left = ((length - 48) // 2 for length in whole.shape[:2])
    expected = Image.fromarray(whole[top : top + 48, left : left + 48])
    one_grey_level = 1.01 / 255 / min(CONFIG.std)
    torch.testing.assert_close(prepare(image, CONFIG), prepare(expected, CONFIG), rtol=0, atol=one_grey_level)


def test_shrinking_averages_instead_of_skipping():
    stripes = np.zeros((480, 480, 3), dtype=np.uint8)
    stripes[:, ::2] = 255
    spread = (prepare(Image.fromarray(stripes), CONFIG)[0] * CONFIG.std[0] + CONFIG.mean[0])[:, 4:-4]
    torch.testing.assert_close(spread, torch.full_like(spread, 0.5), atol=0.02, rtol=0)


@pytest.mark.parametrize("size", [(1, 1), (10_000, 1), (1, 10_000), (47, 48), (49, 2500)])
def test_any_shape_is_prepared_to_the_same_shape(size):
    prepared = prepare(Image.new("RGB", size, (255, 0, 0)), CONFIG)
    assert prepared.shape == (3, 48, 48)
    red = (torch.tensor([1.0, 0.0, 0.0]) - torch.tensor(CONFIG.mean)) / torch.tensor(CONFIG.std)
    torch.testing.assert_close(prepared[:, 24, 24], red)
