"""Small corrections for known faults of Celery 5.7 and kombu 5.7, in one place.

Each names its fault and when it can go. They are written for exact versions: with any other one
``install`` refuses, so that an upgrade cannot silently leave a guard that guards nothing.
"""

from __future__ import annotations

from importlib.metadata import version
from typing import Any

from celery import signals
from django.db import close_old_connections

from delivery import transport

GUARDED_VERSIONS = {"celery": "5.7.0", "kombu": "5.7.0"}

_installed = False


def install() -> None:
    """Install all guards, once per process.

    Raises:
        RuntimeError: Celery or kombu is not the version that the guards were written for.
    """
    global _installed  # noqa: PLW0603 - a process has one Celery to correct
    if _installed:
        return
    found = {package: version(package) for package in GUARDED_VERSIONS}
    if found != GUARDED_VERSIONS:
        raise RuntimeError(
            f"delivery.celery_guards was checked with {GUARDED_VERSIONS}, but {found} is "
            "installed: run its tests against the new versions, then adapt GUARDED_VERSIONS."
        )
    transport.install()
    _keep_database_connection_between_tasks()
    _installed = True


def _keep_database_connection_between_tasks() -> None:
    """Check the database connection before and after each task instead of closing it.

    Celery's Django fixup closes it both times: a new PostgreSQL session for each task, two thirds
    of the cost of a small one. ``CELERY_DB_REUSE_MAX`` turns that off; this closes only what is
    broken or older than ``CONN_MAX_AGE``. Remove when the fixup calls ``close_old_connections``.
    """

    def check(sender: Any, **_: Any) -> None:
        if not getattr(sender.request, "is_eager", False):
            close_old_connections()

    signals.task_prerun.connect(check, weak=False, dispatch_uid="delivery-connection-prerun")
    signals.task_postrun.connect(check, weak=False, dispatch_uid="delivery-connection-postrun")
