"""Seconds and memory of a rendition of the largest picture that is accepted, in every format.

Run it as ``python -m bench.renditions``. Each picture is rendered in a process of its own, because
the peak of a process never falls. The limit of the worker service is in docker-compose.yml.
"""

from __future__ import annotations

import argparse
import os
import resource
import subprocess
import sys
import time
from io import BytesIO
from pathlib import Path
from typing import Final

ROOT: Final = Path(__file__).resolve().parents[1]

#: Width and height: a photograph, and one that cannot be reduced much. WebP may have fewer pixels.
SHAPES: Final = {"wide": (6048, 4032), "high": (2900, 8448)}
WEBP_SHAPES: Final = {"wide": (4896, 3264), "high": (2800, 5714)}
#: What is made: name, mode, format, options of Pillow.
KINDS: Final = {
    "JPEG": ("RGB", "JPEG", {"quality": 85}),
    "JPEG progressive 4:4:4": (
        "RGB",
        "JPEG",
        {"quality": 70, "progressive": True, "subsampling": 0},
    ),
    "JPEG progressive CMYK": ("CMYK", "JPEG", {"quality": 60, "progressive": True}),
    "PNG": ("RGB", "PNG", {"compress_level": 1}),
    "PNG with alpha": ("RGBA", "PNG", {"compress_level": 1}),
    "PNG with 16 bits": ("I;16", "PNG", {"compress_level": 1}),
    "GIF": ("P", "GIF", {}),
    "WebP": ("RGB", "WEBP", {"quality": 60, "method": 0}),
    "WebP with alpha": ("RGBA", "WEBP", {"quality": 10, "alpha_quality": 10, "method": 0}),
}  # fmt: skip


def shapes(kind: str) -> dict[str, tuple[int, int]]:
    """Return width and height, by name, of the pictures of a kind."""
    return WEBP_SHAPES if KINDS[kind][1] == "WEBP" else SHAPES


def picture(kind: str, shape: str) -> bytes:
    """Return a picture with edges and gradients, as a file."""
    from PIL import Image  # noqa: PLC0415 - only the child needs it

    mode, form, options = KINDS[kind]
    width, height = shapes(kind)[shape]
    plane = Image.linear_gradient("L").resize((width, height))
    other = Image.radial_gradient("L").resize((512, 512))
    for left in range(0, width, 1024):
        for top in range(0, height, 1024):
            plane.paste(other, (left, top))
    if mode == "I;16":
        image = plane.convert("I").point(lambda value: value * 256).convert("I;16")
    elif mode == "P":
        image = plane.convert("P")
    else:
        image = Image.merge(mode, [plane] * len(mode))
    file = BytesIO()
    image.save(file, form, **options)
    return file.getvalue()


def measure(path: Path, width: int, form: str) -> None:
    """Render a file and print seconds, megabytes before and megabytes at the peak."""
    from images.formats import Format  # noqa: PLC0415
    from images.inspection import inspect  # noqa: PLC0415
    from images.rendering import render  # noqa: PLC0415

    content = path.read_bytes()
    inspect(content)
    before = _peak()
    began = time.monotonic()
    made = render(content, width, Format(form))
    seconds = time.monotonic() - began
    # Also what the ledger's transaction holds: the file, as PostgreSQL takes it (hexadecimal).
    _ = made.content.hex()
    print(f"{seconds:.2f} {before:.0f} {_peak():.0f}")


def _peak() -> float:
    """Return the peak of resident memory in megabytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6


def main() -> None:
    """Print a line for each picture and format."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--width", type=int, default=1920, help="of the rendition, in pixels")
    parser.add_argument("--render", nargs=2, metavar=("FILE", "FORMAT"), help=argparse.SUPPRESS)
    parser.add_argument(
        "--make", nargs=3, metavar=("KIND", "SHAPE", "FILE"), help=argparse.SUPPRESS
    )
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT / "app"))
    if arguments.render:
        measure(Path(arguments.render[0]), arguments.width, arguments.render[1])
        return
    if arguments.make:
        kind, shape, file = arguments.make
        Path(file).write_bytes(picture(kind, shape))
        return
    _table(arguments.width)


def _table(width: int) -> None:
    import tempfile  # noqa: PLC0415 - the children do without

    print(f"{'picture':36}{'file':>9}{'made':>6}{'seconds':>9}{'peak':>9}{'of it decoding':>16}")
    with tempfile.TemporaryDirectory(prefix="celeriac-bench-") as directory:
        for kind in KINDS:
            for shape, (columns, rows) in shapes(kind).items():
                file = Path(directory) / "picture"
                _child("--make", kind, shape, str(file))
                for form in ("webp", "jpeg"):
                    answer = _child("--render", str(file), form, "--width", str(width))
                    seconds, before, peak = (float(value) for value in answer.split())
                    print(
                        f"{f'{kind}, {columns} x {rows}':36}{file.stat().st_size / 1e6:6.1f} MB"
                        f"{form:>6}{seconds:7.2f} s{peak:6.0f} MB{peak - before:13.0f} MB",
                        flush=True,
                    )


def _child(*arguments: str) -> str:
    return subprocess.run(
        [sys.executable, "-m", "bench.renditions", *arguments],
        cwd=ROOT,
        env=os.environ,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    ).stdout


if __name__ == "__main__":
    main()
