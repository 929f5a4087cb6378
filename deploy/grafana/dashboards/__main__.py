"""Writes the dashboards' JSON: ``python -m deploy.grafana.dashboards [--check]``."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from deploy.grafana.dashboards.collection import dashboards

DIRECTORY = Path(__file__).parent / "json"


def rendered() -> dict[Path, str]:
    """Return the text of every file by its path; a file is named after its dashboard's uid."""
    return {
        DIRECTORY / f"{dashboard.uid}.json": json.dumps(
            dashboard.to_json(), indent=2, ensure_ascii=False
        )
        + "\n"
        for dashboard in dashboards()
    }


def main(arguments: Sequence[str]) -> int:
    """Write the files, or compare them; return the exit status."""
    parser = argparse.ArgumentParser(prog="python -m deploy.grafana.dashboards")
    parser.add_argument("--check", action="store_true", help="only say whether they are up to date")
    options = parser.parse_args(arguments)
    wanted = rendered()
    strays = set(DIRECTORY.glob("*.json")) - set(wanted)
    if options.check:
        stale = [
            path
            for path, text in wanted.items()
            if not path.exists() or path.read_text(encoding="utf-8") != text
        ]
        for path in sorted([*stale, *strays]):
            print(f"{path.name} is out of date: run make dashboards", file=sys.stderr)
        return 1 if stale or strays else 0
    DIRECTORY.mkdir(exist_ok=True)
    for path in strays:
        path.unlink()
    for path, text in wanted.items():
        path.write_text(text, encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
