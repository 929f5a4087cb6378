"""Pictures for tests, made when they are needed."""

from __future__ import annotations

import random
import struct
import zlib
from io import BytesIO
from typing import Any

from PIL import Image


def encoded(image: Image.Image, form: str = "JPEG", **options: Any) -> bytes:
    """Return a picture as a file."""
    file = BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def photograph(width: int = 2400, height: int = 1600, form: str = "JPEG", **options: Any) -> bytes:
    """Return a picture with gradients and some noise, always the same one."""
    noise = random.Random(1).randbytes(64 * 64 * 3)
    small = Image.frombytes("RGB", (64, 64), noise)
    plane = Image.linear_gradient("L").resize((width, height))
    colours = Image.merge("RGB", [plane, plane.transpose(Image.Transpose.ROTATE_180), plane])
    return encoded(Image.blend(colours, small.resize((width, height)), 0.3), form, **options)


def four_colours(mode: str = "RGB") -> Image.Image:
    """Return 40 x 20 pixels: red and green above, blue and white below."""
    image = Image.new("RGB", (40, 20))
    corners = {(0, 0): "red", (20, 0): "lime", (0, 10): "blue", (20, 10): "white"}
    for (left, top), colour in corners.items():
        image.paste(colour, (left, top, left + 20, top + 10))
    return image.convert(mode)


def png(width: int, height: int, data: bytes = b"", *, depth: int = 8, kind: int = 2) -> bytes:
    """Return a PNG with any header and any data, whose checksums are right."""

    def chunk(name: bytes, content: bytes) -> bytes:
        check = zlib.crc32(name + content)
        return struct.pack(">I", len(content)) + name + content + struct.pack(">I", check)

    header = struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0)
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", header),
            chunk(b"IDAT", zlib.compress(data, 1)),
            chunk(b"IEND", b""),
        ]
    )


def gif_header(width: int, height: int) -> bytes:
    """Return a GIF of one pixel on a canvas of any size."""
    canvas = struct.pack("<HHBBB", width, height, 0x80, 0, 0) + b"\0\0\0\xff\xff\xff"
    frame = b"," + struct.pack("<HHHHB", 0, 0, 1, 1, 0) + b"\x02\x02D\x01\0"
    return b"GIF89a" + canvas + frame + b";"


def webp_header(width: int, height: int) -> bytes:
    """Return a WebP whose header names another size than its data has."""
    content = bytearray(encoded(Image.new("RGB", (1, 1)), "WEBP"))
    content[26:30] = struct.pack("<HH", width, height)
    return bytes(content)


def jpeg_of_size(width: int, height: int) -> bytes:
    """Return a JPEG whose header names another size than its data has."""
    content = bytearray(encoded(Image.new("L", (8, 8))))
    start = content.index(b"\xff\xc0") + 5
    content[start : start + 4] = struct.pack(">HH", height, width)
    return bytes(content)
