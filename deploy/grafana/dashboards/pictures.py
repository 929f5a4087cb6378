"""Draws the dashboards for the documentation: ``python -m deploy.grafana.dashboards.pictures``.

Grafana itself draws pictures with a browser of its own, an image of a gigabyte. This takes any
program that is called like this, once for each picture, and ends with 0::

    RENDERER --dashboard FILE.json --prometheus URL --out FILE.png --theme dark --width 1920

``--from`` and ``--to`` are added when they are given. The pictures get a palette of 256 colours,
which makes them a third as large, and no difference that anybody sees.
"""

import argparse
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from PIL import Image

from deploy.grafana.dashboards.__main__ import DIRECTORY
from deploy.grafana.dashboards.builder import Uid

PICTURES = Path(__file__).resolve().parents[3] / "docs" / "pictures" / "dashboards"
WIDTH = 1920
#: Of most pages one theme is enough; people who prefer the other see in it that both are drawn.
ALSO_LIGHT = {Uid.OVERVIEW}
#: Seconds for one picture.
PATIENCE = 120


def wanted(only: Sequence[str]) -> Iterator[tuple[Uid, str]]:
    """Return dashboard and theme of every picture; of some dashboards, if ``only`` names any."""
    for uid in Uid:
        name = uid.removeprefix("celeriac-")
        if only and name not in only:
            continue
        yield uid, "dark"
        if uid in ALSO_LIGHT:
            yield uid, "light"


def main(arguments: Sequence[str]) -> int:
    """Draw the pictures; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m deploy.grafana.dashboards.pictures")
    parser.add_argument("--renderer", required=True, help="program that draws a dashboard's JSON")
    parser.add_argument("--prometheus", required=True, help="URL of the Prometheus to ask")
    parser.add_argument("--from", dest="since", help="start of the time range, such as now-15m")
    parser.add_argument("--to", dest="until", help="its end")
    parser.add_argument("only", nargs="*", help="names of dashboards, such as overview; else all")
    options = parser.parse_args(arguments)
    if not options.renderer:
        print("name a program: make dashboard-pictures DASHBOARD_RENDERER=...", file=sys.stderr)
        return 2
    if unknown := set(options.only) - {uid.removeprefix("celeriac-") for uid in Uid}:
        print(f"there is no dashboard {', '.join(sorted(unknown))}", file=sys.stderr)
        return 2
    PICTURES.mkdir(parents=True, exist_ok=True)
    times = [("--from", options.since), ("--to", options.until)]
    extra = [part for name, value in times if value for part in (name, value)]
    for uid, theme in wanted(options.only):
        target = PICTURES / f"{uid.removeprefix('celeriac-')}-{theme}.png"
        with tempfile.TemporaryDirectory() as directory:
            drawn = Path(directory) / target.name
            command = [
                *shlex.split(options.renderer),
                *("--dashboard", str(DIRECTORY / f"{uid}.json"), "--out", str(drawn)),
                *("--prometheus", options.prometheus, "--theme", theme, "--width", str(WIDTH)),
                *extra,
            ]
            if subprocess.run(command, timeout=PATIENCE, check=False).returncode:
                print(f"{target.name} was not drawn", file=sys.stderr)
                return 1
            compress(drawn, target)
        print(target.name, f"{target.stat().st_size / 1024:.0f} KiB")
    return 0


def compress(drawn: Path, target: Path) -> None:
    """Write the picture with a palette."""
    with Image.open(drawn) as picture:
        small = picture.convert("RGB").quantize(
            256, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
        )
        small.save(target, optimize=True)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
