"""Settings of the stack: `.env`, made from `.env.example`, below the process environment.

A line `# generate: TEMPLATE` directly above an empty `NAME=` in `.env.example` means that the
value is TEMPLATE with `{secret}` replaced by a fresh random string.
"""

import os
import re
import secrets
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path

from deploy.stack.errors import StackError

_ASSIGNMENT = re.compile(r"(?:export\s+)?([A-Za-z_][A-Za-z0-9_]*)\s*=(.*)")
#: docker-compose.yml builds DATABASE_URL and BROKER_URL from these.
_PARTS_OF_ADDRESSES = {
    "POSTGRES_PASSWORD", "REDIS_PASSWORD", "CELERY_EXPORTER_PASSWORD", "SERVER_EXPORTERS_PASSWORD",
    "UPSTREAM_EXPORTER_PASSWORD",
}  # fmt: skip
_ADDRESS_SAFE = re.compile(r"[A-Za-z0-9._~-]*")
_RULE = re.compile(r"#\s*generate:\s*(.+)")


def parse(text: str, source: str = ".env") -> dict[str, str]:
    """Return the values of `NAME=value` lines.

    Raises StackError naming a line that is neither an assignment nor a comment, or whose value
    would not be the same everywhere.
    """
    values = {}
    for number, raw in enumerate(text.splitlines(), start=1):
        line = raw.strip()
        if not line or line.startswith("#"):
            continue
        match = _ASSIGNMENT.fullmatch(line)
        if match is None:
            raise StackError(f"{source} line {number}: expected NAME=value, found {line!r}")
        value = match[2].strip()
        # Compose would put another variable's value there; the embedded runtime would not.
        if "$" in value and not value.startswith("'"):
            raise StackError(
                f"{source} line {number}: {match[1]} has a $ in it. Put the value in single quotes"
            )
        values[match[1]] = _unquoted(value)
        if match[1] in _PARTS_OF_ADDRESSES and not _ADDRESS_SAFE.fullmatch(values[match[1]]):
            raise StackError(
                f"{source} line {number}: {match[1]} becomes part of an address, so it may have "
                "letters, digits and . _ ~ - only"
            )
    return values


def generation_rules(text: str) -> dict[str, str]:
    """Return the template of every name that has a `# generate:` rule."""
    rules = {}
    lines = [line.strip() for line in text.splitlines()]
    for above, line in pairwise(lines):
        rule, assignment = _RULE.fullmatch(above), _ASSIGNMENT.fullmatch(line)
        if rule and assignment and not _unquoted(assignment[2].strip()):
            rules[assignment[1]] = rule[1].strip()
    return rules


def prepare(root: Path) -> list[str]:
    """Create `.env`, or fill in the secrets it lacks; return the names that were generated.

    Values that are already there stay. Raises StackError when `.env.example` is missing.
    """
    example, target = root / ".env.example", root / ".env"
    if not example.is_file():
        raise StackError(f"{example} is missing: run this from the root of the repository")
    template = example.read_text(encoding="utf-8")
    text = target.read_text(encoding="utf-8") if target.exists() else template
    present = parse(text)
    generated = []
    for name, rule in generation_rules(template).items():
        if not present.get(name):
            text = _assign(text, name, rule.replace("{secret}", secrets.token_urlsafe(32)))
            generated.append(name)
    if generated or not target.exists():
        _write_private(target, text)
    return generated


def load(root: Path, process_environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return every setting.

    The process environment wins over `.env`, as in docker compose; `.env.example` holds defaults.
    """
    values: dict[str, str] = {}
    for name in (".env.example", ".env"):
        path = root / name
        if path.is_file():
            values.update(parse(path.read_text(encoding="utf-8"), name))
    return {**values, **process_environment}


def _unquoted(value: str) -> str:
    if len(value) >= 2 and value[0] in "'\"" and value[-1] == value[0]:
        return value[1:-1]
    return re.split(r"(?:^|\s)#", value, maxsplit=1)[0].rstrip()


def _assign(text: str, name: str, value: str) -> str:
    line = f"{name}={value}"
    replaced, count = re.subn(rf"(?m)^\s*{name}\s*=.*$", lambda _: line, text)
    if count:
        return replaced
    separator = "" if not text or text.endswith("\n") else "\n"
    return f"{text}{separator}{line}\n"


def _write_private(target: Path, text: str) -> None:
    # Written beside and renamed: an interrupted run never leaves half a file of secrets.
    draft = target.with_name(f"{target.name}.draft")
    draft.unlink(missing_ok=True)
    draft.touch(mode=0o600)
    draft.write_text(text, encoding="utf-8")
    draft.replace(target)
