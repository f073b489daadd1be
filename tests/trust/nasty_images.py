"""Images that somebody sends to do harm, made by code: bombs, lies, torn files, other formats, several frames."""

import io
import random
import struct
import zlib
from collections.abc import Callable, Iterator

import numpy as np
from PIL import Image

_PNG = b"\x89PNG\r\n\x1a\n"


def plain(image_format: str = "PNG", size: tuple[int, int] = (48, 40), **options: object) -> bytes:
    """Return a sound image with some structure."""
    pixels = np.random.default_rng(0).integers(0, 256, (6, 6, 3), dtype=np.uint8)
    return _saved(Image.fromarray(pixels).resize(size), image_format, **options)


def chunk(kind: bytes, content: bytes, checksum: int | None = None) -> bytes:
    """Return a chunk of a PNG file."""
    code = zlib.crc32(kind + content) if checksum is None else checksum
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", code & 0xFFFFFFFF)


def png(
    width: int, height: int, content: bytes = b"", *, depth: int = 8, colour: int = 2, **more: int
) -> bytes:
    """Return a PNG file that says it has this size, with these compressed pixels."""
    fields = (
        width,
        height,
        depth,
        colour,
        more.get("method", 0),
        more.get("filters", 0),
        more.get("interlace", 0),
    )
    header = struct.pack(">IIBBBBB", *fields)
    return _PNG + chunk(b"IHDR", header) + chunk(b"IDAT", content) + chunk(b"IEND", b"")


def _saved(image: Image.Image, image_format: str, **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, image_format, **options)
    return buffer.getvalue()


def _frames(image_format: str) -> bytes:
    images = [Image.new("RGB", (16, 16), (shade, 0, 0)) for shade in (0, 80, 160)]
    return _saved(images[0], image_format, save_all=True, append_images=images[1:])


def _bomb(width: int, height: int) -> bytes:
    """Return a small file that unfolds into width x height pixels of nothing."""
    packer = zlib.compressobj(9)
    row = b"\0" * (1 + (width + 7) // 8)
    content = b"".join(packer.compress(row) for _ in range(min(height, 20_000))) + packer.flush()
    return png(width, height, content, depth=1, colour=0)


def _text_bomb() -> bytes:
    head, tail = plain()[:33], plain()[33:]
    return head + chunk(b"zTXt", b"comment\0\0" + zlib.compress(bytes(64 * 2**20))) + tail


def _profile_bomb() -> bytes:
    head, tail = plain()[:33], plain()[33:]
    return head + chunk(b"iCCP", b"icc\0\0" + zlib.compress(bytes(64 * 2**20))) + tail


def _many_chunks() -> bytes:
    head, tail = plain()[:33], plain()[33:]
    return head + chunk(b"tEXt", b"a\0b") * 100_000 + tail


def _riff_lie(size: int) -> bytes:
    return b"RIFF" + struct.pack("<I", size) + b"WEBPVP8 " + struct.pack("<I", size) + bytes(100)


def _jpeg_of_size(width: int, height: int) -> bytes:
    content = bytearray(plain("JPEG"))
    place = content.index(b"\xff\xc0") + 5
    content[place : place + 4] = struct.pack(">HH", height, width)
    return bytes(content)


def _exif(orientation: int) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return plain("JPEG", exif=exif.tobytes())


MADE: dict[str, Callable[[], bytes]] = {
    "nothing": lambda: b"",
    "one byte": lambda: b"\x89",
    "text": lambda: b"hello, this is no image",
    "zeros": lambda: bytes(10_000),
    "a PNG's signature alone": lambda: _PNG,
    "a JPEG's signature alone": lambda: b"\xff\xd8\xff",
    "a WEBP's signature alone": lambda: b"RIFF\0\0\0\0WEBP",
    "PNG of 13,300 x 13,300": lambda: _bomb(13_300, 13_300),
    "PNG of 10,001 x 1": lambda: _bomb(10_001, 1),
    "PNG of 1 x 10,001": lambda: _bomb(1, 10_001),
    "PNG of 5,001 x 5,000": lambda: _bomb(5_001, 5_000),
    "PNG of 25 million pixels that are not there": lambda: png(5_000, 5_000, zlib.compress(b"")),
    "PNG of 25 million transparent pixels": lambda: _saved(Image.new("RGBA", (5_000, 5_000)), "PNG"),
    "PNG of 2^31 - 1 pixels a side": lambda: png(2**31 - 1, 2**31 - 1),
    "PNG of 2^32 - 1 pixels a side": lambda: png(2**32 - 1, 2**32 - 1),
    "PNG of no width": lambda: png(0, 10),
    "PNG of no height": lambda: png(10, 0),
    "PNG of an unknown depth": lambda: png(10, 10, depth=3),
    "PNG of an unknown colour type": lambda: png(10, 10, colour=5),
    "PNG of an unknown compression": lambda: png(10, 10, method=9),
    "PNG of an unknown filter method": lambda: png(10, 10, filters=9),
    "PNG of an unknown interlacing": lambda: png(10, 10, interlace=9),
    "PNG with a palette that is missing": lambda: png(10, 10, zlib.compress(bytes(110)), colour=3),
    "PNG with pixels that are not zlib": lambda: png(10, 10, b"not zlib at all"),
    "PNG with too few pixels": lambda: png(100, 100, zlib.compress(bytes(10))),
    "PNG with far too many pixels": lambda: png(10, 10, zlib.compress(bytes(50 * 2**20))),
    "PNG with a filter that does not exist": lambda: png(
        4, 2, zlib.compress(b"\x09" + bytes(12) + b"\x09" + bytes(12))
    ),
    "PNG with a wrong checksum": lambda: _PNG + chunk(b"IHDR", plain()[16:29], checksum=1) + plain()[33:],
    "PNG without its end": lambda: plain()[:-12],
    "PNG without pixels": lambda: plain()[:33] + chunk(b"IEND", b""),
    "PNG with a chunk longer than the file": lambda: plain()[:33] + struct.pack(">I", 2**31 - 1) + b"IDAT",
    "PNG with a chunk of 2^32 - 1 bytes": lambda: plain()[:33] + struct.pack(">I", 2**32 - 1) + b"tEXt",
    "PNG with a text that unfolds": _text_bomb,
    "PNG with a profile that unfolds": _profile_bomb,
    "PNG with 100,000 chunks": _many_chunks,
    "PNG with two headers": lambda: plain()[:33] * 2 + plain()[33:],
    "PNG behind a JPEG's signature": lambda: b"\xff\xd8\xff" + plain(),
    "animated PNG": lambda: _frames("PNG"),
    "animated WEBP": lambda: _frames("WEBP"),
    "GIF": lambda: plain("GIF"),
    "animated GIF": lambda: _frames("GIF"),
    "TIFF": lambda: plain("TIFF"),
    "BMP": lambda: plain("BMP"),
    "ICO": lambda: plain("ICO"),
    "PPM": lambda: plain("PPM"),
    "TGA": lambda: plain("TGA"),
    "JPEG 2000": lambda: plain("JPEG2000"),
    "PDF": lambda: b"%PDF-1.7\n1 0 obj\n<<>>\nendobj\n",
    "EPS": lambda: b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(/etc/passwd) (r) file\n",
    "SVG": lambda: b"<svg xmlns='http://www.w3.org/2000/svg'><image href='http://localhost/'/></svg>",
    "XML with entities": lambda: b"<!DOCTYPE x [<!ENTITY a 'aaaa'><!ENTITY b '&a;&a;&a;&a;'>]><x>&b;</x>",
    "HTML": lambda: b"<html><script>alert(1)</script></html>",
    "ZIP": lambda: b"PK\x03\x04" + bytes(100),
    "pickle": lambda: b"\x80\x04\x95\x1a\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x8c\x06system\x93.",
    "PSD": lambda: b"8BPS\0\1" + bytes(200),
    "HDF5": lambda: b"\x89HDF\r\n\x1a\n" + bytes(100),
    "FITS": lambda: b"SIMPLE  =                    T" + bytes(2880),
    "MPO of several JPEGs": lambda: plain("JPEG") + plain("JPEG"),
    "JPEG of 65,535 x 65,535": lambda: _jpeg_of_size(65_535, 65_535),
    "JPEG of 10,001 x 8": lambda: _jpeg_of_size(10_001, 8),
    "JPEG of no size": lambda: _jpeg_of_size(0, 0),
    "JPEG cut in half": lambda: plain("JPEG")[: len(plain("JPEG")) // 2],
    "JPEG cut after its header": lambda: plain("JPEG")[:20],
    "JPEG whose segment lies about its length": lambda: b"\xff\xd8\xff\xe0\xff\xff" + bytes(50),
    "JPEG with an EXIF of rubbish": lambda: plain("JPEG", exif=b"Exif\0\0" + bytes(range(256))),
    "JPEG of orientation 0": lambda: _exif(0),
    "JPEG of orientation 65,535": lambda: _exif(65_535),
    "WEBP that lies about its length": lambda: _riff_lie(2**31),
    "WEBP of no length": lambda: _riff_lie(0),
    "WEBP cut in half": lambda: plain("WEBP")[: len(plain("WEBP")) // 2],
    "10 MB and a byte": lambda: plain() + bytes(10_000_001),
    "a URL": lambda: b"http://169.254.169.254/latest/meta-data/",
    "a path": lambda: b"../../../../etc/passwd",
}

HEAVY = frozenset({"10 MB and a byte", "PNG with 100,000 chunks"})
"""Those that take a while to make."""


def damaged(number: int, seed: int = 0) -> Iterator[bytes]:
    """Yield sound images with a few bytes changed, cut out or put in."""
    draw = random.Random(seed)
    sound = [plain(image_format) for image_format in ("PNG", "JPEG", "WEBP")]
    for _ in range(number):
        content = bytearray(draw.choice(sound))
        for _ in range(draw.randint(1, 8)):
            place = draw.randrange(len(content))
            match draw.randrange(3):
                case 0:
                    content[place] = draw.randrange(256)
                case 1:
                    del content[place : place + draw.randint(1, 64)]
                case 2:
                    content[place:place] = draw.randbytes(draw.randint(1, 64))
            content = content or bytearray(b"\0")
        yield bytes(content)
