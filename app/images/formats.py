"""The formats of pictures, told apart by their first bytes and by nothing else."""

from __future__ import annotations

from enum import StrEnum
from typing import Final


class Format(StrEnum):
    """A format that is accepted; renditions are made in the first two."""

    WEBP = "webp"
    JPEG = "jpeg"
    PNG = "png"
    GIF = "gif"

    @property
    def content_type(self) -> str:
        """The media type."""
        return f"image/{self}"

    @property
    def suffix(self) -> str:
        """The end of a file's name, with its dot."""
        return ".jpg" if self is Format.JPEG else f".{self}"


_SIGNATURES: Final = {
    b"\xff\xd8\xff": Format.JPEG,
    b"\x89PNG\r\n\x1a\n": Format.PNG,
    b"GIF87a": Format.GIF,
    b"GIF89a": Format.GIF,
}


def format_of(content: bytes) -> Format | None:
    """Return the format that the content begins like; None: it is something else."""
    if content[:4] == b"RIFF" and content[8:12] == b"WEBP":
        return Format.WEBP
    for signature, found in _SIGNATURES.items():
        if content.startswith(signature):
            return found
    return None
