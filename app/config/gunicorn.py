"""Gunicorn's configuration for the web role.

https://docs.gunicorn.org/en/stable/settings.html
"""

import os
from pathlib import Path
from typing import Any

import structlog

from telemetry import metrics_files
from telemetry.logs import standard_library_configuration

logger = structlog.get_logger(__name__)

bind = f"{os.environ.get('BIND_HOST', '0.0.0.0')}:{os.environ.get('WEB_PORT', '8000')}"  # noqa: S104
workers = int(os.environ.get("WEB_CONCURRENCY", "2"))
worker_class = "config.gunicorn_worker.Worker"
# Heartbeat files of the workers: in memory, because a slow disk would look like a stuck worker.
worker_tmp_dir = "/dev/shm" if Path("/dev/shm").is_dir() else None  # noqa: S108
# Loaded once and shared by the workers: half the start-up, less memory. Nothing connects anywhere
# before the fork.
preload_app = True
timeout = 30
graceful_timeout = 20
keepalive = 75
max_requests = 10_000
max_requests_jitter = 1_000
# Requests are logged by django-structlog, with their ids.
accesslog = None
logconfig_dict = standard_library_configuration(
    {
        "level": os.environ.get("LOG_LEVEL", "INFO"),
        "format": os.environ.get("LOG_FORMAT", "json"),
        "service": os.environ.get("SERVICE_NAME", "web"),
    }
)
# Who may set X-Forwarded-Proto and X-Forwarded-For: addresses or networks of the proxies in front.
forwarded_allow_ips = os.environ.get("FORWARDED_ALLOW_IPS", "127.0.0.1")
# Nobody controls gunicorn through a socket here, and the root file system is read-only.
control_socket_disable = True

# Now, not in gunicorn's on_starting: the application is loaded before that, and has metrics.
metrics_files.prepare()


def child_exit(_server: Any, worker: Any) -> None:
    """Keep what an ended process has counted.

    Whatever goes wrong: an error here would end gunicorn's main process, and so the role.
    """
    try:
        metrics_files.retire(worker.pid)
    except Exception:
        logger.exception("metrics_of_a_process_lost", process=worker.pid)
