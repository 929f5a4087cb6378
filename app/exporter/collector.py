"""From readings to metrics: every one that the table says this job serves, and nothing else.

A source that is away has its families without samples, so that no old number passes for a new one.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector
from redis import Redis

from config import topology
from exporter import broker
from exporter.broker import BrokerReading
from exporter.ledger import Ledger, LedgerReading, Open
from exporter.scan import QUEUES_LIMIT, Scan, Scanner
from exporter.source import Source
from telemetry.catalogue import EXPORTER, served_by
from telemetry.instruments import gauge_family

#: Queues of the table; their series are always there.
KNOWN = tuple(queue.name for queue in topology.QUEUES)


class Families:
    """The families of one scrape, in the order of the table."""

    def __init__(self) -> None:
        self._by_name = {metric.name: gauge_family(metric.name) for metric in served_by(EXPORTER)}

    def add(self, name: str, value: float, *labels: str) -> None:
        """Add a sample."""
        self._by_name[name].add_metric(labels, value)

    def __iter__(self) -> Iterator[GaugeMetricFamily]:
        return iter(self._by_name.values())


class ExporterCollector(Collector):
    """Asks both servers at the same time, and says what they said."""

    def __init__(
        self, redis: Redis, ledger: Ledger, scanner: Scanner, *, version: str, revision: str
    ) -> None:
        """Take what reads, and what ``celeriac_build_info`` says."""
        self._scanner = scanner
        self._build = (version, revision)
        self._broker = Source("broker", lambda: self._read_broker(redis))
        self._database = Source("database", ledger.read)

    def describe(self) -> Iterable[GaugeMetricFamily]:
        """Return nothing: to register must not wait for servers."""
        return ()

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield the metrics of this moment."""
        families = Families()
        self._broker.begin()
        self._database.begin()
        broker_reading, ledger_reading = self._broker.result(), self._database.result()
        families.add("celeriac_build_info", 1, *self._build)
        _add_promises(families)
        families.add("celery_broker_up", float(broker_reading is not None))
        if broker_reading is not None:
            _add_broker(families, broker_reading)
        found = self._scanner.last
        if found is not None:
            _add_scan(families, found)
        families.add("celery_database_up", float(ledger_reading is not None))
        if ledger_reading is not None:
            _add_ledger(families, ledger_reading)
        self._add_freshness(families, found)
        yield from families

    def _read_broker(self, redis: Redis) -> BrokerReading:
        found = self._scanner.last
        foreign = sorted(found.queues - set(KNOWN))[:QUEUES_LIMIT] if found else []
        return broker.read(redis, [*KNOWN, *foreign], topology.VISIBILITY_TIMEOUT_SECONDS)

    def _add_freshness(self, families: Families, found: Scan | None) -> None:
        for source in (self._broker, self._database):
            families.add(
                "celery_exporter_last_success_timestamp_seconds", source.succeeded_at, source.name
            )
            families.add("celery_exporter_read_duration_seconds", source.seconds, source.name)
        families.add(
            "celery_exporter_last_success_timestamp_seconds",
            self._scanner.succeeded_at,
            "broker_scan",
        )
        if found is not None:
            families.add("celery_exporter_read_duration_seconds", found.seconds, "broker_scan")


def _add_promises(families: Families) -> None:
    for queue in topology.QUEUES:
        families.add("celery_queue_slo_seconds", queue.wait_target_seconds, queue.name)
        families.add("celery_queue_time_limit_seconds", queue.hard_time_limit_seconds, queue.name)
    families.add("celery_broker_visibility_timeout_seconds", topology.VISIBILITY_TIMEOUT_SECONDS)


def _add_broker(families: Families, reading: BrokerReading) -> None:
    for name, queue in reading.queues.items():
        families.add("celery_queue_length", sum(queue.lengths.values()), name)
        for step, length in queue.lengths.items():
            families.add("celery_queue_length_by_priority", length, name, str(step))
        if queue.oldest is not None:
            families.add("celery_queue_oldest_message_age_seconds", queue.oldest, name)
    families.add("celery_broker_unacked", reading.unacked)
    families.add("celery_broker_unacked_oldest_age_seconds", reading.unacked_oldest)
    families.add("celery_broker_unacked_past_visibility", reading.unacked_past_visibility)


def _add_scan(families: Families, found: Scan) -> None:
    for name in dict.fromkeys((*KNOWN, *found.waiting)):
        families.add("celery_broker_eta_backlog", found.waiting.get(name, 0), name)
        families.add("celery_broker_eta_beyond_visibility", found.beyond.get(name, 0), name)
    families.add("celery_broker_scan_truncated", float(found.truncated))
    families.add("celery_broker_scan_duration_seconds", found.seconds)


def _add_ledger(families: Families, reading: LedgerReading) -> None:
    for name in dict.fromkeys((*KNOWN, *reading.open, *reading.dead_by_queue)):
        queue = reading.open.get(name, Open())
        counts = {
            "waiting": queue.waiting,
            "scheduled": queue.scheduled,
            "running": queue.running,
            "dead": reading.dead_by_queue.get(name, 0),
        }
        for state, count in counts.items():
            families.add("celery_deliveries", count, name, state)
        families.add("celery_delivery_oldest_waiting_age_seconds", queue.oldest, name)
        families.add("celery_deliveries_overdue", queue.overdue, name)
    for task, count in reading.dead_by_task.items():
        families.add("celery_dead_letters", count, task)
    families.add("celery_dead_letter_oldest_age_seconds", reading.dead_oldest)
    families.add("celery_quarantined_messages", reading.quarantined)
    families.add("celery_quarantine_last_received_timestamp_seconds", reading.quarantined_at)
    # None yet is no series, not 0: on a new stack the alert would take that for half a century.
    for name, moment in (reading.canaries or {}).items():
        families.add("celery_canary_last_success_timestamp_seconds", moment, name)
    for (service, state), count in reading.processes.items():
        families.add("celery_processes", count, service, state)
