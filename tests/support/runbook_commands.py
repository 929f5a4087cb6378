"""Commands of the runbooks: found, put into the Kubernetes form, compared with what exists.

Each check raises AssertionError for what it does not know, so a new kind of command needs a line.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from uuid import uuid4

import yaml
from django.apps import apps
from django.core.management import get_commands, load_command_class

from console.probes import PROBES
from deploy.prometheus.rulebook import book, foreign
from deploy.prometheus.rulebook.pace import Pace
from deploy.prometheus.rulebook.rule import Recording
from telemetry.catalogue import BY_NAME, HISTOGRAM
from tests.support.roles import ROOT

ENTRY_POINT = "/opt/celeriac/deploy/docker/entrypoint"
COMPOSE = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
SERVICES = set(yaml.safe_load(COMPOSE)["services"])
STATEFUL = {"postgres", "redis"}
REDIS_COMMANDS = {
    "PING", "INFO", "CONFIG GET", "CONFIG SET", "CLIENT LIST", "CLIENT KILL", "LLEN", "LRANGE",
    "ZCARD", "ZRANGE", "EXISTS", "TTL", "DEL", "BGREWRITEAOF", "--bigkeys", "ACL LIST",
}  # fmt: skip
REDIS_SECTIONS = {"server", "clients", "memory", "persistence", "stats"}
REDIS_SETTINGS = {"appendonly", "maxmemory", "maxmemory*", "maxmemory-policy", "maxclients"}
PROMTOOL = {("query", "instant"), ("check", "healthy"), ("check", "rules")}
AMTOOL = {
    ("alert", "query"), ("alert", "add"), ("silence", "add"), ("silence", "query"),
    ("silence", "expire"), ("config", "routes"),
}  # fmt: skip
#: Columns of PostgreSQL's own views that the pages ask for.
SYSTEM_VIEWS = {
    "pg_stat_activity": {
        "pid", "application_name", "client_addr", "state", "state_change", "xact_start",
        "query_start", "query", "wait_event_type",
    },
    "pg_roles": {"rolname", "rolcanlogin", "rolconnlimit"},
    "pg_locks": {"pid", "locktype"},
    "pg_stat_database": {"datname", "deadlocks"},
}  # fmt: skip
SQL_WORDS = {
    "select", "from", "where", "and", "or", "not", "in", "is", "null", "as", "group", "order",
    "by", "desc", "limit", "like", "join", "using", "show", "alter", "system", "set", "interval",
    "max_connections",
}  # fmt: skip
OTHER_PROGRAMS = [["pg_isready", "-h", "127.0.0.1", "-U", "celeriac"], ["df", "-h", "/data"]]
PROMQL_WORDS = {"and", "or", "unless", "offset", "bool"}


@dataclass(frozen=True)
class Command:
    """A command as the reader pastes it, up to the first pipe."""

    text: str

    @property
    def words(self) -> list[str]:
        words = shlex.split(self.text)
        return words[: words.index("|")] if "|" in words else words

    @property
    def is_compose(self) -> bool:
        return self.words[:2] == ["docker", "compose"]

    def __str__(self) -> str:
        return self.text


def commands_in(text: str) -> Iterator[Command]:
    """Find the commands in indented blocks; one goes on until the next begins or the block ends."""
    for block in re.findall(r"(?:^    .*\n)+", text, re.MULTILINE):
        lines = "\n".join(line[4:] for line in block.splitlines())
        for command in re.split(r"^(?=docker |kubectl )", lines, flags=re.MULTILINE):
            if command.startswith(("docker ", "kubectl ")):
                yield Command(command.replace("\\\n", " ").strip())


def kind(service: str) -> str:
    if service == "migrate":
        return "job/migrate"
    return f"statefulset/{service}" if service in STATEFUL else f"deploy/{service}"


def in_kubernetes(words: list[str]) -> list[str] | None:
    """Return the Kubernetes form of a command for Compose; None if there is no general one."""
    kubectl = ["kubectl", "-n", "celeriac"]
    match words[2:]:
        case ["exec", service, *program]:
            return [*kubectl, "exec", kind(service), "--", *program]
        case ["logs", "--since", since, service]:
            return [*kubectl, "logs", f"--since={since}", kind(service)]
        case ["ps", *_]:
            return [*kubectl, "get", "pods", "-o", "wide"]
        case ["restart", *services]:
            return [*kubectl, "rollout", "restart", *map(kind, services)]
        case ["up", *_, "--scale", replicas, service]:
            return [*kubectl, "scale", kind(service), f"--replicas={replicas.split('=')[1]}"]
    return None


def check(command: Command) -> None:
    """Check that a command names services, programs, options and names that exist.

    Raises:
        AssertionError: Something does not exist, or nobody has checked such a command yet.
        CommandError: manage.py does not know it.
    """
    match command.words:
        case ["docker", "compose", *words]:
            check_compose(words)
        case ["kubectl", "-n", "celeriac", *words]:
            check_kubernetes(words)
        case ["docker", "inspect", *_]:
            assert set(re.findall(r"compose ps -aq (\S+?)\)", command.text)) <= SERVICES
        case _:
            raise AssertionError(f"nobody has checked such a command: {command}")


def check_compose(words: list[str]) -> None:
    """Check what follows ``docker compose``."""
    match words:
        case ["exec", service, *program]:
            check_services(service)
            check_program(program)
        case ["run", "--rm", "--no-deps", service, *_]:
            check_services(service)
        case ["logs", "--since", "15m", service]:
            check_services(service)
        case ["ps", "-a", *services]:
            assert set(services) <= SERVICES
        case ["restart", *services]:
            check_services(*services)
        case ["up", "-d", *rest]:
            check_up(rest)
        case _:
            raise AssertionError(f"nobody has checked such a command: {words}")


def check_kubernetes(words: list[str]) -> None:
    """Check what follows ``kubectl -n celeriac``."""
    match words:
        case ["exec", target, "--", *program]:
            check_targets(target)
            check_program(program)
        case ["logs", "--since=15m", target]:
            check_targets(target)
        case ["get", "pods", "-o", "wide"]:
            pass
        case ["rollout", "restart" | "undo" | "status", *targets]:
            check_targets(*targets)
        case ["scale", target, replicas]:
            check_targets(target)
            assert re.fullmatch(r"--replicas=[1-9]", replicas)
        case ["set", "env", target, setting]:
            check_targets(target)
            assert f"{setting.split('=')[0]}=" in (ROOT / ".env.example").read_text("utf-8")
        case _:
            raise AssertionError(f"nobody has checked such a command: {words}")


def check_services(*services: str) -> None:
    """Check names of services of Compose, at least one."""
    assert services
    assert set(services) <= SERVICES, services


def check_targets(*targets: str) -> None:
    """Check names as ``deploy/worker``, at least one."""
    assert targets
    for target in targets:
        service = target.partition("/")[2]
        check_services(service)
        assert target == kind(service)


def check_up(rest: list[str]) -> None:
    while rest[0].startswith("--"):
        option, *rest = rest
        assert option in {"--no-deps", "--no-recreate", "--wait", "--scale"}
        if option == "--scale":
            scaled, *rest = rest
            assert re.fullmatch(r"[a-z-]+=[1-9]", scaled)
            assert scaled.split("=")[0] == rest[0]
    check_services(*rest)


def check_program(words: list[str]) -> None:
    """Check a program that runs in a container, with its arguments."""
    match words:
        case ["redis-cli", *arguments]:
            check_redis(arguments)
        case ["psql", "-U", "celeriac", "-c", statement]:
            check_sql(statement)
        case ["promtool", "query", "instant", "http://127.0.0.1:9090", expression]:
            check_promql(expression)
        case ["promtool", first, second, *_]:
            assert (first, second) in PROMTOOL
        case ["amtool", *arguments]:
            check_amtool(arguments)
        case [program, *arguments] if program == ENTRY_POINT:
            check_role(arguments)
        case _:
            assert words in OTHER_PROGRAMS, f"nobody has checked such a program: {words}"


def check_amtool(arguments: list[str]) -> None:
    """Check a subcommand of amtool, and the alerts that it names."""
    first, second, *rest = (word for word in arguments if not word.startswith("--alertmanager"))
    assert (first, second) in AMTOOL
    named = set(re.findall(r"alertname=(\w+)", " ".join(rest)))
    assert named <= {"Test", *(alert.name for _group, alert in book.alerts(Pace()))}


def check_role(arguments: list[str]) -> None:
    """Check a role of the entry point: only those that a person runs by hand."""
    match arguments:
        case ["manage", name, *rest]:
            check_manage(name, rest)
        case ["probe", "live" | "ready"]:
            pass
        case ["probe", "http", address]:
            assert address in {f"http://127.0.0.1:8000{path}" for path in PROBES}
        case _:
            raise AssertionError(f"nobody has checked such a role: {arguments}")


def check_redis(arguments: list[str]) -> None:
    first, *rest = arguments
    two = " ".join(arguments[:2])
    assert first.upper() in REDIS_COMMANDS or first in REDIS_COMMANDS or two in REDIS_COMMANDS
    if first == "INFO":
        assert set(rest) <= REDIS_SECTIONS
    if two in {"CONFIG GET", "CONFIG SET"} and arguments[2:]:
        assert arguments[2] in REDIS_SETTINGS


def check_manage(name: str, arguments: list[str]) -> None:
    application = get_commands()[name]
    command = load_command_class(application, name) if isinstance(application, str) else application
    parser = command.create_parser("manage.py", name)
    # Django's parser raises CommandError for what it does not know.
    parser.parse_args([str(uuid4()) if word == "ID" else word for word in arguments])


@cache
def columns() -> dict[str, set[str]]:
    """Return the columns of every table that an application of this project has, and the views."""
    tables = {
        model._meta.db_table: {str(field.column) for field in model._meta.local_concrete_fields}
        for model in apps.get_models()
    }
    return tables | SYSTEM_VIEWS


def check_sql(statement: str) -> None:
    bare = re.sub(r"'[^']*'", " ", statement)
    known = columns()
    tables = set(re.findall(r"(?:FROM|JOIN) (\w+)", bare))
    assert tables <= set(known), statement
    aliases = set(re.findall(r"\bAS (\w+)", bare))
    # A word before a bracket is a function; that of JOIN ... USING is none.
    names = {name.lower() for name in re.findall(r"\b[A-Za-z_]\w*\b(?!\s*\()", bare)}
    names -= SQL_WORDS | aliases | tables
    # Without a table only the placeholder PID is left.
    allowed = set().union(*(known[table] for table in tables)) if tables else {"pid"}
    assert names <= allowed, statement


@cache
def series() -> set[str]:
    """Return the names of all series: ours, recorded, those of others, and Prometheus' own."""
    rules = (rule for group in book.groups(Pace()) for rule in group.rules)
    recorded = {rule.name for rule in rules if isinstance(rule, Recording)}
    names = {"ALERTS", *recorded, *foreign.NAMES}
    for metric in BY_NAME.values():
        suffixes = ("_bucket", "_sum", "_count") if metric.kind == HISTOGRAM else ("",)
        names |= {metric.name + suffix for suffix in suffixes}
    return names


def check_promql(expression: str) -> None:
    text = re.sub(r"\{[^}]*\}|\[[^]]*\]|\"[^\"]*\"", " ", expression)
    text = re.sub(r"\b(by|on|ignoring|group_left|group_right)\s*\([^)]*\)", " ", text)
    names = set(re.findall(r"\b[A-Za-z_][\w:]*\b(?!\s*\()", text)) - PROMQL_WORDS
    assert names
    assert names <= series(), names - series()

    ours = [BY_NAME[base] for name in names if (base := name.removesuffix("_sum")) in BY_NAME]
    if len(ours) == len(names) == 1:
        grouped = re.findall(r"\bby \(([^)]*)\)", expression)
        labels = {label for group in grouped for label in group.split(", ")}
        assert labels <= {*ours[0].labels, "job", "service", "instance", "namespace"}
