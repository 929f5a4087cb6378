"""``manage.py metrics_doc``: writes the tables of docs/metrics.md, or checks them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.core.management import BaseCommand, CommandError, CommandParser

from telemetry.metrics_page import rendered


class Command(BaseCommand):
    """Writes or checks the page about metrics. Needs no service."""

    help = "Write the tables of a page about metrics, or check them."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the arguments."""
        parser.add_argument("file", type=Path)
        parser.add_argument("--check", action="store_true", help="only compare")

    def handle(self, *, file: Path, check: bool, **options: Any) -> None:
        """Write the tables, or compare them.

        Raises:
            CommandError: They are not what the table of metrics says.
        """
        page = file.read_text(encoding="utf-8")
        text = rendered(page)
        if not check:
            file.write_text(text, encoding="utf-8")
        elif page != text:
            raise CommandError(
                f"{file} is not what app/telemetry/catalogue.py says; write it with: "
                "make metrics-doc"
            )
