"""THE table of metrics: every one that we export, who serves it, and what it means.

Plain data. Exporters take names, labels and help texts from here, ``docs/metrics.md`` is written
from it (``make metrics-doc``), and tests compare rules, dashboards and real scrapes with it.

Where danihodovic/celery-exporter has a metric of the same meaning, name and labels are its own,
so that its dashboards (grafana.com 17508, 17509) draw.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

COUNTER: Final = "counter"
GAUGE: Final = "gauge"
HISTOGRAM: Final = "histogram"

#: Who serves a metric: the ``job`` label that Prometheus gives its series.
WORKER: Final = "celery-worker"
BEAT: Final = "celery-beat"
RELAY: Final = "celery-relay"
EXPORTER: Final = "celery-exporter"
WEB: Final = "web"

#: Upper bounds in seconds. Waits: from "at once" to a backlog of an hour, the targets among them.
WAIT_BUCKETS: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 300, 600, 1800, 3600)
#: Runs: from milliseconds to the longest time limit (270 s) and a little more.
RUNTIME_BUCKETS: Final = (
    0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 120, 240, 270, 300,
)  # fmt: skip
#: Delays of beat: it looks at the schedule every few seconds at the latest.
LAG_BUCKETS: Final = (0.1, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


@dataclass(frozen=True, slots=True)
class Metric:
    """One metric.

    Attributes:
        name: As Prometheus knows it; counters end in ``_total``.
        kind: ``counter``, ``gauge`` or ``histogram``.
        help: What it means, with its unit. One sentence, or two.
        served_by: The jobs that serve it.
        labels: Names of its labels, in order.
        buckets: Upper bounds of a histogram.
    """

    name: str
    kind: str
    help: str
    served_by: tuple[str, ...]
    labels: tuple[str, ...] = ()
    buckets: tuple[float, ...] = ()


_TASK: Final = ("name", "queue_name")
_QUEUE: Final = ("queue_name",)

METRICS: Final = (
    # --- tasks, as the workers' main processes see them -----------------------------------------
    Metric("celery_task_received_total", COUNTER,
           "Messages that a worker took from the broker, repeated deliveries included.",
           (WORKER,), _TASK),
    Metric("celery_task_started_total", COUNTER,
           "Attempts that a pool process began.", (WORKER,), _TASK),
    Metric("celery_task_succeeded_total", COUNTER,
           "Attempts that returned.", (WORKER,), _TASK),
    Metric("celery_task_failed_total", COUNTER,
           "Attempts that failed for good: a dead letter, if the task is durable. The series of an "
           "exception begins with its first failure; celery_sli_execution_total minus "
           "celery_sli_execution_good_total is there from the start, and has what no worker sees.",
           (WORKER,), (*_TASK, "exception")),
    Metric("celery_task_retried_total", COUNTER,
           "Attempts that failed or were cut off, and will be made again.", (WORKER,), _TASK),
    Metric("celery_task_revoked_total", COUNTER,
           "Messages thrown away because their task was revoked or had expired.",
           (WORKER,), _TASK),
    Metric("celery_task_rejected_total", COUNTER,
           "Messages that a task rejected: given back to the queue, or dropped (also in failed).",
           (WORKER,), _TASK),
    Metric("celery_task_ignored_total", COUNTER,
           "Messages whose delivery had ended, was not due, or was held by another worker: "
           "duplicates, harmless. Also attempts that another one had overtaken, that could not "
           "note their success (and are made again), or that raised Ignore.", (WORKER,), _TASK),
    Metric("celery_task_timeouts_total", COUNTER,
           "Attempts that met a time limit. kind: soft (an exception in the task) or hard (its "
           "process was killed; also in failed, once).", (WORKER,), (*_TASK, "kind")),
    Metric("celery_task_worker_lost_total", COUNTER,
           "Attempts whose pool process died: out of memory, kill -9, a crash in C code. Those of "
           "durable tasks are also in retried.",
           (WORKER,), _TASK),
    Metric("celery_task_redelivered_total", COUNTER,
           "Messages that the broker gave out once more: their worker was killed, or gave them "
           "back (when it stopped, when a task asked for it, while the database was away).",
           (WORKER,), _TASK),
    Metric("celery_task_without_enqueue_time_total", COUNTER,
           "Messages that do not say when they were published; their wait is not known.",
           (WORKER,), _TASK),
    Metric("celery_task_unknown_total", COUNTER,
           "Messages that a worker threw away because its code does not know their task. A durable "
           "task is published again; any other is lost.", (WORKER,), _QUEUE),
    Metric("celery_task_sent_total", COUNTER,
           "Messages published by this process. Pool processes of workers publish too and are not "
           "counted; for arrivals at workers see celery_task_received_total.",
           (WEB, BEAT, RELAY), _TASK),
    Metric("celery_task_runtime", HISTOGRAM,
           "Seconds that attempts ran, whatever their end.", (WORKER,), _TASK, RUNTIME_BUCKETS),
    Metric("celery_task_queue_wait_time", HISTOGRAM,
           "Seconds from publication, or from the eta if that is later, to the start of the "
           "attempt.",
           (WORKER,), _QUEUE, WAIT_BUCKETS),
    Metric("celery_sli_queueing_total", COUNTER,
           "Attempts whose wait is known: the base of the promise about waiting.",
           (WORKER,), _QUEUE),
    Metric("celery_sli_queueing_good_total", COUNTER,
           "Those that waited no longer than their queue's target (celery_queue_slo_seconds).",
           (WORKER,), _QUEUE),
    Metric("celery_sli_execution_total", COUNTER,
           "Tasks that came to an end: succeeded, failed for good, timed out; the relay counts "
           "those that it buries (their workers died, or no code has them). Sum over both.",
           (WORKER, RELAY), _TASK),
    Metric("celery_sli_execution_good_total", COUNTER,
           "Those that succeeded.", (WORKER,), _TASK),
    # --- workers ---------------------------------------------------------------------------------
    Metric("celery_worker_up", GAUGE,
           "1 while the worker's main process answers; the series ends with it.",
           (WORKER,), ("hostname",)),
    Metric("celery_worker_tasks_active", GAUGE,
           "Attempts that run at this moment.", (WORKER,), ("hostname",)),
    Metric("celery_worker_requests", GAUGE,
           "Messages in the worker's hands. state: active (running), prefetched (waiting for a "
           "pool process), scheduled (waiting for their eta).", (WORKER,), ("state",)),
    Metric("celery_worker_pool_slots", GAUGE,
           "Attempts that the worker can run at the same time.", (WORKER,)),
    Metric("celery_worker_consuming", GAUGE,
           "1 while the worker takes messages, 0 while it is paused or without a broker.",
           (WORKER,)),
    Metric("celery_worker_queue_subscription", GAUGE,
           "1 for each queue that the worker takes messages from.", (WORKER,), _QUEUE),
    Metric("celery_worker_oldest_active_task_seconds", GAUGE,
           "Age of the longest running attempt of each task that runs.", (WORKER,), ("name",)),
    Metric("celery_worker_clock_timestamp_seconds", GAUGE,
           "What the worker's clock says at the scrape. Waits compare it with the publisher's.",
           (WORKER,)),
    Metric("celery_worker_children_rss_bytes", GAUGE,
           "Resident memory of the pool processes together, in bytes. Shared pages count in each.",
           (WORKER,)),
    Metric("celery_worker_memory_limit_bytes", GAUGE,
           "Memory limit of the worker's control group, in bytes; 0 where there is none.",
           (WORKER,)),
    # --- the broker, as the exporter reads it -----------------------------------------------------
    Metric("celery_broker_up", GAUGE, "1 when the broker answered this scrape.", (EXPORTER,)),
    Metric("celery_queue_length", GAUGE,
           "Messages that wait in the queue, all priorities.", (EXPORTER,), _QUEUE),
    Metric("celery_queue_length_by_priority", GAUGE,
           "Messages that wait, by the broker's priority step (0 goes first).",
           (EXPORTER,), ("queue_name", "priority")),
    Metric("celery_queue_oldest_message_age_seconds", GAUGE,
           "Seconds since the message that goes next was published, or was due if that is later; 0 "
           "for an empty queue.", (EXPORTER,), _QUEUE),
    Metric("celery_queue_slo_seconds", GAUGE,
           "Seconds that a message of the queue may wait (config/topology.py).",
           (EXPORTER,), _QUEUE),
    Metric("celery_queue_time_limit_seconds", GAUGE,
           "Seconds after which a task of the queue is killed (config/topology.py).",
           (EXPORTER,), _QUEUE),
    Metric("celery_broker_unacked", GAUGE,
           "Messages delivered to workers and not yet acknowledged.", (EXPORTER,)),
    Metric("celery_broker_unacked_oldest_age_seconds", GAUGE,
           "Seconds since the oldest of them was delivered; 0 without any.", (EXPORTER,)),
    Metric("celery_broker_unacked_past_visibility", GAUGE,
           "Those that are older than the visibility timeout, and should have been handed to "
           "another worker.", (EXPORTER,)),
    Metric("celery_broker_visibility_timeout_seconds", GAUGE,
           "Seconds without an acknowledgement after which a message is delivered again.",
           (EXPORTER,)),
    Metric("celery_broker_eta_backlog", GAUGE,
           "Messages in the hands of workers that wait for their eta, found by the last scan.",
           (EXPORTER,), _QUEUE),
    Metric("celery_broker_eta_beyond_visibility", GAUGE,
           "Those due later than the visibility timeout allows: they will run more than once.",
           (EXPORTER,), _QUEUE),
    Metric("celery_broker_scan_truncated", GAUGE,
           "1 when the last scan met its limit, so that the two numbers above are too low.",
           (EXPORTER,)),
    Metric("celery_broker_scan_duration_seconds", GAUGE,
           "Seconds that the last scan took.", (EXPORTER,)),
    # --- the ledger, as the exporter reads it -----------------------------------------------------
    Metric("celery_database_up", GAUGE, "1 when the database answered this scrape.", (EXPORTER,)),
    Metric("celery_deliveries", GAUGE,
           "Durable tasks by state: waiting (due, no worker has it), scheduled (due later), "
           "running, dead.", (EXPORTER,), ("queue_name", "state")),
    Metric("celery_delivery_oldest_waiting_age_seconds", GAUGE,
           "Seconds since the longest waiting durable task was due or published last; 0 without "
           "any. Also right while the broker is down.", (EXPORTER,), _QUEUE),
    Metric("celery_deliveries_overdue", GAUGE,
           "Durable tasks that the relay should have looked at two minutes ago.",
           (EXPORTER,), _QUEUE),
    Metric("celery_dead_letters", GAUGE,
           "Tasks that failed for good and wait for a decision.", (EXPORTER,), ("name",)),
    Metric("celery_dead_letter_oldest_age_seconds", GAUGE,
           "Seconds since the oldest of them died; 0 without any.", (EXPORTER,)),
    Metric("celery_quarantined_messages", GAUGE,
           "Messages that were refused (not signed, altered, malformed) and are kept for a look.",
           (EXPORTER,)),
    Metric("celery_quarantine_last_received_timestamp_seconds", GAUGE,
           "When the last one was refused; 0 without any.", (EXPORTER,)),
    Metric("celery_canary_last_success_timestamp_seconds", GAUGE,
           "When the last canary of the queue came through (sent every minute by beat); no "
           "series before the first.",
           (EXPORTER,), _QUEUE),
    Metric("celery_processes", GAUGE,
           "Processes that are there, by what they say of themselves.",
           (EXPORTER,), ("service", "state")),
    Metric("celery_exporter_last_success_timestamp_seconds", GAUGE,
           "When the source was last read. source: broker, broker_scan, database.",
           (EXPORTER,), ("source",)),
    Metric("celery_exporter_read_duration_seconds", GAUGE,
           "Seconds that the last reading of the source took.", (EXPORTER,), ("source",)),
    # --- beat -----------------------------------------------------------------------------------
    Metric("celery_beat_last_tick_timestamp_seconds", GAUGE,
           "When beat last looked at its schedule, leading or standing by.", (BEAT,)),
    Metric("celery_beat_leader", GAUGE, "1 on the beat that sends, 0 on one that stands by.",
           (BEAT,)),
    Metric("celery_beat_entries", GAUGE, "Enabled entries of the schedule that it holds.", (BEAT,)),
    Metric("celery_beat_entry_last_sent_timestamp_seconds", GAUGE,
           "When the entry was last sent.", (BEAT,), ("entry",)),
    Metric("celery_beat_entry_interval_seconds", GAUGE,
           "Seconds between two occurrences of the entry.", (BEAT,), ("entry",)),
    Metric("celery_beat_sent_total", COUNTER, "Occurrences that were sent.", (BEAT,), ("entry",)),
    Metric("celery_beat_publish_failures_total", COUNTER,
           "Occurrences that could not be sent.", (BEAT,), ("entry",)),
    Metric("celery_beat_schedule_lag_seconds", HISTOGRAM,
           "Seconds from the moment an entry was due to the moment it was sent.",
           (BEAT,), (), LAG_BUCKETS),
    # --- relay ----------------------------------------------------------------------------------
    Metric("celery_relay_last_round_timestamp_seconds", GAUGE,
           "When the relay last finished a round without an error.", (RELAY,)),
    Metric("celery_relay_published_total", COUNTER,
           "Messages published by the relay: retries, etas, and what was lost on its way.",
           (RELAY,), _QUEUE),
    Metric("celery_relay_round_failures_total", COUNTER,
           "Rounds that ended in an error: the database or the broker was away.", (RELAY,)),
    Metric("celery_relay_unpublishable_total", COUNTER,
           "Deliveries set aside because no code has their task, or they cannot be encoded.",
           (RELAY,), ("name",)),
    Metric("celery_relay_broker_data_losses_total", COUNTER,
           "Times that the broker had lost its data, and everything was published again.",
           (RELAY,)),
    # --- web (beside what django-prometheus exports) ---------------------------------------------
    Metric("web_publishing_failures_total", COUNTER,
           "Times that a request left publishing to the relay because the broker was away.",
           (WEB,)),
    Metric("web_sockets_open", GAUGE, "WebSockets that are open.", (WEB,)),
    Metric("web_sockets_opened_total", COUNTER, "WebSockets that were opened.", (WEB,)),
    Metric("web_sockets_refused_total", COUNTER,
           "WebSockets that were refused: no permission, too many.", (WEB,)),
    Metric("web_rate_limited_total", COUNTER,
           "Requests answered with 429. limit: api or sign_in.", (WEB,), ("limit",)),
    Metric("web_database_pool_connections", GAUGE,
           "Connections of the pool. state: in_use, idle; limit is the most it may hold.",
           (WEB,), ("state",)),
    Metric("web_migrations_unapplied", GAUGE,
           "Migrations that the code has and the database has not, at the last readiness probe.",
           (WEB,)),
    Metric("celeriac_build_info", GAUGE,
           "1; the labels say what runs.",
           (WORKER, BEAT, RELAY, EXPORTER, WEB), ("version", "revision")),
)  # fmt: skip

BY_NAME: Final = {metric.name: metric for metric in METRICS}


def served_by(job: str) -> tuple[Metric, ...]:
    """Return the metrics of one job."""
    return tuple(metric for metric in METRICS if job in metric.served_by)
