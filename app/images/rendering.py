"""Pictures out of pictures. Knows nothing of jobs and the database, and is safe to do twice.

Memory decides how: a picture is shrunk in strips, in the form it was decoded to, and everything
else (orientation, colours, transparency) is done with what is left of it.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from io import BytesIO
from typing import Final

from celery.exceptions import SoftTimeLimitExceeded
from PIL import Image, ImageCms, ImageDraw, ImageFont
from PIL.Image import Resampling, Transpose

from delivery.errors import PermanentError
from images.formats import Format
from images.inspection import QUARTER_TURNS, opened, orientation_of, reason_of

#: Qualities at which a photograph shows no loss at arm's length; WebP's scale is another one.
QUALITY: Final = {Format.WEBP: 80, Format.JPEG: 82}
#: Rows that are worked on at once, in the pixels of the result.
STRIP_ROWS: Final = 256
#: What is left for the good filter after the fast one, in sizes of the result.
REDUCING_GAP: Final = 1.5
#: No rendition is higher, in pixels: to encode a WebP with transparency takes 35 bytes a pixel.
MAXIMUM_HEIGHT: Final = 4096

#: The contact sheet, in pixels: a grid of frames with a line of text below each.
SHEET_COLUMNS: Final = 2
FRAME: Final = (320, 240)
CAPTION_HEIGHT: Final = 28
FONT_SIZE: Final = 15
MARGIN: Final = 16

_TURNS: Final = {
    2: Transpose.FLIP_LEFT_RIGHT,
    3: Transpose.ROTATE_180,
    4: Transpose.FLIP_TOP_BOTTOM,
    5: Transpose.TRANSPOSE,
    6: Transpose.ROTATE_270,
    7: Transpose.TRANSVERSE,
    8: Transpose.ROTATE_90,
}
#: Modes that can be shrunk as they are. RGBa: colours multiplied by alpha, or a transparent
#: pixel's colour would bleed into its neighbours.
_PLAIN_MODES: Final = frozenset({"L", "RGB", "RGBa", "CMYK"})


class PictureDamagedError(PermanentError):
    """A picture cannot be decoded; ``str()`` is a sentence for people."""


@dataclass(frozen=True, slots=True)
class Rendered:
    """A picture that was made.

    Attributes:
        content: The file.
        width: Pixels.
        height: Pixels.
    """

    content: bytes
    width: int
    height: int


def render(content: bytes, width: int, form: Format) -> Rendered:
    """Make a smaller picture: upright, in sRGB, without metadata, of an animation the first frame.

    JPEG has no transparency: it becomes white.

    Args:
        content: The original.
        width: Pixels. A picture that is narrower is not enlarged; one that would be higher than
            ``MAXIMUM_HEIGHT`` becomes narrower.
        form: WebP or JPEG.

    Raises:
        PictureDamagedError: The original cannot be decoded.
    """
    return _encoded(_upright(content, width, MAXIMUM_HEIGHT), form)


def contact_sheet(pictures: Sequence[tuple[str, bytes]]) -> Rendered:
    """Draw small copies of pictures side by side, each with its caption, as WebP.

    Raises:
        PictureDamagedError: One of them cannot be decoded.
    """
    rows = -(-len(pictures) // SHEET_COLUMNS)
    cell = (FRAME[0] + MARGIN, FRAME[1] + CAPTION_HEIGHT + MARGIN)
    size = (SHEET_COLUMNS * cell[0] + MARGIN, rows * cell[1] + MARGIN)
    sheet = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(FONT_SIZE)
    for number, (caption, content) in enumerate(pictures):
        row, column = divmod(number, SHEET_COLUMNS)
        left, top = MARGIN + column * cell[0], MARGIN + row * cell[1]
        small = _upright(content, *FRAME)
        place = (left + (FRAME[0] - small.width) // 2, top + (FRAME[1] - small.height) // 2)
        sheet.paste(small, place, small if small.mode == "RGBA" else None)
        draw.text(
            (left + FRAME[0] // 2, top + FRAME[1] + CAPTION_HEIGHT // 2),
            caption, fill="black", font=font, anchor="mm",
        )  # fmt: skip
    return _encoded(sheet, Format.WEBP)


def fitted(width: int, height: int, box_width: int, box_height: int) -> tuple[int, int]:
    """Return the size of a picture in a box, never enlarged, and never without a pixel."""
    factor = min(1.0, box_width / width, box_height / height)
    return max(1, round(width * factor)), max(1, round(height * factor))


def _upright(content: bytes, box_width: int, box_height: int) -> Image.Image:
    """Decode a picture, so that it fits into a box; its mode is L, RGB or RGBA."""
    try:
        small, orientation = _decoded(content, box_width, box_height)
    except (MemoryError, SoftTimeLimitExceeded):
        # The machine's fault, or a slow one's: not the picture's.
        raise
    except Exception as error:
        raise PictureDamagedError(f"The picture cannot be decoded: {reason_of(error)}.") from error
    small = _in_srgb(small, small.info.get("icc_profile"))
    # Whatever was known of the original is not to be written into what is made of it.
    small.info = {}
    return small.transpose(_TURNS[orientation]) if orientation in _TURNS else small


def _decoded(content: bytes, box_width: int, box_height: int) -> tuple[Image.Image, int]:
    """Return the small picture, and how it has to be turned. The large one is gone by then."""
    with opened(content) as image:
        orientation = orientation_of(image)
        if orientation in QUARTER_TURNS:
            box_width, box_height = box_height, box_width
        size = fitted(*image.size, box_width, box_height)
        # JPEG: decode a half, a quarter or an eighth, if that is enough. Others ignore it.
        image.draft(None, size)
        image.load()
        if _is_plain(image):
            return image.resize(size, Resampling.LANCZOS, reducing_gap=REDUCING_GAP), orientation
        return _made_plain(image, size).resize(size, Resampling.LANCZOS), orientation


def _made_plain(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    """Return the picture in a plain mode, not much larger than a size."""
    factor = max(1, int(min(image.width / size[0], image.height / size[1]) / REDUCING_GAP))
    rows = STRIP_ROWS * factor
    made: Image.Image | None = None
    for top in range(0, image.height, rows):
        strip = _plain(image.crop((0, top, image.width, min(top + rows, image.height))))
        if factor > 1:
            strip = strip.reduce(factor)
        if made is None:
            made = Image.new(strip.mode, (strip.width, -(-image.height // factor)))
            made.info = strip.info
        made.paste(strip, (0, top // factor))
    assert made is not None  # noqa: S101 - a picture has a row
    return made


def _is_plain(image: Image.Image) -> bool:
    return image.mode in _PLAIN_MODES and "transparency" not in image.info


def _plain(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):
        # 16 bits a pixel: Pillow would cut them off at 255 instead of dividing.
        return image.point(lambda value: value / 256).convert("L")
    if image.has_transparency_data:
        return image.convert("RGBA").convert("RGBa")
    return image.convert("L" if image.mode == "1" else "RGB")


def _in_srgb(image: Image.Image, profile: bytes | None) -> Image.Image:
    """Convert colours to sRGB, and premultiplied ones back; a profile of no use is dropped."""
    alpha = None
    if image.mode == "RGBa":
        image = image.convert("RGBA")
        alpha = image.getchannel("A")
        image = image.convert("RGB")
    if profile:
        # With a broken profile the colours are taken as they are.
        with contextlib.suppress(ImageCms.PyCMSError, OSError, ValueError):
            image = ImageCms.profileToProfile(
                image, ImageCms.ImageCmsProfile(BytesIO(profile)), _srgb(), outputMode="RGB"
            ) or image  # fmt: skip
    if image.mode == "CMYK":
        image = image.convert("RGB")
    if alpha is not None:
        image.putalpha(alpha)
    return image


@cache
def _srgb() -> ImageCms.ImageCmsProfile:
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def _encoded(image: Image.Image, form: Format) -> Rendered:
    file = BytesIO()
    if form is Format.JPEG:
        if image.mode == "RGBA":
            flat = Image.new("RGB", image.size, "white")
            flat.paste(image, mask=image.getchannel("A"))
            image = flat
        image.save(file, "JPEG", quality=QUALITY[form], optimize=True, progressive=True)
    else:
        image.save(file, "WEBP", quality=QUALITY[form])
    return Rendered(file.getvalue(), image.width, image.height)
