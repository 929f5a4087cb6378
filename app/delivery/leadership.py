"""One of several processes leads: the one whose PostgreSQL session holds an advisory lock.

The lock belongs to a session, so it ends with its process, however that ends. It needs a direct
connection: a pooler that shares sessions between transactions (PgBouncer's transaction mode) would
give the lock to strangers.
"""

from __future__ import annotations

from typing import Any, Final

import psycopg
import structlog
from django.db import connection

logger = structlog.get_logger(__name__)

#: Seconds after which PostgreSQL ends the session of a holder that is frozen (SIGSTOP, a paused
#: machine); the holder asks ``held`` more often than that.
IDLE_LIMIT_SECONDS: Final = 15

#: For a holder whose machine is gone without a word: PostgreSQL notices after 5 + 3 * 3 seconds.
#: ``tcp_user_timeout``, in milliseconds, is the same for an unanswered question.
SESSION: Final = {
    "connect_timeout": 3,
    "keepalives_idle": 5,
    "keepalives_interval": 3,
    "keepalives_count": 3,
    "tcp_user_timeout": 10_000,
    "options": (
        f"-c idle_session_timeout={IDLE_LIMIT_SECONDS}s "
        "-c tcp_keepalives_idle=5 -c tcp_keepalives_interval=3 -c tcp_keepalives_count=3"
    ),
}


class AdvisoryLock:
    """An advisory lock with a database session of its own. For one thread.

    Attributes:
        key: The number that is locked: 64 bits, used for nothing else in this database.
        answered: Whether the database answered when it was asked last.
    """

    def __init__(self, key: int, *, application_name: str) -> None:
        """Remember what to lock; nothing is connected yet.

        Args:
            key: The number to lock.
            application_name: How the session is called in ``pg_stat_activity``.
        """
        self.key = key
        self.answered = True
        self._application_name = application_name
        self._session: psycopg.Connection[Any] | None = None
        self._has_lock = False

    def acquire(self) -> bool:
        """Take the lock if nobody has it; returns whether it is ours. Never waits for it.

        A database that is away is no error: then nobody leads.
        """
        if self.held():
            return True
        try:
            self._has_lock = self._ask("SELECT pg_try_advisory_lock(%s)", self.key)
        except psycopg.Error as error:
            logger.warning("advisory_lock_not_asked", error=str(error))
            self.answered = False
            self._leave()
        return self._has_lock

    def held(self) -> bool:
        """Whether the session that took the lock is still alive, by asking the server."""
        if not self._has_lock:
            return False
        try:
            return self._ask("SELECT true")
        except psycopg.Error as error:
            logger.warning("advisory_lock_lost", error=str(error))
            self.answered = False
            self._leave()
            return False

    def release(self) -> None:
        """Give the lock back, by ending the session."""
        self._leave()

    def _ask(self, question: Any, *parameters: object) -> bool:
        if self._session is None:
            settings: dict[str, Any] = {**connection.get_connection_params(), **SESSION}
            settings["application_name"] = self._application_name
            self._session = psycopg.connect(**settings, autocommit=True)
        row = self._session.execute(question, parameters).fetchone()
        self.answered = True
        return row is not None and bool(row[0])

    def _leave(self) -> None:
        session, self._session, self._has_lock = self._session, None, False
        if session is not None:
            session.close()
