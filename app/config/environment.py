"""Reading environment variables: one reader, typed parsers, and every fault in one message.

Without Django, so that the exporter reads its variables in the same way.

``python -m config.environment`` checks the environment of a role before it starts: it prints all
faults at once, without a traceback, and exits with status 78 (EX_CONFIG of sysexits.h).
"""

from __future__ import annotations

import re
import sys
from collections.abc import Callable
from typing import Any
from urllib.parse import unquote, urlsplit

from environs import EnvValidationError, FileAwareEnv, ValidationError

EX_CONFIG = 78

LOG_LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")
LOG_FORMATS = ("json", "console")

#: A signing key shorter than this can be guessed (Django's own check wants 50 characters).
MINIMUM_SECRET_LENGTH = 32

#: Longest name of a token: it is stored with each job, in 150 characters, with ``token:``.
MAXIMUM_NAME_LENGTH = 100


class FaultyEnvironmentError(ValueError):
    """Variables are missing or malformed; the message has a line for each, without the values."""


def secret(value: str) -> str:
    """Accept a secret that is long enough to resist guessing.

    Raises:
        ValidationError: The value is shorter than ``MINIMUM_SECRET_LENGTH`` characters.
    """
    if len(value) < MINIMUM_SECRET_LENGTH:
        raise ValidationError(f"Must have at least {MINIMUM_SECRET_LENGTH} characters.")
    return value


def url_with_scheme(*schemes: str) -> Callable[[str], str]:
    """Return a parser that accepts URLs with one of the schemes, a host and a valid port.

    The message never repeats the value: it holds a password.
    """
    expected = " or ".join(f"{scheme}://user:password@host:port/name" for scheme in schemes)

    def parse(value: str) -> str:
        try:
            parts = urlsplit(value)
            _ = parts.port
        except ValueError as error:
            raise ValidationError(f"Not a valid URL; expected {expected}.") from error
        if parts.scheme not in schemes or not parts.hostname:
            raise ValidationError(f"Not a valid URL; expected {expected}.")
        return value

    return parse


def named_tokens(value: str) -> dict[str, str]:
    """Parse ``name:token,name:token`` into a mapping of token to name.

    Raises:
        ValidationError: A pair is malformed, a token is too short, or a name or token is repeated.
    """
    names_by_token: dict[str, str] = {}
    for pair in filter(None, (part.strip() for part in value.split(","))):
        name, separator, token = pair.partition(":")
        too_short = len(token) < MINIMUM_SECRET_LENGTH
        if not separator or not 0 < len(name) <= MAXIMUM_NAME_LENGTH or too_short:
            raise ValidationError(
                "Expected name:token,name:token with tokens of at least "
                f"{MINIMUM_SECRET_LENGTH} and names of at most {MAXIMUM_NAME_LENGTH} characters."
            )
        if token in names_by_token or name in names_by_token.values():
            raise ValidationError("Each name and each token may appear once.")
        names_by_token[token] = name
    return names_by_token


def signing_keys(value: str) -> dict[str, str]:
    """Parse ``id:key,id:key`` into a mapping of id to key, in that order.

    Raises:
        ValidationError: Everything that is wrong, by position: the values are secrets.
    """
    keys: dict[str, str] = {}
    faults: list[str] = []
    pairs = [part.strip() for part in value.split(",")]
    for position, pair in enumerate(pairs, start=1):
        name, separator, key = pair.partition(":")
        if not separator or not re.fullmatch(r"[a-z0-9_-]{1,32}", name):
            faults.append(f"Key {position} has no id of up to 32 characters a-z, 0-9, _ and -.")
        elif name in keys:
            faults.append(f"Key {position} has the id of an earlier one.")
        if len(key) < MINIMUM_SECRET_LENGTH:
            faults.append(f"Key {position} has less than {MINIMUM_SECRET_LENGTH} characters.")
        elif key in keys.values():
            faults.append(f"Key {position} is the same as an earlier one.")
        keys[name] = key
    if faults:
        raise ValidationError(f"Expected id:key,id:key. {' '.join(faults)}")
    return keys


def between(lowest: float, highest: float) -> Callable[[float], None]:
    """Return a validator that accepts numbers from ``lowest`` to ``highest``, both included."""

    def validate(value: float) -> None:
        if not lowest <= value <= highest:
            raise ValidationError(f"Must be from {lowest:g} to {highest:g}.")

    return validate


def unless_empty(check: Callable[[str], object]) -> Callable[[str], None]:
    """Return a validator that asks another one about everything but the empty text."""

    def validate(value: str) -> None:
        if value:
            check(value)

    return validate


def false_if(other: bool | None, name: str) -> Callable[[bool], None]:  # noqa: FBT001 - a setting
    """Return a validator that refuses true while another variable is true."""

    def validate(value: bool) -> None:  # noqa: FBT001
        if value and other:
            raise ValidationError(f"Must not be true where {name} is.")

    return validate


def one_of(*choices: str) -> Callable[[str], None]:
    """Return a validator that accepts exactly these words."""

    def validate(value: str) -> None:
        if value not in choices:
            raise ValidationError(f"Must be one of: {', '.join(choices)}.")

    return validate


def database_from_url(url: str | None) -> dict[str, Any]:
    """Return Django's database settings for a PostgreSQL URL (empty while the URL is faulty)."""
    if url is None:
        return {}
    parts = urlsplit(url)
    return {
        "ENGINE": "django.db.backends.postgresql",
        "NAME": unquote(parts.path.lstrip("/")),
        "USER": unquote(parts.username or ""),
        "PASSWORD": unquote(parts.password or ""),
        "HOST": parts.hostname or "",
        "PORT": str(parts.port or ""),
    }


def reader() -> FileAwareEnv:
    """Return a reader that collects faults instead of stopping at the first.

    ``NAME_FILE`` may name a file that holds the value of ``NAME`` (a mounted secret). Until
    ``refuse_faults`` is called, a faulty variable reads as ``None``.
    """
    env = FileAwareEnv(eager=False, strip_whitespace=True)
    parsers: dict[str, Callable[..., Any]] = {
        "secret": secret,
        "postgres_url": url_with_scheme("postgres", "postgresql"),
        "redis_url": url_with_scheme("redis", "rediss"),
        "named_tokens": named_tokens,
        "signing_keys": signing_keys,
    }
    for name, parser in parsers.items():
        env.add_parser(name, parser)
    return env


def refuse_faults(env: FileAwareEnv) -> None:
    """Stop start-up if any variable was missing or malformed.

    Raises:
        FaultyEnvironmentError: One line for every faulty variable.
    """
    try:
        env.seal()
    except EnvValidationError as error:
        messages_by_name: Any = error.error_messages
        faults = [
            f"  {name}: {' '.join(str(message) for message in messages)}"
            for name, messages in sorted(messages_by_name.items())
        ]
        raise FaultyEnvironmentError(
            f"{len(faults)} environment variable(s) are missing or malformed:\n"
            + "\n".join(faults)
            + "\nEach is described in .env.example and docs/configuration.md."
        ) from None


def main() -> int:
    """Check the environment; returns 0 when the settings can be loaded."""
    try:
        __import__("config.settings")
    except ValueError as error:  # FaultyEnvironmentError, or an unreadable NAME_FILE
        print(f"celeriac: {error}", file=sys.stderr)
        return EX_CONFIG
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
