"""All dashboards, in the order in which a reader meets them."""

from deploy.grafana.dashboards import broker, schedule, web_database
from deploy.grafana.dashboards.builder import Dashboard


def dashboards() -> tuple[Dashboard, ...]:
    """Return every dashboard."""
    return (
        schedule.dashboard(),
        broker.dashboard(),
        web_database.dashboard(),
    )
