"""A file of the repository that is written from the code: one way to write it, and to check it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

from django.core.management import BaseCommand, CommandError, CommandParser


class GeneratedFileCommand(BaseCommand):
    """Writes a file, or with ``--check`` compares it. Needs no service.

    Attributes:
        rule: What the file must be, for the message: "what the routes say".
        target: The target of the Makefile that writes it.
    """

    requires_system_checks = ()
    rule: ClassVar[str]
    target: ClassVar[str]

    def text(self, present: str) -> str:
        """Return what the file must say.

        Args:
            present: What it says now; empty where there is none.
        """
        raise NotImplementedError

    def add_arguments(self, parser: CommandParser) -> None:
        """Declare the arguments."""
        parser.add_argument("file", type=Path)
        parser.add_argument("--check", action="store_true", help="only compare")

    def handle(self, *, file: Path, check: bool, **options: Any) -> None:
        """Write the file, or compare it.

        Raises:
            CommandError: It is not what its source says.
        """
        present = file.read_text(encoding="utf-8") if file.exists() else ""
        text = self.text(present)
        if not check:
            file.write_text(text, encoding="utf-8")
        elif present != text:
            raise CommandError(f"{file} is not {self.rule}; write it with: make {self.target}")
