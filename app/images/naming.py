"""Names of files: those that people give, made harmless, and those that are ours."""

from __future__ import annotations

import re
import unicodedata
from typing import Final

from images.formats import Format

CONTACT_SHEET: Final = "contact-sheet.webp"
MANIFEST: Final = "manifest.json"
#: Bytes of a name in UTF-8. File systems allow 255 (NAME_MAX), and browsers add " (1)".
MAXIMUM_BYTES: Final = 200

#: Has a meaning in paths, URLs, shells or for Windows.
_SPECIAL: Final = re.compile(r"[\\/:*?\"<>|#%&;]+")
#: Names that ours could have.
_RESERVED: Final = re.compile(r"contact-sheet|\d+w")


def rendition_name(width: int, form: Format) -> str:
    """Return the name of a rendition, such as ``640w.webp``."""
    return f"{width}w{form.suffix}"


def safe_name(name: str, form: Format) -> str:
    """Return the name of an original as it is stored and offered for download.

    Without path, control and direction characters, at most ``MAXIMUM_BYTES`` long, with the suffix
    of what it really is, and different from the names of the files that are made.
    """
    last = unicodedata.normalize("NFC", name).replace("\\", "/").rpartition("/")[2]
    visible = "".join(
        character
        for character in last
        # Control, format (direction!), surrogate, private, unassigned; line and paragraph ends.
        if unicodedata.category(character)[0] != "C"
        and unicodedata.category(character) not in {"Zl", "Zp"}
    )
    stem, dot, _ = visible.rpartition(".")
    stem = _SPECIAL.sub("-", stem if dot else visible)
    stem = " ".join(stem.split()).strip(" .")
    room = MAXIMUM_BYTES - len("original-") - len(form.suffix)
    stem = stem.encode()[:room].decode(errors="ignore").rstrip(" .") or "picture"
    if _RESERVED.fullmatch(stem.casefold()):
        stem = f"original-{stem}"
    return f"{stem}{form.suffix}"
