"""The scheduler of beat: of several that run, one sends, and no occurrence is lost or doubled."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import NAMESPACE_OID, uuid5

import structlog
from celery import current_app, signals
from django.conf import settings
from django.db import (
    DatabaseError,
    InterfaceError,
    OperationalError,
    close_old_connections,
    transaction,
)
from django_celery_beat.models import PeriodicTask
from django_celery_beat.schedulers import DatabaseScheduler, ModelEntry

from delivery.leadership import AdvisoryLock
from telemetry import beat_metrics, heartbeat, metrics_server, presence, sent_messages
from telemetry.beat_metrics import due_moment

logger = structlog.get_logger(__name__)

#: Any number will do, as long as nothing else of this database uses it ("celbeat").
LEADER_LOCK: Final = 0x63656C62656174
#: Seconds between two looks of a beat that does not lead: at the lock, or for the database.
STANDBY_SECONDS: Final = 1.0
#: Longest sleep of the leader in seconds: it must show itself to PostgreSQL more often than
#: ``leadership.IDLE_LIMIT_SECONDS``.
LEADER_SECONDS: Final = 5.0
EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
MINUTE: Final = timedelta(minutes=1)
#: Where the ids of occurrences come from.
OCCURRENCES: Final = uuid5(NAMESPACE_OID, "celeriac.beat")


def occurrence_id(name: str, schedule: Any, moment: datetime) -> str:
    """Return the task id of the occurrence of an entry at a moment: the same for whoever sends it.

    An occurrence is a slot in time: of an interval its multiples since 1970, of any other schedule
    (crontab, sunrise, a date) the minute.
    """
    every = getattr(schedule, "run_every", MINUTE)  # of an interval, and of nothing else
    # Not in seconds: a quotient of floats may be a little too small. Two runs would share a slot.
    slot = EPOCH + (moment - EPOCH) // every * every
    return str(uuid5(OCCURRENCES, f"{name}@{slot.isoformat()}"))


@signals.beat_init.connect
def _begin(**_: Any) -> None:
    presence.begin(settings.SERVICE_NAME)
    sent_messages.count(current_app, metrics_server.REGISTRY)
    metrics_server.serve()


class WatchedDatabaseScheduler(DatabaseScheduler):
    """django-celery-beat's scheduler, with standbys, and noting each tick for the probe.

    Any number may run. The one that holds an advisory lock sends; another one takes over when its
    PostgreSQL session ends. That an entry was sent is committed together with its delivery, so a
    new leader neither repeats nor skips. A database that is away stops nothing but the sending.
    """

    max_interval: float
    _schedule: dict[str, ModelEntry] | None
    #: Celery would wait here for the broker, without a tick. A durable entry needs none, and a
    #: plain one takes a connection of the app, which gives up after seconds.
    producer = None

    def __init__(self, *arguments: Any, **options: Any) -> None:
        self._lock = AdvisoryLock(LEADER_LOCK, application_name="celeriac-beat-leader")
        self._leads = False
        self._metrics = beat_metrics.of_this_process()
        # Name of an entry -> when it was last found to be due and could not be sent.
        self._missed: dict[str, datetime] = {}
        super().__init__(*arguments, **options)
        self.max_interval = min(self.max_interval, LEADER_SECONDS)

    def setup_schedule(self) -> None:
        """Leave the schedule alone until this process leads: only then it is up to date."""

    def install_default_entries(self, data: Any) -> None:
        """Leave out Celery's clean-up of results: one transaction, however large the table is.

        ``housekeeping.delete_expired_results`` does it in small statements.
        """

    def tick(self, *arguments: Any, **options: Any) -> float:
        """Send one entry that is due, if this process leads; returns seconds until the next tick.

        Without a database it comes back soon, and reads the schedule again: what could not be
        stored is due then as now.
        """
        seconds = self._tick(*arguments, **options)
        self._metrics.ticked()
        return seconds

    def _tick(self, *arguments: Any, **options: Any) -> float:
        try:
            if self._lead():
                seconds: float = super().tick(*arguments, **options)
                heartbeat.note(heartbeat.TICKING)
                return seconds
        except (DatabaseError, InterfaceError) as error:
            logger.warning("beat_waits_for_the_database", error=str(error))
            self._step_down()
            close_old_connections()
        heartbeat.note(heartbeat.STANDBY)
        return STANDBY_SECONDS

    def apply_entry(self, entry: ModelEntry, producer: Any = None) -> None:
        """Send an entry and note that it was sent, in one transaction.

        Any error but those below is logged, and the entry waits for its next time, as Celery has
        it: a plain task while the broker is away, for instance. Plain tasks may be lost.

        Raises:
            OperationalError: The database is away, and nothing was stored.
            InterfaceError: As before.
        """
        due = due_moment(entry)
        try:
            with transaction.atomic():
                if not self._claim(entry):
                    logger.info("beat_entry_sent_by_another", entry=entry.name)
                    return
                self._send(entry)
        except (OperationalError, InterfaceError):
            self._note_missed([entry])
            raise
        except Exception:
            self._note_missed([entry])
            logger.exception("beat_entry_not_sent", entry=entry.name, task_name=entry.task)
        else:
            self._metrics.sent(entry, due=due)
            self._dirty.discard(entry.name)

    def all_as_schedule(self) -> dict[str, ModelEntry]:
        """Read the enabled entries."""
        entries: dict[str, ModelEntry] = super().all_as_schedule()
        self._metrics.holds(entries)
        return entries

    def sync(self) -> None:
        """Write what is known of the last runs, unless another process knows better."""
        if self._dirty and not self._lock.held():
            self._dirty.clear()
        super().sync()

    def close(self) -> None:
        """Stop on purpose: write the schedule, let a standby take over, remove the note."""
        super().close()
        self._lock.release()
        heartbeat.forget()

    def _lead(self) -> bool:
        """Whether this process leads; a new leader reads the schedule first."""
        if self._leads:
            if self._lock.held():
                return True
            self._step_down()
        if not self._lock.acquire():
            if not self._lock.answered:
                # Who led when the database went away knows what should be sent meanwhile.
                self._note_missed((self._schedule or {}).values())
            elif self._schedule:
                # Another one leads, and knows better.
                self._schedule = None
                self._metrics.holds({})
            return False
        close_old_connections()
        self._dirty.clear()
        self._heap = None
        self._initial_read = True
        super().setup_schedule()
        # With the entries of the settings, which were not in the table before the first start.
        self._metrics.holds(self._schedule or {})
        self._leads = True
        self._metrics.leads()
        logger.info("beat_leads")
        return True

    def _step_down(self) -> None:
        if self._leads:
            logger.info("beat_stands_by")
        self._leads = False
        self._metrics.stands_by()

    def _note_missed(self, entries: Iterable[ModelEntry]) -> None:
        """Count what is due and cannot be sent, each occurrence once."""
        missed = [
            entry.name
            for entry in entries
            if due_moment(entry, self._missed.get(entry.name, EPOCH)) <= datetime.now(UTC)
        ]
        self._missed.update(dict.fromkeys(missed, datetime.now(UTC)))
        self._metrics.not_sent(missed)

    def _claim(self, entry: ModelEntry) -> bool:
        """Note the run in the entry's row; False if the row knows a later one, or is gone.

        It does when this process slept between its decision and now, and is not the leader any
        more. ``entry.model`` has the new run already (``reserve``), ``entry`` still the last one.
        """
        row = PeriodicTask.objects.select_for_update().filter(pk=entry.model.pk).first()
        if row is None or (row.last_run_at is not None and row.last_run_at > entry.last_run_at):
            return False
        entry.save()
        return True

    def _send(self, entry: ModelEntry) -> None:
        options = dict(entry.options)
        options["headers"] = {**options.get("headers", {}), "celery_beat_task": True}
        task = self.app.tasks.get(entry.task)
        if task is None:
            self.app.send_task(entry.task, entry.args, entry.kwargs, **options)
        else:
            if getattr(task, "is_durable", False):
                moment = entry.model.last_run_at
                options["task_id"] = occurrence_id(entry.name, entry.schedule, moment)
            task.apply_async(entry.args, entry.kwargs, **options)
        logger.info("beat_entry_sent", entry=entry.name, task_name=entry.task)
