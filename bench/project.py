"""The project on servers of its own, which live as long as the program that measures."""

from __future__ import annotations

import os
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from deploy.embedded.servers import PostgresServer, RedisServer, free_port, running
from deploy.embedded.servers.redis import READERS

if TYPE_CHECKING:
    from django.db.backends.base.base import BaseDatabaseWrapper

ROOT: Final = Path(__file__).resolve().parents[1]
PASSWORD: Final = "bench-only"  # noqa: S105 - of servers that live as long as this program


@dataclass(frozen=True)
class Servers:
    """A PostgreSQL and a Redis.

    Attributes:
        directory: For files of whoever measures; deleted at the end.
    """

    postgres: PostgresServer
    redis: RedisServer
    directory: Path


@contextmanager
def own_servers(**environment: str) -> Iterator[Servers]:
    """Start both, load the project's settings for them, and make its tables.

    ``environment`` is for more settings. Everything is deleted at the end.
    """
    directory = Path(tempfile.mkdtemp(prefix="celeriac-bench-"))
    # PostgreSQL may run under another account, which has to get to its data.
    directory.chmod(0o755)
    postgres = PostgresServer(directory / "postgres", free_port(), PASSWORD)
    redis = RedisServer(
        directory / "redis", free_port(), PASSWORD, dict.fromkeys(READERS, PASSWORD)
    )
    try:
        with ExitStack() as stack:
            stack.enter_context(running(postgres))
            stack.enter_context(running(redis))
            _load_settings(
                DATABASE_URL=postgres.url,
                BROKER_URL=f"{redis.url}/0",
                CHANNEL_LAYER_URL=f"{redis.url}/1",
                **environment,
            )
            from django.core.management import call_command  # noqa: PLC0415 - needs settings
            from django.db import connection  # noqa: PLC0415

            call_command("migrate", verbosity=0)
            stack.callback(connection.close)
            yield Servers(postgres, redis, directory)
    finally:
        postgres.remove()
        shutil.rmtree(directory, ignore_errors=True)


@contextmanager
def own_database() -> Iterator[BaseDatabaseWrapper]:
    """Yield Django's connection to a database as ``own_servers`` makes it."""
    with own_servers():
        from django.db import connection  # noqa: PLC0415 - needs settings

        yield connection


def _load_settings(**environment: str) -> None:
    """Load the project's settings with the environment of the tests and what is given here."""
    for line in (ROOT / "tests" / "test.env").read_text(encoding="utf-8").splitlines():
        name, separator, value = line.partition("=")
        if separator and not name.startswith("#"):
            os.environ[name] = value.strip('"')
    os.environ.update(environment, SERVICE_NAME="bench", DJANGO_SETTINGS_MODULE="config.settings")
    os.environ.setdefault("LOG_LEVEL", "ERROR")
    sys.path.insert(0, str(ROOT / "app"))
    import django  # noqa: PLC0415

    django.setup()
