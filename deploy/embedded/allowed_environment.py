"""Runs a command with named variables only: `python -m deploy.embedded.allowed_environment`.

    python -m deploy.embedded.allowed_environment LOG_LEVEL BROKER_URL=EXPORTER_URL -- COMMAND ...

supervisord gives every process all that it has itself, secrets included, and its configuration is
no place for them. `NAME` keeps a variable; `NAME=OTHER` gives the value of OTHER to NAME. One that
does not exist is left out. What any program needs (PATH, the locale ...) is always kept.
"""

import os
import sys
from collections.abc import Iterable, Mapping

ALWAYS = ("PATH", "HOME", "LANG", "LC_ALL", "TZ", "TMPDIR")


def command(variables: Iterable[str], program: Iterable[str]) -> list[str]:
    """Return the command line that runs a program with these variables."""
    return [sys.executable, "-m", __name__, *variables, "--", *program]


def allowed(variables: Iterable[str], environment: Mapping[str, str]) -> dict[str, str]:
    """Return what is left of an environment."""
    pairs = (variable.partition("=") for variable in (*ALWAYS, *variables))
    sources = {name: source or name for name, _, source in pairs}
    return {name: environment[source] for name, source in sources.items() if source in environment}


def main(arguments: list[str]) -> None:
    """Become the program."""
    end = arguments.index("--")
    variables, program = arguments[:end], arguments[end + 1 :]
    os.execvpe(program[0], program, allowed(variables, os.environ))  # noqa: S606 - no shell wanted


if __name__ == "__main__":
    main(sys.argv[1:])
