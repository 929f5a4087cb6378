"""The host ports of the stack, and a check that they are free before anything starts."""

import errno
import socket
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from deploy.stack.errors import StackError

HOST = "127.0.0.1"


@dataclass(frozen=True)
class Port:
    """One published port: the setting that holds its number and what listens there."""

    variable: str
    default: int
    service: str
    purpose: str
    embedded_only: bool = False

    def number(self, values: Mapping[str, str]) -> int:
        """Return the port number; raises StackError when the setting is not one."""
        text = values.get(self.variable) or str(self.default)
        if not (text.isascii() and text.isdigit() and 1 <= int(text) <= 65535):
            raise StackError(f"{self.variable} must be a port from 1 to 65535, not {text!r}")
        return int(text)


WEB = Port("WEB_PORT", 8000, "web", "the web console and the API")
FLOWER = Port("FLOWER_PORT", 5555, "flower", "Flower")
MAIL_WEB = Port("MAIL_WEB_PORT", 8025, "mail", "the mail sink's web page")
PROMETHEUS = Port("PROMETHEUS_PORT", 9090, "prometheus", "Prometheus")
ALERTMANAGER = Port("ALERTMANAGER_PORT", 9093, "alertmanager", "Alertmanager")
GRAFANA = Port("GRAFANA_PORT", 3000, "grafana", "Grafana")
MAIL_SMTP = Port("MAIL_SMTP_PORT", 1025, "mail", "the mail sink's SMTP", embedded_only=True)
EXPORTER = Port("EXPORTER_PORT", 9808, "celery-exporter", "the Celery exporter", embedded_only=True)
WORKER_METRICS = Port(
    "WORKER_METRICS_PORT", 9811, "worker", "the worker's metrics", embedded_only=True
)
WORKER_BULK_METRICS = Port(
    "WORKER_BULK_METRICS_PORT", 9812, "worker-bulk", "worker-bulk's metrics", embedded_only=True
)
BEAT_METRICS = Port("BEAT_METRICS_PORT", 9813, "beat", "beat's metrics", embedded_only=True)
RELAY_METRICS = Port("RELAY_METRICS_PORT", 9814, "relay", "the relay's metrics", embedded_only=True)
REDIS_EXPORTER = Port(
    "REDIS_EXPORTER_PORT", 9121, "redis-exporter", "the Redis exporter", embedded_only=True
)
POSTGRES_EXPORTER = Port(
    "POSTGRES_EXPORTER_PORT",
    9187,
    "postgres-exporter",
    "the PostgreSQL exporter",
    embedded_only=True,
)
POSTGRES = Port("POSTGRES_PORT", 55432, "postgres", "PostgreSQL", embedded_only=True)
REDIS = Port("REDIS_PORT", 56379, "redis", "Redis", embedded_only=True)

_PUBLISHED = (WEB, FLOWER, MAIL_WEB, PROMETHEUS, ALERTMANAGER, GRAFANA)
_METRICS = (
    EXPORTER, WORKER_METRICS, WORKER_BULK_METRICS, BEAT_METRICS, RELAY_METRICS, REDIS_EXPORTER,
    POSTGRES_EXPORTER,
)  # fmt: skip
ALL = (*_PUBLISHED, MAIL_SMTP, *_METRICS, POSTGRES, REDIS)


def check(ports: Collection[Port], values: Mapping[str, str], held: Collection[int] = ()) -> None:
    """Raise StackError naming every port that is taken, given twice or not allowed.

    `held` are the ports our own running stack listens on: those are in order.
    """
    problems = []
    owners: dict[int, Port] = {}
    for port in ports:
        number = port.number(values)
        other = owners.setdefault(number, port)
        if other is not port:
            problems.append(
                f"{number} is both {other.variable} and {port.variable}: give them different ports"
            )
        elif number not in held and (reason := _reason_not_free(number)):
            problems.append(
                f"{number} for {port.purpose} {reason}: "
                f"free it, or set {port.variable} in .env to another port"
            )
    if problems:
        raise StackError("\n  ".join(["these ports cannot be used:", *problems]))


def _reason_not_free(number: int) -> str | None:
    with socket.socket() as client:
        client.settimeout(1)
        if client.connect_ex((HOST, number)) == 0:
            return "is in use"
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listener.bind((HOST, number))
        except OSError as error:
            denied = error.errno in (errno.EACCES, errno.EPERM)
            return "needs root" if denied else "is in use"
    return None
