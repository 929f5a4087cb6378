"""Small corrections for known faults of Celery 5.7 and kombu 5.7, in one place.

Each names its fault and when it can go. They are written for exact versions: with any other one
``install`` refuses, so that an upgrade cannot silently leave a guard that guards nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import version
from typing import Any

from celery import signals
from celery.app.control import Control
from django.db import close_old_connections
from kombu.pidbox import Mailbox

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
    Control.Mailbox = MailboxThatPublishesOnce
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


@dataclass(frozen=True)
class _Once:
    """A producer that sends what it is told to, or fails."""

    producer: Any

    def publish(self, *arguments: Any, **options: Any) -> Any:
        return self.producer.publish(*arguments, **{**options, "retry": False})


class MailboxThatPublishesOnce(Mailbox):
    """Does not repeat a control message, or an answer, that the broker did not confirm in time.

    kombu repeats it for ever. Once a frozen broker thaws, it hands on all of them, and receivers
    take the repetitions for replays by somebody who listens. Remove when kombu does not retry.
    """

    @contextmanager
    def producer_or_acquire(self, producer: Any = None, channel: Any = None) -> Iterator[Any]:
        """Return what the message is published with."""
        with super().producer_or_acquire(producer, channel) as found:
            yield _Once(found)
