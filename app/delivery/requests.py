"""A message in the hands of a worker's main process, which notices when its pool process dies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Final
from uuid import UUID

import structlog
from billiard.einfo import ExceptionWithTraceback  # type: ignore[attr-defined]
from celery.exceptions import WorkerLostError
from celery.worker import state as worker_state
from celery.worker.request import Request as CeleryRequest
from django.db import DatabaseError, InterfaceError, close_old_connections

from delivery import attempts, ledger, origin

logger = structlog.get_logger(__name__)

#: Seconds for a note: enough for a second try, and no more, because the worker's loop waits.
NOTE_PATIENCE_SECONDS: Final = 0.5

# Its stubs lack what is overridden here.
_Request: Any = CeleryRequest


def cause_of(exc_info: Any) -> BaseException:
    """Return what a task has raised, without billiard's wrapper around it."""
    error: BaseException = exc_info.exception
    return error.exc if isinstance(error, ExceptionWithTraceback) else error


class DeliveryRequest(_Request):
    """Celery's request; for a durable task it tells the ledger what the task no longer can.

    Without this a delivery whose process was killed would wait for the end of its lease, and one
    that was killed for its time limit would be tried again. All of it is best effort: what is not
    told here, the lease tells.
    """

    @property
    def is_durable(self) -> bool:
        """Whether the ledger knows it."""
        return bool(self.request_dict.get("durable"))

    @contextmanager
    def _logged(self) -> Iterator[None]:
        """Have the lines of the main process about this task say what those of the task say."""
        noted = self.request_dict.get("__django_structlog__")
        context = noted if isinstance(noted, dict) else {}
        queue = self.delivery_info.get("routing_key")
        with origin.log_context(**{**context, "task_id": self.id, "queue": queue}):
            yield

    def on_timeout(self, soft: bool, timeout: float) -> None:  # noqa: FBT001 - as Celery calls it
        """Bury a delivery whose process is killed for the hard time limit."""
        with self._logged():
            super().on_timeout(soft, timeout)
            if self.is_durable and not soft and not worker_state.should_terminate:
                self._tell(ledger.bury_held_by, f"TimeLimitExceeded: {timeout:g} s")

    def on_failure(
        self,
        exc_info: Any,
        send_failed_event: bool = True,  # noqa: FBT001, FBT002 - as Celery calls it
        return_ok: bool = False,  # noqa: FBT001, FBT002
    ) -> None:
        """Let go of a delivery whose process was killed; other failures the task has noted."""
        with self._logged():
            self._on_failure(exc_info, send_failed_event, return_ok)

    def _on_failure(self, exc_info: Any, send_failed_event: bool, return_ok: bool) -> None:  # noqa: FBT001
        error = cause_of(exc_info)
        if not self.is_durable or not isinstance(
            error, WorkerLostError | SystemExit | KeyboardInterrupt
        ):
            super().on_failure(exc_info, send_failed_event, return_ok)
            return
        worker_state.task_ready(self)
        if self._already_cancelled or self._already_revoked:
            return
        attempt = self._tell(ledger.interrupt_held_by, f"{type(error).__name__}: {error}")
        if attempt:
            structlog.contextvars.bind_contextvars(attempt=attempt)
        # The ledger brings it back; another message would only be in its way.
        self.acknowledge()
        self.send_event("task-retried", exception=repr(error), traceback="")
        logger.warning("worker_process_lost", task_name=self.name, error=str(error))

    def cancel(self, pool: Any, signal: Any = None, emit_retry: bool = True) -> None:  # noqa: FBT001, FBT002
        """Let go of a delivery that a stop of the worker cuts off (cold shutdown)."""
        with self._logged():
            super().cancel(pool, signal, emit_retry)
            if self.is_durable:
                self._tell(ledger.interrupt_held_by, "The worker was stopped.")

    def _announce_revoked(
        self,
        reason: str,
        terminated: bool,  # noqa: FBT001 - as Celery calls it
        signum: Any,
        expired: bool,  # noqa: FBT001
    ) -> None:
        """Cancel a delivery that somebody revoked, or it would be published again."""
        with self._logged():
            super()._announce_revoked(reason, terminated, signum, expired)
            if self.is_durable:
                self._note(lambda: ledger.cancel([UUID(self.id)], f"Revoked: {reason}."))

    def _tell(self, note: Callable[[UUID, str, str], int], error: str) -> int:
        """Note what became of the attempt that this worker's process made; returns the note's."""
        if self.worker_pid is None:
            return 0
        holder = f"{self._hostname}:{self.worker_pid}"
        return self._note(lambda: note(UUID(self.id), holder, error))

    def _note(self, write: Callable[[], int]) -> int:
        try:
            # Between two notes lie hours, in which the server may have ended the session.
            return attempts.patiently(NOTE_PATIENCE_SECONDS, write)
        except (DatabaseError, InterfaceError) as unnoted:
            logger.warning("interruption_not_noted", error=str(unnoted))
            close_old_connections()
            return 0
