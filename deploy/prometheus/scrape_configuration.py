"""Whom Prometheus scrapes: one table of jobs, and the configuration files that follow from it.

Standard library only. ``python -m deploy.prometheus.scrape_configuration`` prints
``prometheus.yml``, the file of the Compose stack; the embedded runtime renders its own.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from deploy.stack import ports
from deploy.stack.ports import Port

#: What Kubernetes would give each target; here there is one cluster with one namespace.
LABELS: Final = {"cluster": "local", "namespace": "celeriac"}
#: Seconds between two scrapes of a target, and between two evaluations of the rules.
INTERVAL_SECONDS: Final = 15.0
#: Not shorter, however fast the clock of the alerts runs: a scrape must have an end.
SHORTEST_INTERVAL_SECONDS: Final = 1.0
#: Seconds that a scrape may take: Prometheus' own default.
LONGEST_SCRAPE_SECONDS: Final = 10.0
#: Where worker, beat and relay serve metrics in a container (``METRICS_PORT``).
METRICS_PORT: Final = 9811


@dataclass(frozen=True, slots=True)
class Target:
    """Something that is scraped.

    Attributes:
        service: Its name in the stack, which is its address in a network of containers.
        container_port: Where it serves metrics there.
        embedded_port: Where it does so as a process of this machine; None: it is never one.
    """

    service: str
    container_port: int
    embedded_port: Port | None


@dataclass(frozen=True, slots=True)
class Job:
    """One job of Prometheus.

    Attributes:
        name: The label ``job`` of all its series.
        targets: Who is scraped.
        replicated: There may be several of each of its services (``docker compose up --scale``),
            or none: found by name, with the label ``service``.
        relabelling: Rules for its series, before they are stored.
        expected: Whether something is wrong when nothing of it is there.
    """

    name: str
    targets: tuple[Target, ...]
    replicated: bool = False
    relabelling: tuple[str, ...] = ()
    expected: bool = True


#: What becomes of the public exporter's series. Its names are ours: rules and dashboards would add
#: them up, and count each task twice. Its questions to workers reach nobody, so what these should
#: answer is always 0. Each counter has a second series with the time of its birth.
UPSTREAM_RELABELLING: Final = (
    '{source_labels: [__name__], regex: "celery_active_.+|.+_created", action: drop}',
    (
        '{source_labels: [__name__], regex: "(celery_.+)", target_label: __name__, '
        "replacement: upstream_$1}"
    ),
)

JOBS: Final = (
    Job(
        "celery-worker",
        (
            Target("worker", METRICS_PORT, ports.WORKER_METRICS),
            Target("worker-bulk", METRICS_PORT, ports.WORKER_BULK_METRICS),
        ),
        replicated=True,
    ),
    Job("celery-beat", (Target("beat", METRICS_PORT, ports.BEAT_METRICS),), replicated=True),
    Job("celery-relay", (Target("relay", METRICS_PORT, ports.RELAY_METRICS),), replicated=True),
    Job("web", (Target("web", 8000, ports.WEB),), replicated=True),
    # Not replicated: it has a metric with a label "service" of its own.
    Job("celery-exporter", (Target("celery-exporter", 9808, ports.EXPORTER),)),
    Job("redis", (Target("redis-exporter", 9121, ports.REDIS_EXPORTER),)),
    Job("postgres", (Target("postgres-exporter", 9187, ports.POSTGRES_EXPORTER),)),
    Job("prometheus", (Target("prometheus", 9090, ports.PROMETHEUS),)),
    Job("alertmanager", (Target("alertmanager", 9093, ports.ALERTMANAGER),)),
    # Found by name, because most do not run it: what is not found is no target, and cannot be down.
    Job(
        "upstream-exporter",
        (Target("upstream-exporter", 9808, None),),
        replicated=True,
        relabelling=UPSTREAM_RELABELLING,
        expected=False,
    ),
)

_HEADER: Final = """\
# What Prometheus does in the Compose stack. Written by `make prometheus-configuration` from
# deploy/prometheus/scrape_configuration.py: change it there.
"""


def interval(time_scale: float) -> float:
    """Return the seconds between two scrapes when windows have that share of their length."""
    return max(SHORTEST_INTERVAL_SECONDS, INTERVAL_SECONDS * time_scale)


def for_containers() -> str:
    """Return ``prometheus.yml``: targets are found by name in the network of the containers."""
    [alertmanager] = _targets_of("alertmanager")
    lines = [_head(INTERVAL_SECONDS, "rules/*.yml", f"alertmanager:{alertmanager.container_port}")]
    for job in JOBS:
        lines.append(f"  - job_name: {job.name}")
        if job.replicated:
            lines.append("    dns_sd_configs:")
            lines += [
                f"      - {{names: [{target.service}], type: A, port: {target.container_port}, "
                "refresh_interval: 15s}"
                for target in job.targets
            ]
            lines.append("    relabel_configs:")
            lines += [
                f"      - {{target_label: {name}, replacement: {value}}}"
                for name, value in LABELS.items()
            ]
            lines.append(
                "      - {source_labels: [__meta_dns_name], target_label: service}",
            )
        else:
            addresses = [f"{target.service}:{target.container_port}" for target in job.targets]
            lines += _static(addresses, LABELS)
        if job.relabelling:
            lines.append("    metric_relabel_configs:")
            lines += [f"      - {rule}" for rule in job.relabelling]
    return _HEADER + "\n".join(lines) + "\n"


def for_this_machine(
    values: Mapping[str, str], *, present: frozenset[str], rules: Path, time_scale: float
) -> str:
    """Return the configuration of the embedded stack.

    Args:
        values: Settings; ports are taken from them.
        present: Services that run: what is left out is not scraped, else it would look broken.
        rules: The file with the rules.
        time_scale: Share of their length that the windows of the rules have; 1 in production.
    """
    [alertmanager] = _targets_of("alertmanager")
    address = _address(alertmanager, values) if alertmanager.service in present else ""
    lines = [_head(interval(time_scale), json.dumps(str(rules)), address)]
    for job in JOBS:
        targets = [target for target in job.targets if target.service in present]
        if targets:
            lines.append(f"  - job_name: {job.name}")
        if targets and job.replicated:
            lines.append("    static_configs:")
            for target in targets:
                labels = {**LABELS, "service": target.service}
                lines.append(f"      - {_group([_address(target, values)], labels)}")
        elif targets:
            lines += _static([_address(target, values) for target in targets], LABELS)
    return "\n".join(lines) + "\n"


def _targets_of(name: str) -> tuple[Target, ...]:
    [job] = [job for job in JOBS if job.name == name]
    return job.targets


def _address(target: Target, values: Mapping[str, str]) -> str:
    if target.embedded_port is None:
        raise ValueError(f"{target.service} is never a process of this machine")
    return f"{ports.HOST}:{target.embedded_port.number(values)}"


def _head(seconds: float, rules: str, alertmanager: str) -> str:
    alerting = (
        f"\nalerting:\n  alertmanagers:\n    - static_configs: [{{targets: [{alertmanager}]}}]\n"
        if alertmanager
        else ""
    )
    # Prometheus' own default, and never longer than the interval, which it refuses.
    timeout = min(LONGEST_SCRAPE_SECONDS, seconds)
    return (
        f"global:\n  scrape_interval: {_duration(seconds)}\n"
        f"  scrape_timeout: {_duration(timeout)}\n  evaluation_interval: {_duration(seconds)}\n\n"
        f"rule_files: [{rules}]\n{alerting}\nscrape_configs:"
    )


def _duration(seconds: float) -> str:
    return f"{seconds:.0f}s" if seconds == int(seconds) else f"{seconds * 1000:.0f}ms"


def _static(addresses: list[str], labels: Mapping[str, str]) -> list[str]:
    return ["    static_configs:", f"      - {_group(addresses, labels)}"]


def _group(addresses: list[str], labels: Mapping[str, str]) -> str:
    pairs = ", ".join(f"{name}: {value}" for name, value in labels.items())
    return f"{{targets: [{', '.join(map(json.dumps, addresses))}], labels: {{{pairs}}}}}"


if __name__ == "__main__":
    sys.stdout.write(for_containers())
