"""Serves ``/metrics`` of a role that is no web server, from a thread of its main process."""

from __future__ import annotations

import os
import threading
from typing import Any

import structlog
from django.conf import settings
from prometheus_client import CollectorRegistry, ProcessCollector, make_wsgi_app

from telemetry import http_server
from telemetry.instruments import gauge

logger = structlog.get_logger(__name__)

#: The metrics of this process. Not prometheus-client's own, which libraries fill as they like.
REGISTRY = CollectorRegistry()
#: Memory, processor time and start of the main process: restarts and leaks are seen by them.
ProcessCollector(registry=REGISTRY)


def serve() -> Any | None:
    """Serve ``REGISTRY`` on ``METRICS_PORT``; returns the server, or None where the port is 0.

    A port that is taken is an error in the log, not the end of the role: work goes on unseen, and
    Prometheus says so (``up`` is 0).
    """
    if not settings.METRICS_PORT:
        return None
    gauge("celeriac_build_info", REGISTRY).labels(settings.VERSION, settings.REVISION).set(1)
    try:
        server = http_server.listen(
            make_wsgi_app(REGISTRY), settings.BIND_HOST, settings.METRICS_PORT
        )
    except OSError as error:
        logger.error("metrics_not_served", port=settings.METRICS_PORT, error=str(error))  # noqa: TRY400 - the traceback says nothing more
        return None
    # A pool process must not hold the port after its parent was killed.
    os.register_at_fork(after_in_child=server.socket.close)
    threading.Thread(target=server.serve_forever, name="metrics", daemon=True).start()
    return server
