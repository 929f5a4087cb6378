"""Starting and ending faults. All end by themselves, and leave nothing behind.

The row of a fault is committed before it begins, together with the durable task that ends it at
its time. Whoever looks at the faults after that time ends them too: the task may be late, because
its worker is what is paused.
"""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Final
from uuid import UUID

import structlog
from django.conf import settings
from django.db import transaction
from django.db.models import ExpressionWrapper, F, QuerySet, fields
from django.db.models.functions import Now

from delivery import ledger
from fault_injection.catalogue import FAULTS, Fault, fault_named
from fault_injection.errors import FaultError, FaultsAreOffError
from fault_injection.mechanisms import MECHANISMS
from fault_injection.models import FaultRun

logger = structlog.get_logger(__name__)

#: Seconds that rows of ended faults are kept.
RETENTION_SECONDS: Final = 7 * 86_400


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultStatus:
    """A fault and whether it is in force, for the console.

    Attributes:
        name, title, description, expect, seconds: See ``Fault``.
        active: Whether it is in force.
        seconds_left: Until it ends; 0 when it is not in force.
        requested_by: Who has started it; empty when it is not in force.
    """

    name: str
    title: str
    description: str
    expect: str
    seconds: int
    active: bool
    seconds_left: int
    requested_by: str


def refuse_unless_enabled() -> None:
    """Stop here where nothing may be broken.

    Raises:
        FaultsAreOffError: ``FAULT_INJECTION`` is not set.
    """
    if not settings.FAULT_INJECTION:
        raise FaultsAreOffError


# --- Looking -------------------------------------------------------------------------------------


def active_faults() -> set[str]:
    """Return the names of the faults that are in force: one small query, none where all is off."""
    if not settings.FAULT_INJECTION:
        return set()
    return set(_active().values_list("name", flat=True))


def faults_status() -> list[FaultStatus]:
    """Return all faults for the console; none where they are switched off. Ends what is overdue."""
    if not settings.FAULT_INJECTION:
        return []
    faults_end_overdue()
    left = ExpressionWrapper(F("ends_at") - Now(), output_field=fields.DurationField())
    runs: dict[str, Any] = {run.name: run for run in _active().annotate(left=left)}
    return [_status(fault, runs.get(fault.name)) for fault in FAULTS]


def _status(fault: Fault, run: Any) -> FaultStatus:
    return FaultStatus(
        name=fault.name,
        title=fault.title,
        description=fault.description,
        expect=fault.expect,
        seconds=fault.seconds,
        active=run is not None,
        seconds_left=1 + int(run.left.total_seconds()) if run else 0,
        requested_by=run.requested_by if run else "",
    )


def fault_is_active(run_id: UUID) -> bool:
    """Whether a fault that was started is still in force."""
    return _active().filter(id=run_id).exists()


def _open() -> QuerySet[FaultRun]:
    return FaultRun.objects.filter(ended_at=None)


def _active() -> QuerySet[FaultRun]:
    return _open().filter(ends_at__gt=Now())


# --- Starting ------------------------------------------------------------------------------------


def fault_start(name: str, *, requested_by: str, seconds: int | None = None) -> FaultRun:
    """Start a fault; one that is in force already is left as it is.

    Args:
        name: Its name in the catalogue.
        requested_by: Who wants it.
        seconds: Have it end sooner than the catalogue says.

    Raises:
        FaultsAreOffError: ``FAULT_INJECTION`` is not set.
        UnknownFaultError: There is none of this name.
        FaultError: It could not be started; the text says why.
    """
    from fault_injection.tasks import end  # noqa: PLC0415 - tasks build on services

    refuse_unless_enabled()
    fault, mechanism = fault_named(name), MECHANISMS[name]
    faults_end_overdue()
    lasts = timedelta(seconds=min(fault.seconds, seconds or fault.seconds))
    with transaction.atomic():
        run, is_new = FaultRun.objects.get_or_create(
            name=name,
            ended_at=None,
            defaults={
                "requested_by": requested_by,
                "started_at": Now(),
                "ends_at": Now() + lasts,
            },
        )
        run.refresh_from_db()
        if not is_new:
            return run
        if lasts:
            end.apply_on_commit(
                (str(run.id),), countdown=lasts.total_seconds(), task_id=str(run.id)
            )
        mechanism.enter(run)
    logger.warning(
        "fault_started", fault=name, run_id=str(run.id), requested_by=requested_by,
        seconds=lasts.total_seconds(),
    )  # fmt: skip
    try:
        _begin(run)
    except FaultError as error:
        logger.warning("fault_not_started", fault=name, run_id=str(run.id), error=str(error))
        FaultRun.objects.filter(id=run.id).update(error=str(error))
        # If that fails too, the task above goes on trying.
        with suppress(FaultError):
            _end_now(run.id)
        raise
    if not lasts:
        _end_now(run.id)
    FaultRun.objects.filter(ended_at__lt=Now() - timedelta(seconds=RETENTION_SECONDS)).delete()
    return run


def _begin(run: FaultRun) -> None:
    """Begin what is outside of the database, unless somebody has stopped it already.

    The row is locked meanwhile: what ends it waits, and so never comes first.
    """
    with transaction.atomic():
        if _open().select_for_update().filter(id=run.id).first() is not None:
            MECHANISMS[run.name].begin(run)


# --- Ending --------------------------------------------------------------------------------------


def fault_stop(name: str) -> bool:
    """End a fault now; returns False when it is not in force.

    Raises:
        UnknownFaultError: There is none of this name.
        FaultError: It could not be undone yet; at its time it is tried again.
    """
    fault_named(name)
    run = _open().filter(name=name).first()
    return run is not None and _end_now(run.id)


def faults_stop() -> int:
    """End all faults now; returns how many.

    Raises:
        FaultError: Some could not be undone yet; all others are ended.
    """
    ended, problems = 0, []
    for run in _open():
        try:
            ended += _end_now(run.id)
        except FaultError as error:
            problems.append(f"{run.name}: {error}")
    if problems:
        raise FaultError(" ".join(problems))
    return ended


def faults_end_overdue() -> None:
    """End faults whose time is over and whose task has not ended them yet."""
    for run in _open().filter(ends_at__lte=Now()):
        try:
            _end_now(run.id)
        except FaultError as error:
            logger.warning("fault_not_ended", fault=run.name, error=str(error))


def fault_end(run_id: UUID) -> bool:
    """Undo a fault; returns False when it has ended already.

    Its row is locked meanwhile, so nobody starts it anew before it is undone.

    Raises:
        FaultError: It could not be undone.
    """
    with transaction.atomic():
        run = _open().select_for_update().filter(id=run_id).first()
        if run is None:
            return False
        MECHANISMS[run.name].end(run)
        FaultRun.objects.filter(id=run_id).update(ended_at=Now())
    logger.warning("fault_ended", fault=run.name, run_id=str(run_id))
    return True


def _end_now(run_id: UUID) -> bool:
    """Do what the task that ends the fault was for, and cancel that task."""
    with transaction.atomic():
        ended = fault_end(run_id)
        ledger.cancel([run_id], "The fault has ended before.")
    return ended


def fault_note_end(run_id: UUID) -> None:
    """Note that a fault is over, unless somebody is about to do so.

    Does not wait for its row: the caller has locked a delivery, whoever ends the fault has locked
    the row and wants that delivery.
    """
    with transaction.atomic():
        run = _open().select_for_update(skip_locked=True).filter(id=run_id).first()
        if run is not None:
            FaultRun.objects.filter(id=run_id).update(ended_at=Now())
            ledger.cancel([run_id], "The fault has ended before.")
