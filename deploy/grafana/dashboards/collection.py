"""All dashboards, in the order in which a reader meets them."""

from deploy.grafana.dashboards import (
    broker,
    overview,
    queues,
    schedule,
    tasks,
    web_database,
    workers,
)
from deploy.grafana.dashboards.builder import Dashboard


def dashboards() -> tuple[Dashboard, ...]:
    """Return every dashboard."""
    return (
        overview.dashboard(),
        queues.dashboard(),
        tasks.dashboard(),
        workers.dashboard(),
        schedule.dashboard(),
        broker.dashboard(),
        web_database.dashboard(),
    )
