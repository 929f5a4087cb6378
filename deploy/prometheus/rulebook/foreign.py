"""Metrics of other people's exporters that the rules use.

Each was seen in a scrape of the oldest and of the newest version that the stack meets:
redis_exporter 1.45 and 1.69, postgres_exporter 0.11 and 0.17, Prometheus 2.42, Alertmanager 0.25;
those of django-prometheus 2.4 were read in its source.
"""

from __future__ import annotations

from typing import Final

NAMES: Final = frozenset(
    {
        # Prometheus makes it for each target.
        "up",
        # prometheus-client, on Linux
        "process_start_time_seconds",
        # redis_exporter
        "redis_aof_last_bgrewrite_status",
        "redis_aof_last_write_status",
        "redis_evicted_keys_total",
        "redis_instance_info",
        "redis_memory_max_bytes",
        "redis_memory_used_bytes",
        "redis_rdb_last_bgsave_status",
        "redis_rejected_connections_total",
        "redis_up",
        "redis_uptime_in_seconds",
        # postgres_exporter
        "pg_settings_max_connections",
        "pg_stat_activity_count",
        "pg_stat_activity_max_tx_duration",
        "pg_stat_database_deadlocks",
        "pg_up",
        # django-prometheus
        "django_http_requests_latency_seconds_by_view_method_bucket",
        "django_http_requests_latency_seconds_by_view_method_count",
        "django_http_responses_total_by_status_view_method_total",
        # Prometheus and Alertmanager
        "alertmanager_notifications_failed_total",
        "prometheus_notifications_dropped_total",
        "prometheus_notifications_errors_total",
        "prometheus_rule_evaluation_failures_total",
    }
)
