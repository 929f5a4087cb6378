"""Runbooks: a page for each alert, and every command on it names things that exist."""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import yaml
from django.core.management import CommandError

from deploy.prometheus.rulebook import foreign
from tests.support.roles import ROOT
from tests.support.runbook_commands import (
    ENTRY_POINT,
    Command,
    check,
    check_program,
    commands_in,
    in_kubernetes,
)

RUNBOOKS = ROOT / "docs" / "runbooks"
INDEX = RUNBOOKS / "README.md"
QUERY = "promtool query instant http://127.0.0.1:9090"
SECTIONS = ["Meaning", "Confirm", "Likely causes, in order", "Fix", "Prevent", "Comes with"]
#: An engineer at three in the morning reads one screen, or two.
LONGEST_PAGE = 70


def read(path: str) -> str:
    return (ROOT / path).read_text(encoding="utf-8")


GROUPS = yaml.safe_load(read("deploy/prometheus/rules/celeriac.rules.yml"))["groups"]
RULES = [rule for group in GROUPS for rule in group["rules"]]
ALERTS: dict[str, dict[str, Any]] = {rule["alert"]: rule for rule in RULES if "alert" in rule}
SETTINGS = read(".env.example") + read("app/config/settings.py")
MAKE_TARGETS = set(re.findall(r"^([a-z-]+):.*## ", read("Makefile"), re.MULTILINE))
#: Words in capitals that are no settings: placeholders, SQL, HTTP, what servers answer.
OTHER_CAPITALS = {
    "NAME", "ID", "PID", "QUEUE", "UID", "BEGIN", "MISCONF", "WRONGPASS", "ALERTS", "KEYS", "DEL",
    "FLUSHALL", "FLUSHDB", "TTL",
}  # fmt: skip


@dataclass(frozen=True)
class Page:
    """A runbook."""

    name: str
    text: str

    @property
    def sections(self) -> dict[str, str]:
        titles_and_texts = re.split(r"^## (.+)\n", self.text, flags=re.MULTILINE)[1:]
        return dict(zip(titles_and_texts[::2], titles_and_texts[1::2], strict=True))

    @property
    def promise(self) -> str:
        """Return the first sentence: what the alert means for users."""
        found = re.match(r"\s*\*\*(.+?)\*\*", self.sections["Meaning"], re.DOTALL)
        assert found, f"{self.name} does not begin with what it means for users"
        return " ".join(found[1].split())


PAGES = [
    Page(path.stem, path.read_text(encoding="utf-8"))
    for path in sorted(RUNBOOKS.glob("*.md"))
    if path != INDEX
]
TEXTS = [*PAGES, Page("README", INDEX.read_text(encoding="utf-8"))]
COMMANDS = [
    pytest.param(command, id=f"{page.name}-{number}")
    for page in TEXTS
    for number, command in enumerate(commands_in(page.text))
]
every_page = pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
every_text = pytest.mark.parametrize("page", TEXTS, ids=lambda page: page.name)


# --- pages ---------------------------------------------------------------------------------------


def test_each_alert_has_a_page_and_each_page_an_alert() -> None:
    assert {page.name for page in PAGES} == set(ALERTS)


@every_page
def test_a_page_has_its_parts_in_order(page: Page) -> None:
    labels, annotations = ALERTS[page.name]["labels"], ALERTS[page.name]["annotations"]
    area = labels["area"]
    dashboard = re.search(r"/d/(celeriac-[a-z-]+)", annotations["dashboard_url"])
    assert dashboard

    title, empty, facts, *_ = page.text.splitlines()

    assert (title, empty) == (f"# {page.name}", "")
    assert facts == (
        f"`{labels['severity']}` · area [{area}](README.md#{area}) · dashboard `{dashboard[1]}`"
    )
    assert list(page.sections) == SECTIONS
    assert all(text.strip() for text in page.sections.values())
    assert page.promise
    assert page.text.count("\n") <= LONGEST_PAGE


def test_the_index_says_what_rules_and_pages_say() -> None:
    promises = {page.name: page.promise for page in PAGES}
    rows = [
        f"| [{name}]({name}.md) | {rule['labels']['severity']} | {promises[name]} |"
        for name, rule in ALERTS.items()
    ]
    index = re.split(r"<!-- index: (?:begin|end) -->", INDEX.read_text(encoding="utf-8"))[1]

    for area in {rule["labels"]["area"] for rule in ALERTS.values()}:
        table = rf"^### {area.capitalize()}\n(.*?)(?=^### |\Z)"
        named = re.search(table, index, re.MULTILINE | re.DOTALL)
        assert named, area
        there = set(re.findall(r"^\| \[(\w+)\]", named[1], re.MULTILINE))
        assert there == {n for n, rule in ALERTS.items() if rule["labels"]["area"] == area}
    assert sorted(re.findall(r"^\| \[.*$", index, re.MULTILINE)) == sorted(rows)


@every_text
def test_alerts_that_a_page_names_exist(page: Page) -> None:
    named = set(re.findall(r"\b(?:Celery|Redis|Postgres|Django)[A-Z]\w+", page.text))
    assert named - set(ALERTS) == set()


def slug(heading: str) -> str:
    """Return the anchor that a heading gets."""
    return re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")


@cache
def anchors(path: Path) -> frozenset[str]:
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return frozenset(slug(heading) for heading in headings)


@every_text
def test_links_lead_somewhere(page: Page) -> None:
    for target in re.findall(r"\]\(([^)]+)\)", page.text):
        name, _, anchor = target.partition("#")
        path = RUNBOOKS / name if name else RUNBOOKS / f"{page.name}.md"
        assert path.is_file(), target
        assert not anchor or anchor in anchors(path), target


@cache
def sources() -> str:
    """Return everything that names of columns, log events and settings of ours can come from."""
    files = [*ROOT.glob("app/**/*.py"), *ROOT.glob("app/**/*.html"), *ROOT.glob("deploy/**/*.py")]
    names = ["docker-compose.yml", ".env.example", "deploy/docker/entrypoint"]
    return "\n".join([*(file.read_text(encoding="utf-8") for file in files), *map(read, names)])


#: Names that come from others: Redis' INFO, django-structlog, Linux, kombu.
FOREIGN_NAMES = {
    "evicted_keys", "aof_last_write_status", "aof_last_bgrewrite_status", "rdb_last_bgsave_status",
    "mem_clients_normal", "uptime_in_seconds", "unacked_mutex", "pg_wal", "cancel_consumer",
    "pg_dump",
}  # fmt: skip


def exists(name: str) -> bool:
    """Return whether what stands between backticks exists, as far as its form says what it is."""
    if re.fullmatch(r"[A-Z][A-Z_]+", name):
        setting = rf"^(#?{name}=|{name} = )"
        return name in OTHER_CAPITALS or bool(re.search(setting, SETTINGS, re.MULTILINE))
    if re.fullmatch(r"[a-z]+(_[a-z]+)+", name):
        return name in FOREIGN_NAMES | foreign.NAMES or bool(re.search(rf"\b{name}\b", sources()))
    if re.match(r"(app|bench|deploy|docs|tests)/|docker-compose", name):
        return (ROOT / name).exists()
    if name.startswith("make "):
        return name.split()[1] in MAKE_TARGETS
    if name.startswith("python -m "):
        return find_spec(name.split()[2]) is not None
    if name.startswith(("redis-cli ", "amtool ")):
        check_program(shlex.split(name))
    return True


@every_text
def test_what_a_text_names_exists(page: Page) -> None:
    prose = re.sub(r"(?:^    .*\n)+", "", page.text, flags=re.MULTILINE)
    names = {" ".join(name.split()) for name in re.findall(r"`([^`]+)`", prose)}
    assert [name for name in sorted(names) if not exists(name)] == []


# --- commands ------------------------------------------------------------------------------------


@every_page
def test_every_command_has_a_form_for_kubernetes(page: Page) -> None:
    here = list(commands_in(page.text))
    for_kubernetes = [command.words for command in here if command.words[0] == "kubectl"]

    for command in here:
        if command.is_compose and (twin := in_kubernetes(command.words)):
            assert twin in for_kubernetes, command


@every_page
def test_what_confirms_reads_in_both_runtimes(page: Page) -> None:
    commands = list(commands_in(page.sections["Confirm"]))
    twins = [in_kubernetes(command.words) for command in commands if command.is_compose]

    assert twins
    assert None not in twins or page.name == "CeleryWorkerRestarting"
    for command in commands:
        assert command.words[0] == "docker" or command.words in twins, command
        assert not re.search(r"restart|scale|terminate|SET|DEL|KILL|replay|discard", command.text)


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_name_things_that_exist(command: Command) -> None:
    check(command)


# --- the checks notice --------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "docker compose exec workers df -h /data",
        "docker compose exec redis redis-cli SHUTDOWN",
        "docker compose exec redis redis-cli INFO everything",
        'docker compose exec postgres psql -U celeriac -c "SELECT id FROM delivery_deliveries"',
        'docker compose exec postgres psql -U celeriac -c "SELECT age FROM delivery_delivery"',
        f"docker compose exec web {ENTRY_POINT} probe http http://127.0.0.1:8000/ready",
        "docker compose up -d --scale worker=0 worker",
        "kubectl -n celeriac exec deploy/redis -- redis-cli ping",
        "kubectl -n celeriac delete pods",
        f"docker compose exec prometheus {QUERY} 'celery_up'",
        f"docker compose exec prometheus {QUERY} 'sum by (task) (celery_task_failed_total)'",
        f"docker compose exec web {ENTRY_POINT} manage deadletters forget ID",
        f"docker compose exec web {ENTRY_POINT} manage deadletters list --queue mail",
    ],
)
def test_a_wrong_command_is_found(text: str) -> None:
    with pytest.raises((AssertionError, CommandError)):
        check(Command(text))
