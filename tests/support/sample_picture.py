"""Draws the console's sample picture: ``python -m tests.support.sample_picture``.

It is stored lying on its side, with the orientation and a few more words as EXIF, so that people
can see both dealt with.
"""

from __future__ import annotations

import math

from PIL import Image, ImageDraw

from tests.support.roles import ROOT

PATH = ROOT / "app" / "console" / "static" / "console" / "sample.jpg"
SIZE = (1440, 960)
#: EXIF: turn by 270 degrees to look at it; and what is stripped from renditions.
ORIENTATION, TURNED, DESCRIPTION, ARTIST = 0x0112, 6, 0x010E, 0x013B


def draw() -> Image.Image:
    """Return hills at sunset."""
    width, height = SIZE
    picture = Image.new("RGB", SIZE)
    pen = ImageDraw.Draw(picture)
    for y in range(height):
        part = y / height
        pen.line(
            [(0, y), (width, y)],
            fill=(int(38 + 215 * part), int(70 + 100 * part), int(120 + 10 * part)),
        )
    for radius, colour in ((150, (253, 205, 120)), (118, (255, 232, 170))):
        pen.ellipse([980 - radius, 430 - radius, 980 + radius, 430 + radius], fill=colour)
    hills = [
        (0.58, 46, 310.0, 0.4, (120, 96, 110)),
        (0.68, 60, 240.0, 2.1, (66, 84, 88)),
        (0.79, 52, 190.0, 4.0, (28, 92, 72)),
        (0.90, 34, 260.0, 1.2, (10, 56, 42)),
    ]
    for base, swing, length, shift, colour in hills:
        ridge = [
            (x, base * height + swing * math.sin(x / length + shift) + 9 * math.sin(x / 41 + shift))
            for x in range(0, width + 8, 8)
        ]
        pen.polygon([(0, height), *ridge, (width, height)], fill=colour)
    return picture


def main() -> None:
    """Write the file."""
    exif = Image.Exif()
    exif[ORIENTATION] = TURNED
    exif[DESCRIPTION] = "Hills at sunset, drawn by a program"
    exif[ARTIST] = "Celeriac"
    lying = draw().transpose(Image.Transpose.ROTATE_90)
    lying.save(PATH, quality=82, optimize=True, progressive=True, exif=exif)


if __name__ == "__main__":
    main()
