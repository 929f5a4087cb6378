"""Periodic tasks, all idempotent: each deletes what is old, if anything (queue: maintenance).

The canary is the exception: it goes through every queue, and leaves a trace.
"""

from __future__ import annotations

from celery import shared_task

from delivery.quarantine import old_quarantined_messages
from delivery.tasks import run_once
from housekeeping import services
from jobs.rate_limit import full_buckets


@shared_task(name="housekeeping.delete_old_jobs")
def delete_old_jobs() -> int:
    """Delete jobs past ``JOB_RETENTION_SECONDS`` with all their rows; returns how many rows."""
    return services.delete_in_batches(services.old_jobs(), services.BATCH_JOBS)


@shared_task(name="housekeeping.delete_old_deliveries")
def delete_old_deliveries() -> int:
    """Delete deliveries past ``DELIVERY_RETENTION_SECONDS``, then empty groups; returns rows."""
    deleted = services.delete_in_batches(services.old_deliveries())
    return deleted + services.delete_in_batches(services.empty_groups())


@shared_task(name="housekeeping.delete_old_quarantine")
def delete_old_quarantine() -> int:
    """Delete refused messages that are old; returns the number of rows."""
    return services.delete_in_batches(old_quarantined_messages())


@shared_task(name="housekeeping.delete_expired_results")
def delete_expired_results() -> int:
    """Delete task results past ``RESULT_RETENTION_SECONDS``; returns the number of rows."""
    return services.delete_in_batches(services.expired_results())


@shared_task(name="housekeeping.delete_expired_sessions")
def delete_expired_sessions() -> int:
    """Delete sessions that have expired; returns the number of rows."""
    return services.delete_in_batches(services.expired_sessions())


@shared_task(name="housekeeping.delete_full_rate_buckets")
def delete_full_rate_buckets() -> int:
    """Delete buckets of callers who have waited long enough; returns the number of rows."""
    return services.delete_in_batches(full_buckets())


@shared_task(name="housekeeping.canary", ignore_result=True)
def canary(queue: str) -> None:
    """Note that a task has come through the queue that it was sent to.

    Queue: each of ``config.topology``, by the schedule. The row and the end of its delivery are one
    commit, so a trace means that all of it works: beat, ledger, broker, worker, database.
    """
    with run_once():
        services.note_canary(queue)
