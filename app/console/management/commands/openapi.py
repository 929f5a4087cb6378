"""``manage.py openapi``: writes the API's document, or checks that the committed one is right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from django.core.management import BaseCommand, CommandError, CommandParser

from console.api import api
from console.openapi import as_text


class Command(BaseCommand):
    """Writes or checks a file with the OpenAPI document. Needs no service."""

    help = "Write the OpenAPI document of the API to a file, or check the file."
    requires_system_checks = ()

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the arguments."""
        parser.add_argument("file", type=Path)
        parser.add_argument("--check", action="store_true", help="only compare")

    def handle(self, *, file: Path, check: bool, **options: Any) -> None:
        """Write the file, or compare it.

        Raises:
            CommandError: It is not what the routes say.
        """
        text = as_text(api.get_openapi_schema())
        if not check:
            file.write_text(text, encoding="utf-8")
        elif not file.exists() or file.read_text(encoding="utf-8") != text:
            raise CommandError(f"{file} is not what the routes say; write it with: make openapi")
