"""A pytest plugin, loaded before Django is: gives the tests their environment.

PostgreSQL and Redis get free ports here, because settings are read once; the fixtures in
conftest.py start the servers there, for tests that ask for them.
"""

import atexit
import os
import shutil
import tempfile
from pathlib import Path

from deploy.embedded.servers import free_port

ROOT = Path(__file__).resolve().parents[2]
#: The environment as it was: what a person who types a command would have.
OUTSIDE = dict(os.environ)
PASSWORD = "tests-only"
POSTGRES_PORT = free_port()
REDIS_PORT = free_port()
MAIL_PORT = free_port()
MAIL_WEB_PORT = free_port()


def _static_root() -> str:
    """Return a folder for collected static files that goes when the tests end."""
    directory = tempfile.mkdtemp(prefix="celeriac-static-")
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return directory


def _load() -> None:
    for line in (ROOT / "tests" / "test.env").read_text(encoding="utf-8").splitlines():
        name, separator, value = line.partition("=")
        if separator and not name.startswith("#"):
            os.environ[name] = value.strip('"')
    redis = f"redis://:{PASSWORD}@127.0.0.1:{REDIS_PORT}"
    os.environ.update(
        DATABASE_URL=f"postgres://celeriac:{PASSWORD}@127.0.0.1:{POSTGRES_PORT}/celeriac",
        BROKER_URL=f"{redis}/0",
        CHANNEL_LAYER_URL=f"{redis}/1",
        EMAIL_HOST="127.0.0.1",
        EMAIL_PORT=str(MAIL_PORT),
        BIND_HOST="127.0.0.1",
        STATIC_ROOT=_static_root(),
    )


_load()
