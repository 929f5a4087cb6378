"""The migrate role: bring the database to the version of this code, once, whoever starts it."""

from __future__ import annotations

import os
from typing import Any, Final

from django.contrib.auth import get_user_model
from django.core.management import call_command
from django.core.management.base import BaseCommand, CommandError
from django.db import connection

from telemetry import reading_accounts

#: Any number will do, as long as nothing else of this database uses it.
ADVISORY_LOCK: Final = 0x63656C65726961


class Command(BaseCommand):
    """Apply migrations under an advisory lock; create the administrator and reading accounts."""

    help = (
        "Applies migrations; a second run at the same time waits for the first. With "
        "CELERY_EXPORTER_PASSWORD and SERVER_EXPORTERS_PASSWORD set, makes or updates the accounts "
        "that only read. With "
        "DJANGO_SUPERUSER_PASSWORD set, creates the administrator DJANGO_SUPERUSER_USERNAME "
        "if there is no such user (an existing one keeps its password)."
    )

    def handle(self, *args: Any, **options: Any) -> None:
        """Migrate, then make sure that exporters can read and somebody can sign in."""
        with connection.cursor() as cursor:
            # Held by the session: it ends with this process, however that ends.
            cursor.execute("SET lock_timeout = 0")
            cursor.execute("SELECT pg_advisory_lock(%s)", [ADVISORY_LOCK])
            try:
                call_command("migrate", interactive=False, verbosity=options["verbosity"])
                for account in reading_accounts.prepare(os.environ):
                    self.stdout.write(f"Account {account} may read.")
                self._ensure_administrator()
            finally:
                cursor.execute("SELECT pg_advisory_unlock(%s)", [ADVISORY_LOCK])

    def _ensure_administrator(self) -> None:
        password = os.environ.get("DJANGO_SUPERUSER_PASSWORD")
        if not password:
            return
        username = os.environ.get("DJANGO_SUPERUSER_USERNAME", "admin")
        users = get_user_model().objects
        if users.filter(username=username).exists():
            return
        if len(password) < 12:
            raise CommandError("DJANGO_SUPERUSER_PASSWORD must have at least 12 characters.")
        users.create_superuser(username=username, password=password)
        self.stdout.write(f"Administrator {username} created.")
