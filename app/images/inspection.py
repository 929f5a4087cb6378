"""Whether a picture is accepted: by its content, and without decoding it.

The web process does this, so it must be cheap: the header is read, and nothing is unpacked. What
only decoding can find (data that is damaged in the middle) ends the job with that reason.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Final

from PIL import Image, ImageFile

from images.formats import Format, format_of

#: Bytes of a file. Below the limit of a request's body (MAX_REQUEST_BYTES).
MAXIMUM_BYTES: Final = 10 * 1024 * 1024
#: Width times height. Enough for a camera of 24 megapixels (Nikon's 6048 x 4032); a rendition
#: then takes 366 MB at most, of the 1 GB that two worker processes and their parent may have.
#: WebP's decoder takes 20 bytes a pixel where others take 12. Measured by bench/renditions.py.
MAXIMUM_PIXELS: Final = 24_500_000
MAXIMUM_WEBP_PIXELS: Final = 16_000_000
#: Longest side in pixels: that of a WebP (RFC 9649 §2.6: 14 bits), for all formats.
MAXIMUM_SIDE_PIXELS: Final = 16_383

#: EXIF's tag for the orientation, and its values that turn a picture by a quarter (CIPA DC-008).
ORIENTATION_TAG: Final = 0x0112
QUARTER_TURNS: Final = frozenset({5, 6, 7, 8})

#: Parts of a file before its pixels; the decoder keeps each of them as objects, so that ten
#: megabytes of empty ones would be some hundred in memory. Cameras write a dozen, and encoders
#: cut the pixels of a PNG into pieces of 8 kB or more.
MAXIMUM_JPEG_SEGMENTS: Final = 1_000
MAXIMUM_PNG_CHUNKS: Final = 20_000
#: Passes over the pixels of a progressive JPEG, each of which costs time. Encoders make ten.
MAXIMUM_JPEG_SCANS: Final = 200

_START_OF_SCAN: Final = b"\xff\xda"
_END_OF_JPEG: Final = b"\xff\xd9"
#: Markers without a length: TEM, RST0 to RST7, SOI (ITU T.81, table B.1).
_LONE_MARKERS: Final = frozenset({0x01, *range(0xD0, 0xD9)})

# Between one and two times Pillow's own limit it only warns; what it says beyond that is an error.
warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
# It decodes what it warns of (a strange EXIF block, a second picture that is not there).
warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")


class PictureRefusedError(Exception):
    """A picture is not accepted; ``str()`` is a sentence for people.

    Attributes:
        status: HTTP status that fits: 413 too large, 415 another format, 422 damaged or a bomb.
    """

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


@dataclass(frozen=True, slots=True)
class Header:
    """What the header of a picture says.

    Attributes:
        format: By the content.
        width: Pixels, as people see it: turned as EXIF says.
        height: As ``width``.
    """

    format: Format
    width: int
    height: int


def inspect(content: bytes) -> Header:
    """Read the header of a picture.

    Raises:
        PictureRefusedError: It is not accepted.
    """
    if len(content) > MAXIMUM_BYTES:
        limit = MAXIMUM_BYTES // 1024**2
        raise PictureRefusedError(413, f"The picture is larger than {limit} MB.")
    if not content:
        raise PictureRefusedError(422, "The file is empty.")
    found = format_of(content)
    if found is None:
        raise PictureRefusedError(415, "Send a JPEG, PNG, WebP or GIF picture; this is none.")
    try:
        return _header(content, found)
    except PictureRefusedError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning):
        raise _too_many_pixels(found) from None
    except Exception as error:  # noqa: BLE001 - decoders raise what they like
        raise PictureRefusedError(
            422, f"The {found.upper()} picture is damaged: {reason_of(error)}."
        ) from None


def maximum_pixels(form: Format) -> int:
    """Return how many pixels a picture of a format may have."""
    return MAXIMUM_WEBP_PIXELS if form is Format.WEBP else MAXIMUM_PIXELS


@contextmanager
def opened(content: bytes) -> Iterator[ImageFile.ImageFile]:
    """Open a picture with the decoder of its format; of an animation, the first frame.

    Raises:
        Exception: Whatever the decoder raises for a file that is none of its format.
    """
    names = [str(form).upper() for form in Format]
    with Image.open(BytesIO(content), formats=names) as image:
        yield image


def orientation_of(image: Image.Image) -> int:
    """Return EXIF's orientation, 1 to 8; 1 (as it is) when there is none that can be read.

    Call it before the picture is loaded: a PNG may have a block after its pixels, which would then
    count only sometimes.
    """
    exif = Image.Exif()
    try:
        exif.load(image.info.get("exif", b""))
        value = exif.get(ORIENTATION_TAG)
    except Exception:  # noqa: BLE001 - a strange block is no reason to refuse the picture
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def reason_of(error: Exception) -> str:
    """Return what a decoder complains of, without the objects it names."""
    text = str(error).partition("<")[0].strip(" .:")
    return text or type(error).__name__


def _header(content: bytes, found: Format) -> Header:
    pixels_at = 0
    if found is Format.JPEG:
        pixels_at = _start_of_scan(content)
    elif found is Format.PNG:
        _count_chunks(content)
    with opened(content) as image:
        width, height = image.size
        if width < 1 or height < 1:
            raise PictureRefusedError(422, "The picture has no pixels.")
        if width * height > maximum_pixels(found) or max(width, height) > MAXIMUM_SIDE_PIXELS:
            raise _too_many_pixels(found)
        if orientation_of(image) in QUARTER_TURNS:
            width, height = height, width
        if found is Format.PNG:
            # Walks through the chunks and compares their checksums: all but the pixels themselves.
            image.verify()
    # Not in the preview that a camera puts before the pixels.
    if found is Format.JPEG and content.find(_END_OF_JPEG, pixels_at) < 0:
        raise PictureRefusedError(422, "The JPEG picture is damaged: it ends too early.")
    return Header(found, width, height)


def _start_of_scan(content: bytes) -> int:
    """Return where the pixels of a JPEG begin; its end, if they are missing."""
    if content.count(_START_OF_SCAN) > MAXIMUM_JPEG_SCANS:
        raise PictureRefusedError(422, "The JPEG picture has too many scans.")
    position = 2
    for _ in range(MAXIMUM_JPEG_SEGMENTS):
        position = content.find(b"\xff", position)
        marker = content[position + 1 : position + 2]
        if position < 0 or not marker:
            return len(content)
        if content.startswith(_START_OF_SCAN, position):
            return position
        # A marker may have any number of FF before it.
        position += 1 if marker == b"\xff" else 2
        if marker != b"\xff" and marker[0] not in _LONE_MARKERS:
            position += int.from_bytes(content[position : position + 2])
    raise PictureRefusedError(422, "The JPEG picture has too many parts before its pixels.")


def _count_chunks(content: bytes) -> None:
    """Refuse a PNG with too many chunks (each: length, name, data, checksum)."""
    position = len(b"\x89PNG\r\n\x1a\n")
    for _ in range(MAXIMUM_PNG_CHUNKS):
        if position >= len(content):
            return
        position += 12 + int.from_bytes(content[position : position + 4])
    raise PictureRefusedError(422, "The PNG picture has too many chunks.")


def _too_many_pixels(found: Format) -> PictureRefusedError:
    return PictureRefusedError(
        422,
        f"The picture has too many pixels: a {found.upper()} may have "
        f"{maximum_pixels(found) / 1e6:g} megapixels, and {MAXIMUM_SIDE_PIXELS:,} on a side.",
    )
