"""Images, nice and nasty, through the whole server: each gets a right answer or a clear refusal, never a 5xx."""

import base64
import io
import struct
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms, PngImagePlugin
from tests.server.harness import Coordinator, check, problem_of, running, settings_for
from tests.server.serving_parts import (
    encoded,
    file_of,
    parameters_of,
    picture,
    specification_on,
    tiny_backbone,
)

from pfedbayespt.protocol import Prediction
from pfedbayespt.server.settings import ServerRole

PATH = "/v1/federations/alpha/predictions"
ROLES = frozenset({ServerRole.COORDINATOR, ServerRole.INFERENCE})


@pytest.fixture(scope="module")
def serving(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Coordinator]:
    """A server that answers for a federation on the tiny ViT, set up over HTTP."""
    folder = tmp_path_factory.mktemp("server")
    specification = specification_on(tiny_backbone(folder / "backbones", "vit"))
    parameters = parameters_of(specification, folder / "backbones" / "vit", seed=0)
    options = {"roles": ROLES, "backbone_cache_dir": folder / "backbones"}
    with running(settings_for(folder / "data", **options)) as coordinator:
        body = {"name": "alpha", "specification": specification.model_dump(mode="json")}
        coordinator.admin.post("/v1/federations", body, status=201)
        content = file_of(parameters, specification, 0)
        check(coordinator.admin.put_file("/v1/federations/alpha/initial-parameters", content), 201)
        coordinator.admin.post("/v1/federations/alpha/activate")
        yield coordinator


def ask(serving: Coordinator, image: bytes, media_type: str = "image/png", **params: Any) -> Any:
    params = {"num_samples": 2} | params
    return serving.admin.request(
        "POST", PATH, content=image, headers={"Content-Type": media_type}, params=params
    )


def answered(response: Any) -> Prediction:
    assert response.status_code == 200, response.text
    return Prediction.model_validate_json(response.content)


def rejected(response: Any) -> str:
    assert (response.status_code, problem_of(response)) == (422, "image_rejected"), response.text
    detail = str(response.json()["detail"])
    assert 0 < len(detail) < 500
    return detail


# Nice ones


def with_exif(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(picture(), "JPEG", exif=exif.tobytes())


def with_profile() -> bytes:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return encoded(picture(), "JPEG", icc_profile=profile)


def paletted_with_transparency() -> bytes:
    return encoded(picture().quantize(16), transparency=3)


def sixteen_bit() -> bytes:
    return encoded(Image.new("I;16", (40, 40), 40_000))


NICE: dict[str, Callable[[], bytes]] = {
    "PNG": lambda: encoded(picture()),
    "JPEG": lambda: encoded(picture(), "JPEG"),
    "WEBP": lambda: encoded(picture(), "WEBP"),
    "WEBP without loss": lambda: encoded(picture().convert("RGBA"), "WEBP", lossless=True),
    "progressive JPEG": lambda: encoded(picture(), "JPEG", progressive=True),
    "JPEG 4:2:0 of odd size": lambda: encoded(picture(size=(61, 47)), "JPEG", subsampling=2),
    "grey JPEG": lambda: encoded(picture().convert("L"), "JPEG"),
    "CMYK JPEG": lambda: encoded(picture().convert("CMYK"), "JPEG"),
    "JPEG with a colour profile": with_profile,
    "JPEG on its side": lambda: with_exif(6),
    "JPEG of an orientation that does not exist": lambda: with_exif(200),
    "JPEG with a tail": lambda: encoded(picture(), "JPEG") + b"tail",
    "interlaced-size PNG": lambda: encoded(picture(size=(3, 5))),
    "16-bit PNG": sixteen_bit,
    "1-bit PNG": lambda: encoded(picture().convert("1")),
    "grey PNG": lambda: encoded(picture().convert("L")),
    "grey PNG with alpha": lambda: encoded(picture().convert("LA")),
    "PNG with alpha": lambda: encoded(picture().convert("RGBA")),
    "palette PNG": lambda: encoded(picture().quantize(16)),
    "palette PNG with transparency": paletted_with_transparency,
    "PNG with a tail": lambda: encoded(picture()) + b"tail",
    "1 x 1 pixel": lambda: encoded(picture(size=(1, 1))),
    "1 x 1 pixel JPEG": lambda: encoded(picture(size=(1, 1)), "JPEG"),
    "1 x 1 pixel WEBP": lambda: encoded(picture(size=(1, 1)), "WEBP"),
    "black": lambda: encoded(Image.new("RGB", (50, 50))),
    "wholly transparent": lambda: encoded(Image.new("RGBA", (50, 50))),
    "25 megapixels of nothing": lambda: encoded(Image.new("1", (5000, 5000))),
}


@pytest.mark.parametrize("name", NICE)
def test_an_image_is_answered_with_the_same_bytes_each_time(serving: Coordinator, name: str) -> None:
    image = NICE[name]()
    first, second = ask(serving, image), ask(serving, image)
    assert sum(entry.probability for entry in answered(first).probabilities) == pytest.approx(1.0, abs=1e-6)
    assert first.content == second.content
    steps = [step.partition(";")[0] for step in first.headers["server-timing"].split(", ")]
    assert steps == ["queue", "decode", "encode", "sample"]


def test_the_three_forms_of_a_request_give_the_same_bytes(serving: Coordinator) -> None:
    image = encoded(picture(), "JPEG")
    form = serving.admin.request("POST", PATH, files={"image": ("x.jpg", image)}, params={"num_samples": 2})
    body = {"image": base64.b64encode(image).decode(), "num_samples": 2}
    in_json = serving.admin.request("POST", PATH, json=body)
    assert ask(serving, image).content == form.content == in_json.content


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("media_type", ["image/jpeg", "image/png", "image/webp"])
def test_the_bytes_say_what_an_image_is_whatever_the_header_says(
    serving: Coordinator, image_format: str, media_type: str
) -> None:
    image = encoded(picture(), image_format)
    assert ask(serving, image, media_type).content == ask(serving, image, "image/png").content


def test_an_image_on_its_side_is_turned_upright(serving: Coordinator) -> None:
    upright = picture()
    turned = upright.transpose(Image.Transpose.ROTATE_90)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be shown rotated by 90 degrees clockwise
    marked = answered(ask(serving, encoded(turned, exif=exif.tobytes()), seed=1))
    plain = answered(ask(serving, encoded(upright), seed=1))
    assert marked.probabilities == plain.probabilities
    assert marked.probabilities != answered(ask(serving, encoded(turned), seed=1)).probabilities


# Nasty ones


def png_of(width: int, height: int, rows: bytes = b"", depth: int = 1, colour: int = 0) -> bytes:
    """A PNG made by hand: its header may lie."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def several_frames(image_format: str) -> bytes:
    frames = [picture(seed) for seed in range(3)]
    return encoded(frames[0], image_format, save_all=True, append_images=frames[1:], duration=50)


def png_with_text_bomb() -> bytes:
    text = PngImagePlugin.PngInfo()
    text.add_text("comment", "x" * 50_000_000, zip=True)
    return encoded(picture(), pnginfo=text)


def changed(content: bytes, position: int, value: int) -> bytes:
    return content[:position] + bytes([value]) + content[position + 1 :]


NASTY: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "one byte": lambda: b"\x89",
    "text": lambda: b"This is a picture of a bird.",
    "HTML": lambda: b"<html><img src='https://example.org/bird.png'></html>",
    "SVG": lambda: b'<svg xmlns="http://www.w3.org/2000/svg"><rect width="9" height="9"/></svg>',
    "XML bomb": lambda: b'<!DOCTYPE x [<!ENTITY a "aaaa">]><svg>&a;&a;&a;</svg>',
    "URL": lambda: b"https://example.org/bird.png",
    "PDF": lambda: b"%PDF-1.7\n1 0 obj << >> endobj",
    "PostScript": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage\n",
    "ZIP": lambda: b"PK\x03\x04" + bytes(60),
    "pickle": lambda: b"\x80\x04\x95\x0b\x00\x00\x00\x00\x00\x00\x00\x8c\x07builtins.",
    "random": lambda: bytes(range(256)) * 40,
    "GIF": lambda: encoded(picture().quantize(16), "GIF"),
    "BMP": lambda: encoded(picture(), "BMP"),
    "TIFF": lambda: encoded(picture(), "TIFF"),
    "ICO": lambda: encoded(picture(size=(32, 32)), "ICO"),
    "PPM": lambda: encoded(picture(), "PPM"),
    "TGA": lambda: encoded(picture(), "TGA"),
    "EPS by Pillow": lambda: encoded(picture(), "EPS"),
    "PDF by Pillow": lambda: encoded(picture(), "PDF"),
    "animated GIF": lambda: several_frames("GIF"),
    "animated WEBP": lambda: several_frames("WEBP"),
    "animated PNG": lambda: several_frames("PNG"),
    "JPEG of several frames": lambda: several_frames("MPO"),
    "PNG signature alone": lambda: b"\x89PNG\r\n\x1a\n",
    "JPEG signature alone": lambda: b"\xff\xd8\xff\xe0",
    "WEBP signature alone": lambda: b"RIFF\x04\x00\x00\x00WEBP",
    "PNG cut in half": lambda: encoded(picture())[: len(encoded(picture())) // 2],
    "PNG cut in its header": lambda: encoded(picture())[:20],
    "JPEG cut in half": lambda: encoded(picture(), "JPEG")[: len(encoded(picture(), "JPEG")) // 2],
    "JPEG cut in its header": lambda: encoded(picture(), "JPEG")[:30],
    "WEBP cut in half": lambda: encoded(picture(), "WEBP")[: len(encoded(picture(), "WEBP")) // 2],
    "PNG of 177 megapixels": lambda: encoded(Image.new("1", (13_300, 13_300))),
    "PNG a little above 25 megapixels": lambda: encoded(Image.new("1", (5001, 5000))),
    "PNG wider than 10,000 pixels": lambda: encoded(Image.new("1", (10_001, 2))),
    "PNG higher than 10,000 pixels": lambda: encoded(Image.new("1", (2, 10_001))),
    "JPEG wider than 10,000 pixels": lambda: encoded(Image.new("L", (10_001, 2)), "JPEG"),
    "WEBP wider than 10,000 pixels": lambda: encoded(Image.new("L", (10_001, 2)), "WEBP"),
    "PNG that claims 4 billion pixels a side": lambda: png_of(2**31 - 1, 2**31 - 1),
    "PNG of width 0": lambda: png_of(0, 5),
    "PNG of height 0": lambda: png_of(5, 0),
    "PNG without pixels": lambda: png_of(5, 5),
    "PNG of an impossible depth": lambda: png_of(5, 5, bytes(60), depth=7),
    "PNG of an unknown colour type": lambda: png_of(5, 5, bytes(60), colour=5),
    "PNG with a wrong checksum": lambda: changed(encoded(picture()), 30, 0xAA),
    "PNG with its text inflated 1,000 times": png_with_text_bomb,
}


@pytest.mark.parametrize("name", NASTY)
def test_what_is_no_image_for_this_service_is_rejected(serving: Coordinator, name: str) -> None:
    rejected(ask(serving, NASTY[name]()))


def test_an_image_of_more_bytes_than_allowed_is_too_large(serving: Coordinator) -> None:
    response = ask(serving, encoded(picture()) + bytes(10_000_000))
    assert (response.status_code, problem_of(response)) == (413, "body_too_large")


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP"])
def test_a_truncated_image_never_makes_the_server_fail(serving: Coordinator, image_format: str) -> None:
    content = encoded(picture(), image_format)
    for length in range(0, len(content), max(1, len(content) // 40)):
        assert ask(serving, content[:length]).status_code in {200, 422}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    image_format=st.sampled_from(["PNG", "JPEG", "WEBP"]),
    changes=st.lists(st.tuples(st.integers(0, 10**6), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_a_damaged_image_never_makes_the_server_fail(
    serving: Coordinator, image_format: str, changes
) -> None:
    content = bytearray(encoded(picture(), image_format))
    for position, value in changes:
        content[position % len(content)] = value
    response = ask(serving, bytes(content))
    if response.status_code != 200:
        rejected(response)


def test_the_server_is_still_well(serving: Coordinator, tmp_path: Path) -> None:
    image = tmp_path / "last.png"
    picture().save(image)
    assert answered(ask(serving, image.read_bytes())).federation == "alpha"
    assert io.BytesIO(image.read_bytes()).read(4) == b"\x89PNG"
