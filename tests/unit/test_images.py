"""Which pictures are accepted, and what becomes of them."""

from __future__ import annotations

import struct
import warnings
from collections.abc import Iterator
from io import BytesIO

import pytest
from celery.exceptions import SoftTimeLimitExceeded
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageCms

from images.formats import Format
from images.inspection import (
    MAXIMUM_BYTES,
    MAXIMUM_PIXELS,
    MAXIMUM_SIDE_PIXELS,
    ORIENTATION_TAG,
    PictureRefusedError,
    inspect,
)
from images.naming import CONTACT_SHEET, MANIFEST, safe_name
from images.rendering import (
    MAXIMUM_HEIGHT,
    PictureDamagedError,
    contact_sheet,
    fitted,
    render,
)
from images.services import WIDTHS, renditions_of
from tests.support.pictures import (
    encoded,
    four_colours,
    gif_header,
    jpeg_of_size,
    photograph,
    png,
    webp_header,
)

SMALL = Image.new("RGB", (30, 20), "red")


@pytest.fixture(autouse=True)
def as_in_production() -> Iterator[None]:
    """Set the filters that the module sets; pytest has replaced them by its own."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=UserWarning, module=r"PIL\.")
        warnings.filterwarnings("error", category=Image.DecompressionBombWarning)
        yield


def opened(content: bytes) -> Image.Image:
    return Image.open(BytesIO(content))


def corners(image: Image.Image) -> list[tuple[int, ...]]:
    """Return the colours near the four corners, rounded so that losses do not count."""
    rgb = image.convert("RGB")
    right, bottom = rgb.width - 4, rgb.height - 4
    found = [rgb.getpixel(place) for place in ((3, 3), (right, 3), (3, bottom), (right, bottom))]
    return [tuple(round(value / 255) for value in colour) for colour in found]  # type: ignore[union-attr]


RED, GREEN, BLUE, WHITE = (1, 0, 0), (0, 1, 0), (0, 0, 1), (1, 1, 1)


# --- What is accepted -----------------------------------------------------------------------------


@pytest.mark.parametrize("form", list(Format))
def test_a_picture_is_known_by_its_content(form: Format) -> None:
    header = inspect(encoded(SMALL, form.upper()))

    assert (header.format, header.width, header.height) == (form, 30, 20)


@pytest.mark.parametrize("form", list(Format))
def test_a_picture_of_one_pixel_is_accepted_and_rendered(form: Format) -> None:
    content = encoded(Image.new("RGB", (1, 1)), form.upper())

    assert (inspect(content).width, inspect(content).height) == (1, 1)
    assert opened(render(content, 1, Format.WEBP).content).size == (1, 1)


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"<svg xmlns='http://www.w3.org/2000/svg'/>", id="SVG"),
        pytest.param(b"<!doctype html><script>alert(1)</script>", id="HTML"),
        pytest.param(b"%PDF-1.7", id="PDF"),
        pytest.param(b"PK\x03\x04", id="ZIP"),
        pytest.param(b"RIFF\x04\0\0\0WAVE", id="WAVE"),
        pytest.param(b"\0", id="a zero"),
        pytest.param(b" " + encoded(SMALL), id="a picture, but not at the beginning"),
        pytest.param(encoded(SMALL, "BMP"), id="BMP"),
        pytest.param(encoded(SMALL, "TIFF"), id="TIFF"),
    ],
)
def test_what_is_no_picture_is_refused_as_another_type(content: bytes) -> None:
    with pytest.raises(PictureRefusedError, match=r"Send a JPEG, PNG, WebP or GIF") as refused:
        inspect(content)
    assert refused.value.status == 415


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        pytest.param(b"", "empty", id="empty"),
        pytest.param(png(2**31 - 1, 2**31 - 1), "too many pixels", id="PNG, 2^62 pixels"),
        pytest.param(png(50_000, 50_000, bytes(10_000_000)), "too many pixels", id="PNG, 2.5 G"),
        pytest.param(png(10_000, 10_000), "too many pixels", id="PNG, 100 megapixels"),
        pytest.param(png(5000, 5000), "too many pixels", id="PNG, 25 megapixels"),
        pytest.param(png(MAXIMUM_SIDE_PIXELS + 1, 1), "too many pixels", id="PNG, too wide"),
        pytest.param(gif_header(65_535, 65_535), "too many pixels", id="GIF, 4.3 G"),
        pytest.param(webp_header(16_383, 16_383), "too many pixels", id="WebP, 268 megapixels"),
        pytest.param(webp_header(4001, 4000), "too many pixels", id="WebP, over 16 megapixels"),
        pytest.param(jpeg_of_size(65_500, 65_500), "too many pixels", id="JPEG, 4.3 G"),
        pytest.param(png(0, 10), "damaged|no pixels", id="PNG without width"),
        pytest.param(png(10, 0), "damaged|no pixels", id="PNG without height"),
        pytest.param(jpeg_of_size(10, 0), "damaged|no pixels", id="JPEG without height"),
        pytest.param(gif_header(0, 0)[:20], "damaged|no pixels", id="GIF without pixels"),
        pytest.param(b"\xff\xd8\xff\xd9", "damaged", id="JPEG without anything"),
        pytest.param(
            b"\xff\xd8" + b"\xff\xe0\x00\x02" * 2_000_000, "too many parts", id="JPEG of headers"
        ),
        pytest.param(
            encoded(SMALL)[:-2] + b"\xff\xda\x00\x02" * 300, "too many scans", id="JPEG of scans"
        ),
        pytest.param(
            png(1, 1)[:33] + b"\0\0\0\0prVt\0\0\0\0" * 500_000,
            "too many chunks",
            id="PNG of chunks",
        ),
        pytest.param(b"GIF89a", "damaged", id="GIF without anything"),
        pytest.param(b"RIFF\x04\0\0\0WEBP", "damaged", id="WebP without anything"),
    ],
)
def test_empty_damaged_and_exploding_files_are_refused_with_a_sentence(
    content: bytes, sentence: str
) -> None:
    with pytest.raises(PictureRefusedError, match=sentence) as refused:
        inspect(content)
    assert refused.value.status == 422
    assert str(refused.value).endswith(".") and "<" not in str(refused.value)


def test_a_file_that_is_too_large_is_refused_before_it_is_read() -> None:
    inspect(encoded(SMALL) + bytes(1000))
    with pytest.raises(PictureRefusedError, match="10 MB") as refused:
        inspect(bytes(MAXIMUM_BYTES + 1))
    assert refused.value.status == 413


def test_the_largest_pictures_that_are_accepted() -> None:
    assert inspect(png(6048, 4032)).width * 4032 <= MAXIMUM_PIXELS
    assert inspect(png(MAXIMUM_SIDE_PIXELS, 1)).height == 1


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP", "GIF"])
@pytest.mark.parametrize("kept", [1, 10, 25, 50, 75, 90, 98])
def test_a_truncated_file_is_refused_or_cannot_be_decoded(form: str, kept: int) -> None:
    whole = photograph(200, 150, form)
    content = whole[: len(whole) * kept // 100]
    try:
        inspect(content)
    except PictureRefusedError:
        return
    # What only decoding sees, which the web process does not do.
    with pytest.raises(PictureDamagedError, match="cannot be decoded"):
        render(content, 100, Format.JPEG)


def test_most_truncated_files_are_refused_at_once() -> None:
    for form in ("JPEG", "PNG", "WEBP"):
        whole = photograph(200, 150, form)
        with pytest.raises(PictureRefusedError, match="damaged"):
            inspect(whole[:-100])


def test_a_photograph_that_ends_after_its_preview_is_refused() -> None:
    exif = b"Exif\0\0 and a preview: " + photograph(20, 15, "JPEG")
    whole = encoded(SMALL)
    segment = b"\xff\xe1" + (len(exif) + 2).to_bytes(2) + exif
    inspect(whole[:2] + segment + whole[2:])
    with pytest.raises(PictureRefusedError, match="ends too early"):
        inspect(whole[:2] + segment + whole[2:-10])


@pytest.mark.parametrize("passing", [SoftTimeLimitExceeded(), MemoryError()])
def test_a_slow_or_full_machine_is_no_damage(
    monkeypatch: pytest.MonkeyPatch, passing: Exception
) -> None:
    def fail(*_: object) -> None:
        raise passing

    monkeypatch.setattr("images.rendering._decoded", fail)
    with pytest.raises(type(passing)):
        render(encoded(SMALL), 10, Format.JPEG)


def test_a_png_whose_data_is_too_short_cannot_be_decoded() -> None:
    content = png(1000, 1000, b"\0" * 500)
    inspect(content)
    with pytest.raises(PictureDamagedError, match="truncated"):
        render(content, 320, Format.WEBP)


@settings(max_examples=150, deadline=None)
@given(
    st.sampled_from(["JPEG", "PNG", "WEBP", "GIF"]),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), min_size=1, max_size=8),
)
def test_a_file_with_wrong_bytes_has_one_of_three_fates(
    form: str, changes: list[tuple[int, int]]
) -> None:
    content = bytearray(encoded(four_colours(), form))
    for place, value in changes:
        content[place % len(content)] = value
    try:
        inspect(bytes(content))
        made = render(bytes(content), 20, Format.WEBP)
    except (PictureRefusedError, PictureDamagedError):
        return
    assert opened(made.content).format == "WEBP"


# --- What is made ---------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [Format.WEBP, Format.JPEG])
def test_a_rendition_has_the_width_that_was_asked_for(form: Format) -> None:
    made = render(photograph(1000, 500), 320, form)

    assert (made.width, made.height) == (320, 160) == opened(made.content).size
    assert opened(made.content).format == form.upper()


def test_nothing_is_enlarged() -> None:
    assert render(encoded(SMALL), 320, Format.JPEG).width == 30


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_picture_is_turned_as_exif_says(form: str, orientation: int) -> None:
    # What a camera stores: the upright picture, turned the other way.
    inverse = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}
    stored = four_colours()
    if orientation > 1:
        stored = stored.transpose(Image.Transpose(inverse[orientation]))
    exif = Image.Exif()
    exif[ORIENTATION_TAG] = orientation
    content = encoded(stored, form, exif=exif, **({"quality": 95} if form != "PNG" else {}))

    header = inspect(content)
    made = render(content, 40, Format.WEBP)

    assert (header.width, header.height) == (made.width, made.height) == (40, 20)
    assert corners(opened(made.content)) == [RED, GREEN, BLUE, WHITE]


def test_a_strange_exif_block_is_ignored() -> None:
    content = encoded(four_colours(), exif=b"Exif\0\0MM\0*\xff\xff\xff\xff")

    assert inspect(content).width == 40
    assert render(content, 40, Format.JPEG).width == 40


@pytest.mark.parametrize("form", [Format.WEBP, Format.JPEG])
@pytest.mark.parametrize("source", ["JPEG", "PNG", "WEBP"])
def test_no_metadata_is_left(source: str, form: Format) -> None:
    exif = Image.Exif()
    exif[0x010F] = "SecretCamera"
    exif.get_ifd(0x8825)[1] = "N"
    options = {"comment": b"SecretComment"} if source == "JPEG" else {}
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    content = encoded(
        photograph_image(), source, exif=exif, xmp=b"<x>SecretXmp</x>", icc_profile=profile,
        **options,
    )  # fmt: skip
    assert b"SecretCamera" in content

    made = render(content, 100, form).content

    for secret in (b"Secret", b"Exif", b"EXIF", b"XMP ", b"ICCP", b"ICC_PROFILE", b"http"):
        assert secret not in made
    assert not opened(made).getexif() and "comment" not in opened(made).info


def photograph_image() -> Image.Image:
    return opened(photograph(200, 100)).convert("RGB")


def test_colours_of_a_wide_profile_are_converted() -> None:
    # A profile that swaps red and blue is the one whose effect nobody can miss.
    profile = bytearray(ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes())
    tags = {bytes(profile[place : place + 4]): place for place in range(132, 132 + 12 * 16, 12)}
    red, blue = tags[b"rXYZ"], tags[b"bXYZ"]
    profile[red : red + 4], profile[blue : blue + 4] = b"bXYZ", b"rXYZ"
    content = encoded(Image.new("RGB", (10, 10), "red"), "PNG", icc_profile=bytes(profile))

    made = opened(render(content, 10, Format.JPEG).content)

    assert corners(made) == [BLUE] * 4


@pytest.mark.parametrize("profile", [b"nonsense", b"\0" * 200])
@pytest.mark.parametrize("mode", ["RGB", "L", "CMYK"])
def test_a_profile_of_no_use_is_dropped(mode: str, profile: bytes) -> None:
    content = encoded(four_colours(mode), icc_profile=profile)

    assert corners(opened(render(content, 40, Format.JPEG).content))[-1] == WHITE


@pytest.mark.parametrize(
    ("mode", "form"),
    [
        ("1", "PNG"), ("L", "PNG"), ("LA", "PNG"), ("P", "PNG"), ("P", "GIF"), ("RGBA", "PNG"),
        ("RGBA", "WEBP"), ("L", "JPEG"), ("CMYK", "JPEG"),
    ],
)  # fmt: skip
@pytest.mark.parametrize("size", [(40, 20), (4000, 2000)])
def test_every_mode_is_rendered(mode: str, form: str, size: tuple[int, int]) -> None:
    image = four_colours().resize(size, Image.Resampling.NEAREST)
    content = encoded(image.convert(mode, dither=Image.Dither.NONE), form)

    for made in (render(content, 40, Format.WEBP), render(content, 40, Format.JPEG)):
        found = corners(opened(made.content))
        if mode in {"1", "L", "LA"}:
            assert found[-1] == WHITE and found[2] != WHITE
        else:
            assert found == [RED, GREEN, BLUE, WHITE]


@pytest.mark.parametrize("width", [40, 4000])
def test_16_bits_are_scaled_not_cut_off(width: int) -> None:
    # Samples of 0x4000 are a quarter of white.
    content = png(width, 20, (b"\0" + b"\x40\0" * width) * 20, depth=16, kind=0)
    assert opened(content).mode == "I;16"

    grey = opened(render(content, 40, Format.WEBP).content).convert("L").getpixel((20, 0))

    assert grey == pytest.approx(0x40, abs=3)


def transparent(mode: str) -> Image.Image:
    """Return a picture whose left half cannot be seen, and would be black."""
    image = Image.new("RGBA", (40, 20), (0, 0, 0, 0))
    image.paste((255, 0, 0, 255), (20, 0, 40, 20))
    return image.convert(mode)


@pytest.mark.parametrize(("mode", "form"), [("RGBA", "PNG"), ("RGBA", "WEBP"), ("P", "GIF")])
def test_transparency_stays_in_webp_and_is_white_in_jpeg(mode: str, form: str) -> None:
    if mode == "P":
        image = Image.new("P", (40, 20), 0)
        image.putpalette([0, 0, 0, 255, 0, 0])
        image.paste(1, (20, 0, 40, 20))
        content = encoded(image, form, transparency=0)
    else:
        content = encoded(transparent(mode), form)

    webp = opened(render(content, 40, Format.WEBP).content)
    jpeg = opened(render(content, 40, Format.JPEG).content)

    assert webp.mode == "RGBA"
    assert webp.getpixel((3, 10))[3] == 0  # type: ignore[index]
    assert corners(jpeg)[::3] == [WHITE, RED]


def test_a_palette_with_many_transparencies_and_a_transparent_colour_are_rendered() -> None:
    palette = Image.new("P", (20, 20), 1)
    palette.putpalette([0, 0, 0, 255, 0, 0])
    for content in (
        encoded(palette, "PNG", transparency=bytes([0, 128])),
        encoded(Image.new("RGB", (20, 20), "red"), "PNG", transparency=(255, 0, 0)),
        encoded(Image.new("L", (20, 20), 7), "PNG", transparency=7),
    ):
        made = opened(render(content, 20, Format.WEBP).content)
        assert made.mode == "RGBA" and made.getpixel((5, 5))[3] < 130  # type: ignore[index]


@pytest.mark.parametrize("form", ["GIF", "WEBP", "PNG"])
def test_of_an_animation_the_first_frame_counts(form: str) -> None:
    frames = [Image.new("RGB", (20, 10), colour) for colour in ("red", "lime", "blue")]
    content = encoded(frames[0], form, save_all=True, append_images=frames[1:] * 300)

    assert inspect(content).width == 20
    assert corners(opened(render(content, 20, Format.JPEG).content)) == [RED] * 4


def test_a_jpeg_with_a_second_picture_is_a_jpeg() -> None:
    content = encoded(photograph_image(), "MPO", save_all=True, append_images=[SMALL])

    assert inspect(content).format == Format.JPEG
    made = render(content, 50, Format.WEBP)
    assert (made.width, made.height) == (50, 25)


def test_a_contact_sheet_shows_all_pictures_however_high() -> None:
    pictures = [
        ("a", encoded(four_colours(), "WEBP")),
        ("b", encoded(Image.new("RGB", (1, 3000)))),
        ("c", encoded(transparent("RGBA"), "PNG")),
    ]
    sheet = opened(contact_sheet(pictures).content)

    assert sheet.size == (2 * 336 + 16, 2 * 284 + 16)
    assert sheet.format == "WEBP"


@given(st.integers(1, MAXIMUM_SIDE_PIXELS), st.integers(1, MAXIMUM_SIDE_PIXELS))
def test_renditions_fit_and_are_never_larger_or_the_same(width: int, height: int) -> None:
    renditions = renditions_of(width, height)
    widths = [rendition.width for rendition in renditions if rendition.form is Format.JPEG]

    assert len({rendition.name for rendition in renditions}) == len(renditions) == 2 * len(widths)
    assert 1 <= len(widths) <= len(WIDTHS)
    for each in widths:
        made = fitted(width, height, each, MAXIMUM_HEIGHT)
        assert made[0] <= width and 1 <= made[1] <= min(height, MAXIMUM_HEIGHT)


def test_a_photograph_gets_ten_renditions_and_a_narrow_one_fewer() -> None:
    assert [rendition.name for rendition in renditions_of(6000, 4000)] == [
        "320w.webp", "320w.jpg", "640w.webp", "640w.jpg", "960w.webp", "960w.jpg",
        "1280w.webp", "1280w.jpg", "1920w.webp", "1920w.jpg",
    ]  # fmt: skip
    assert {rendition.width for rendition in renditions_of(700, 500)} == {320, 640, 700}
    assert {rendition.width for rendition in renditions_of(320, 500)} == {320}
    assert {rendition.width for rendition in renditions_of(1, 1)} == {1}


# --- Names ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("holiday.jpeg", "holiday.jpg"),
        ("photo.png", "photo.jpg"),
        ("no suffix", "no suffix.jpg"),
        ("Zürich 東京.JPG", "Zürich 東京.jpg"),
        ("../../etc/passwd", "passwd.jpg"),
        ("C:\\Users\\ada\\x.jpg", "x.jpg"),
        ("a\r\nSet-Cookie: b.jpg", "aSet-Cookie- b.jpg"),
        ("gpj.\u202eexe", "gpj.jpg"),
        ('a"b?c#d%e.jpg', "a-b-c-d-e.jpg"),
        ("", "picture.jpg"),
        (".jpg", "picture.jpg"),
        ("...", "picture.jpg"),
        ("\x00\x01", "picture.jpg"),
        ("Contact-Sheet.webp", "original-Contact-Sheet.jpg"),
        ("320w.jpg", "original-320w.jpg"),
    ],
)
def test_names_are_made_harmless(name: str, safe: str) -> None:
    assert safe_name(name, Format.JPEG) == safe


@given(st.text(max_size=400))
def test_a_name_is_short_printable_and_never_one_of_ours(name: str) -> None:
    safe = safe_name(name, Format.WEBP)

    assert len(safe.encode()) <= 200
    assert safe.isprintable() and "/" not in safe and not safe.startswith(".")
    assert safe.casefold() not in {CONTACT_SHEET, MANIFEST, "320w.webp"}


def test_the_probe_pictures_are_what_they_say() -> None:
    assert struct.unpack("<HH", gif_header(7, 9)[6:10]) == (7, 9)
    assert opened(webp_header(7, 9)).size == (7, 9)
