"""Checks of files: what docker-compose.yml, topology.py, the settings and .env say must agree.

Each takes plain data and returns findings, so that a test can plant a fault.
"""

import re
from collections.abc import Collection, Iterator, Mapping
from typing import Any

from deploy.doctor.findings import Finding, judge

#: Seconds that a stopping pool may stand still for no reason (docs/decisions/0008).
POOL_STALL_SECONDS = 32
#: Services of docker-compose.yml that run our image, by the beginning of its name.
OUR_IMAGE = "celeriac:"

Services = Mapping[str, Mapping[str, Any]]


def stopping(
    services: Services, workers: Collection[str], warm_shutdown_seconds: int
) -> list[Finding]:
    """A worker's grace must be longer than its warm shutdown and the stall after it."""
    needed = warm_shutdown_seconds + POOL_STALL_SECONDS
    return judge(
        "workers have time to stop",
        [
            f"{name} is killed after {grace:g} s, while stopping may take {needed} s: raise "
            "stop_grace_period, or lower WORKER_WARM_SHUTDOWN_SECONDS"
            for name in workers
            if (grace := seconds(services[name].get("stop_grace_period", "10s"))) <= needed
        ],
    )


def visibility(
    visibility_seconds: int,
    longest_task_seconds: int,
    longest_delay_seconds: int,
    grace_seconds: int,
) -> list[Finding]:
    """Redis must not give a message to a second worker while the first one has it."""
    needed = max(2 * longest_task_seconds + grace_seconds, longest_delay_seconds)
    fault = (
        f"a message is given out again after {visibility_seconds} s, while one may wait behind a "
        f"task, run and stop for {needed} s: raise VISIBILITY_TIMEOUT_SECONDS in "
        "app/config/topology.py"
    )
    return judge(
        "no message is given to a second worker", [fault] if visibility_seconds <= needed else []
    )


def time_limits(limits: Mapping[str, tuple[int, int]]) -> list[Finding]:
    """A task must get its soft limit before its process is killed (queue: soft, hard)."""
    return judge(
        "tasks may tidy up before they are killed",
        [
            f"queue {queue}: the soft limit of {soft} s is not below the hard one of {hard} s; "
            "see app/config/topology.py"
            for queue, (soft, hard) in limits.items()
            if soft >= hard
        ],
    )


def consumers(services: Services, workers: Collection[str]) -> list[Finding]:
    """Each worker service of the table of queues must exist, or its queues are never read."""
    found = {
        service.get("environment", {}).get("WORKER_SERVICE")
        for service in services.values()
        if service.get("environment")
    }
    return judge(
        "every queue has a worker",
        [
            f"no service has WORKER_SERVICE: {worker}, so its queues are never read; add one to "
            "docker-compose.yml or change app/config/topology.py"
            for worker in workers
            if worker not in found
        ],
    )


def probes(services: Services) -> list[Finding]:
    """A probe that takes longer than its interval piles up."""
    faults = []
    for name, service in services.items():
        check = service.get("healthcheck")
        if check is None:
            if service.get("restart") != "no":
                faults.append(f"{name} has no healthcheck: a stuck one would not be noticed")
            continue
        timeout = seconds(check.get("timeout", "30s"))
        interval = seconds(check.get("interval", "30s"))
        if timeout >= interval:
            faults.append(
                f"{name}: the probe's timeout of {timeout:g} s is not below its interval of "
                f"{interval:g} s; lower the timeout"
            )
    return judge("probes end before the next one starts", faults)


def signals(services: Services, entrypoint: str, dockerfile: str) -> list[Finding]:
    """TERM must reach the role: an init, an entry point in exec form, and exec inside it."""
    faults = [
        f"{name} has no init, so TERM right after its start would be ignored; set init: true"
        for name, service in services.items()
        if str(service.get("image", "")).startswith(OUR_IMAGE) and not service.get("init")
    ]
    if not re.search(r"^ENTRYPOINT \[", dockerfile, re.MULTILINE):
        faults.append("the Dockerfile's ENTRYPOINT is not a JSON array: a shell would get TERM")
    faults += [
        f"entrypoint: role {role} is not started with exec, so a shell would get TERM"
        for role, command in _roles(entrypoint)
        if not re.match(r"(exec|launch)\b", command)
    ]
    if "launch()" in entrypoint and not re.search(r"launch\(\) \{\s+exec ", entrypoint):
        faults.append("entrypoint: launch() does not use exec, so a shell would get TERM")
    return judge("TERM reaches every role", faults)


def _roles(entrypoint: str) -> Iterator[tuple[str, str]]:
    """Yield the roles of the entry point's last case, with the command that starts each."""
    cases = entrypoint.rpartition("\ncase ")[2].partition("\nesac")[0]
    for role, body in re.findall(r"^  ([a-z]+)\)\n(.*?)^    ;;", cases, re.MULTILINE | re.DOTALL):
        lines = [line.strip() for line in body.splitlines() if line.startswith("    ")]
        starting = [
            line for line in lines if re.match(r"(exec|launch|python|celery|gunicorn)\b", line)
        ]
        yield role, starting[0] if starting else ""


def durable_broker(services: Services) -> list[Finding]:
    """Redis must keep its queues: never evict, and write them to its disk."""
    command = " ".join(str(part) for part in services["redis"].get("command", []))
    faults = []
    if "--maxmemory-policy noeviction" not in command:
        faults.append("redis may evict messages when its memory is full; set noeviction")
    if "--appendonly yes" not in command:
        faults.append("redis forgets its queues at a restart; set appendonly yes")
    return judge("docker-compose.yml: redis keeps its queues", faults)


def env_settings(variables: Collection[str], sources: str) -> list[Finding]:
    """A variable in .env that nobody reads is a typing error, or a setting that is gone."""
    return judge(
        ".env: every variable is read by somebody",
        [
            f"nobody reads {name}; correct its name or remove it (see .env.example)"
            for name in sorted(variables)
            if not _is_named(name, sources) and not _is_named(name.removesuffix("_FILE"), sources)
        ],
    )


def example_settings(example: Collection[str], sources: str) -> list[Finding]:
    """A variable of .env.example that no file reads promises what it does not keep."""
    return judge(
        ".env.example: every variable is read by somebody",
        [
            f"no file reads {name}; remove it from .env.example"
            for name in sorted(example)
            if not _is_named(name, sources)
        ],
    )


def _is_named(name: str, sources: str) -> bool:
    return re.search(rf"\b{name}\b", sources) is not None


def filled_secrets(variables: Mapping[str, str], generated: Collection[str]) -> list[Finding]:
    """Secrets have no defaults, so each must have a value."""
    return judge(
        ".env: every secret has a value",
        [
            f"{name} is empty; `make up` fills it in"
            for name in generated
            if not variables.get(name)
        ],
    )


def seconds(text: str) -> float:
    """Read a duration of Compose: ``90s``, ``1m30s``, ``500ms``.

    Raises:
        ValueError: It is none.
    """
    units = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0}
    parts = re.findall(r"(\d+(?:\.\d+)?)(ms|s|m|h)", text)
    if "".join(number + unit for number, unit in parts) != text or not text:
        raise ValueError(f"not a duration: {text!r}")
    return sum(float(number) * units[unit] for number, unit in parts)
