"""Command line: ``python -m deploy.prometheus``, with ``app`` on PYTHONPATH (make sets it).

``rules [--scale X --scrape-interval S --grafana-url URL] [--check] [OUT]`` writes the rules.
``alerts-doc [--check]`` writes the table of docs/alerts.md.
``--check`` compares with the file instead, and lets promtool read the rules. Exit status 1 when
something differs or is wrong.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from deploy.prometheus import alerts_page, render
from deploy.prometheus.promtool import Promtool
from deploy.prometheus.rulebook import book
from deploy.prometheus.rulebook.pace import Pace
from deploy.prometheus.rulebook.rule import GRAFANA_URL

RULES = Path(__file__).parent / "rules" / "celeriac.rules.yml"
ALERTS_PAGE = Path(__file__).parents[2] / "docs" / "alerts.md"


def main(arguments: list[str] | None = None) -> int:
    """Do what the command line says; returns the exit status."""
    parser = argparse.ArgumentParser(prog="python -m deploy.prometheus")
    commands = parser.add_subparsers(required=True)
    rules = commands.add_parser("rules", help="write the rules")
    rules.add_argument("--scale", type=float, default=1.0, help="factor for every duration")
    rules.add_argument("--scrape-interval", type=float, default=15.0, help="seconds")
    rules.add_argument("--grafana-url", default=GRAFANA_URL, help="start of dashboard links")
    rules.add_argument("out", nargs="?", type=Path, default=RULES, help="file, or - for the output")
    _add_check(rules)
    rules.set_defaults(run=_rules)
    page = commands.add_parser("alerts-doc", help="write the table of docs/alerts.md")
    _add_check(page)
    page.set_defaults(run=_alerts_page)
    options = parser.parse_args(arguments)
    return int(options.run(options))


def _add_check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--check", action="store_true", help="only compare with the file")


def _rules(options: argparse.Namespace) -> int:
    groups = book.groups(Pace(options.scale, options.scrape_interval))
    text = render.text(groups, options.grafana_url)
    if str(options.out) == "-":
        print(text, end="")
        return 0
    status = _write(options.out, text, check=options.check, command="make rules")
    return status or (_judge(options.out) if options.check else 0)


def _judge(path: Path) -> int:
    """Let promtool read the rules; returns the exit status."""
    try:
        promtool = Promtool.find()
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 1
    if promtool is None:
        print("promtool is not installed (Debian: prometheus), so the rules are not checked")
        return 0
    result = promtool.run("check", "rules", path)
    if result.returncode:
        print(result.stdout + result.stderr, end="", file=sys.stderr)
    return int(result.returncode != 0)


def _alerts_page(options: argparse.Namespace) -> int:
    page = ALERTS_PAGE.read_text(encoding="utf-8")
    text = alerts_page.with_table(page, alerts_page.table(book.alerts(Pace())))
    return _write(ALERTS_PAGE, text, check=options.check, command="make rules")


def _write(path: Path, text: str, *, check: bool, command: str) -> int:
    """Write a file, or say that it differs; returns the exit status."""
    if not check:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return 0
    if path.exists() and path.read_text(encoding="utf-8") == text:
        return 0
    print(f"{path} differs from its source: run {command}", file=sys.stderr)
    return 1


if __name__ == "__main__":
    sys.exit(main())
