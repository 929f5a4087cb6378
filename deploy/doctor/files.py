"""Reads the files that the static checks compare."""

import re
from pathlib import Path

import yaml

from config import topology
from deploy.doctor import static
from deploy.doctor.findings import Finding, skip
from deploy.stack import environment
from deploy.stack.errors import StackError

#: Where a variable of .env may be read.
READERS = (
    "app/config/*.py", "app/housekeeping/management/commands/*.py", "deploy/stack/*.py",
    "deploy/embedded/*.py", "deploy/docker/*", "docker-compose.yml",
)  # fmt: skip


def check(root: Path) -> list[Finding]:
    """Make every static check of a working tree.

    Raises:
        StackError: A file does not say what it is read for.
    """
    compose = yaml.safe_load((root / "docker-compose.yml").read_text(encoding="utf-8"))
    services: static.Services = compose["services"]
    example = (root / ".env.example").read_text(encoding="utf-8")
    described = set(re.findall(r"^#?([A-Z][A-Z0-9_]+)=", example, re.MULTILINE))
    sources = _sources(root)
    workers = sorted({queue.worker for queue in topology.QUEUES})
    findings: list[Finding] = [
        *static.consumers(services, workers),
        *static.stopping(
            services, [name for name in workers if name in services], _warm_shutdown(root)
        ),
        *static.visibility(
            topology.VISIBILITY_TIMEOUT_SECONDS,
            max(queue.hard_time_limit_seconds for queue in topology.QUEUES),
            _longest_delay(root),
            topology.STOP_GRACE_SECONDS,
        ),
        *static.time_limits(
            {
                queue.name: (queue.soft_time_limit_seconds, queue.hard_time_limit_seconds)
                for queue in topology.QUEUES
            }
        ),
        *static.probes(services),
        *static.signals(
            services,
            (root / "deploy/docker/entrypoint").read_text(encoding="utf-8"),
            (root / "deploy/docker/Dockerfile").read_text(encoding="utf-8"),
        ),
        *static.durable_broker(services),
        *static.example_settings(described, sources),
    ]
    if not (root / ".env").exists():
        return [*findings, *skip(".env", "there is none; `make up` writes it")]
    values = environment.parse((root / ".env").read_text(encoding="utf-8"))
    findings += static.env_settings(values, sources)
    findings += static.filled_secrets(values, environment.generation_rules(example))
    return findings


def _sources(root: Path) -> str:
    paths = [path for pattern in READERS for path in sorted(root.glob(pattern)) if path.is_file()]
    return "\n".join(path.read_text(encoding="utf-8") for path in paths)


def _warm_shutdown(root: Path) -> int:
    """Return the seconds in which running tasks may finish: from .env, else the default."""
    values = environment.load(root)
    return int(values.get("WORKER_WARM_SHUTDOWN_SECONDS") or topology.WARM_SHUTDOWN_SECONDS)


def _longest_delay(root: Path) -> int:
    """Return the longest pause before a plain task is tried again, in seconds."""
    source = (root / "app/delivery/tasks.py").read_text(encoding="utf-8")
    found = re.search(r"^    retry_backoff_max = (\d+)$", source, re.MULTILINE)
    if found is None:
        raise StackError("app/delivery/tasks.py does not say retry_backoff_max")
    return int(found[1])
