"""Many small requests, done together: single rows that wait are taken in batches.

    class Index(models.Model):                       # a row that waits is the request
        document = models.ForeignKey(Document, on_delete=models.CASCADE)

    @shared_task(name="search.index", base=BufferedTask, bind=True)
    def index(self):
        with run_once():
            rows = list(Index.objects.select_for_update(skip_locked=True)[: self.flush_every])
            ...                                      # the effect, for all of them
            Index.objects.filter(pk__in=[row.pk for row in rows]).delete()
            self.flush_again(len(rows))

    with transaction.atomic():                       # any number of callers at once
        row = Index.objects.create(document=document)
        index.flush_on_commit([row.pk])

The rows are committed or rolled back with the caller, and leave in the transaction that has dealt
with them. So no crash loses or repeats one. Where the effect is outside of the database, take the
rows like this, and hand their keys to a ``BatchTask`` in the same transaction.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import structlog
from django.db import transaction

from delivery import ledger
from delivery.attempts import Attempt
from delivery.tasks import BaseTask

logger = structlog.get_logger(__name__)

#: Seconds until rows are looked at again after a run that became a dead letter.
AFTER_GIVING_UP_SECONDS: Final = 300.0


class BufferedTask(BaseTask):
    """A durable task without arguments that takes up to ``flush_every`` waiting rows.

    Callers neither count rows nor wait for each other; see ``flush_on_commit``. A run that fails
    leaves its rows where they are, for its next attempt or for any other run. One that is given up
    is followed by another after ``AFTER_GIVING_UP_SECONDS``.
    """

    abstract = True

    #: Rows that one run takes at most.
    flush_every = 100
    #: Seconds that a row waits for others at most, before a run takes it.
    flush_interval = 1.0

    def flush_on_commit(self, numbers: Iterable[int]) -> None:
        """Have a run take the rows that this transaction has stored, if and when it commits.

        Runs are shared. Every ``flush_every``-th row brings one at once, which needs no counting:
        its number says so. Others join a run that is due within ``flush_interval``, by a lock that
        any number may hold and that keeps it from beginning before they have committed; it can be
        taken only until the run is due, so callers that follow each other cannot hold it up. Where
        there is none to join yet, each of the callers that meet there enters one: more of them
        than needed, but nobody waits for the commit of somebody else.

        Args:
            numbers: The rows' numbers from a sequence.
        """
        if any(number % self.flush_every == 0 for number in numbers):
            self.delay_on_commit()
        elif not ledger.hold_pending(self.name, within=self.flush_interval):
            self.apply_on_commit(countdown=self.flush_interval)

    def on_given_up(self, error: str, *args: Any, **kwargs: Any) -> None:
        """Have another run come after a while: rows wait, and nobody else may bring one."""
        self.apply_on_commit(countdown=AFTER_GIVING_UP_SECONDS)

    def flush_again(self, taken: int) -> None:
        """Enter another run if this one was full: more rows may wait. Within ``run_once``."""
        if taken >= self.flush_every:
            self.delay_on_commit()


class BatchTask(BaseTask):
    """A durable task whose first argument is a list of items, of which one may be bad.

    Errors that may pass are tried again with the whole list. After any other exception, and after
    the death of its process, each half of the list becomes a delivery of its own (not when it ran
    into the hard time limit: then the whole list is a dead letter). So an item that fails always,
    or kills its process, ends alone as a dead letter, and the others are done. The task must skip
    items that are done already.
    """

    abstract = True

    def _attempt(self, attempt: Attempt, args: Any, kwargs: Any) -> Any:
        if attempt.claim.interruptions and self._halve(attempt, "The process died."):
            return None
        return super()._attempt(attempt, args, kwargs)

    def _note_death(self, attempt: Attempt, error: str) -> None:
        self._note_failure(lambda: self._halve(attempt, error) or ledger.bury(attempt.claim, error))

    def _halve(self, attempt: Attempt, reason: str) -> bool:
        """Replace the delivery by two; returns False where that is not possible."""
        request: Any = self.request
        # Without arguments of that kind there is nothing to halve.
        items, *others = request.args or ((),)
        # A member of a group may not succeed before its items have.
        if len(items) < 2 or attempt.claim.group_id is not None:
            return False
        middle = len(items) // 2
        with transaction.atomic():
            if ledger.succeed(attempt.claim):
                for half in (items[:middle], items[middle:]):
                    self.apply_on_commit((half, *others), request.kwargs)
        logger.warning("batch_halved", task_name=self.name, items=len(items), reason=reason)
        return True
