"""Results in the Django ORM that survive a restart of PostgreSQL."""

from __future__ import annotations

from django.db import InterfaceError, OperationalError, close_old_connections
from django_celery_results.backends import DatabaseBackend as StockDatabaseBackend


class DatabaseBackend(StockDatabaseBackend):
    """django-celery-results with a wider idea of what may be tried again.

    The stock backend gives a result up when the server closes the connection (it retries
    InterfaceError only), and a worker's main process, which no task signal reaches, then keeps the
    dead connection for ever. Remove when its ``exception_safe_to_retry`` does the same (2.6.0 does
    not).
    """

    def exception_safe_to_retry(self, exc: Exception) -> bool:
        """Say whether storing may be tried again, and let go of connections that are broken."""
        if not isinstance(exc, (OperationalError, InterfaceError)):
            return False
        close_old_connections()
        return True
