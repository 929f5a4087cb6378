"""Command line of the stack: `python3 -m deploy.stack up|down|ps|logs|shell|demo|runtime`.

Needs the standard library only. The embedded runtime needs the packages of
requirements/embedded.txt too: without them this starts itself again with `.venv/bin/python`.
"""

import argparse
import importlib.util
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

from deploy.stack import demo, environment, ports, runtime, summary, table
from deploy.stack.containers import ContainersRuntime
from deploy.stack.errors import StackError, reader_left
from deploy.stack.runtime import Choice, Runtime

ROOT = Path(__file__).resolve().parents[2]
STATE = ROOT / ".stack"
RECORD = STATE / "runtime"


def main(arguments: Sequence[str]) -> int:
    """Run one command; return its exit status."""
    options = _parser().parse_args(arguments)
    try:
        return _run(options, arguments)
    except StackError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\ninterrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        return reader_left()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python3 -m deploy.stack", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")
    commands.add_parser("runtime", help="print containers or embedded, and why on stderr")
    commands.add_parser("up", help="start everything and wait until it is healthy")
    down = commands.add_parser("down", help="stop everything")
    down.add_argument("--volumes", action="store_true", help="delete all data too (or VOLUMES=1)")
    commands.add_parser("ps", help="show every service with its state and health")
    logs = commands.add_parser("logs", help="show logs; follow them on a terminal")
    logs.add_argument("service", nargs="?", help="only this service")
    logs.add_argument("--follow", action=argparse.BooleanOptionalAction, default=None)
    commands.add_parser("shell", help="open a Django shell")
    demonstration = commands.add_parser("demo", help="send a newsletter and watch it")
    demonstration.add_argument("--recipients", type=int, default=500)
    return parser


def _run(options: argparse.Namespace, arguments: Sequence[str]) -> int:
    choice = runtime.choose(environment.load(ROOT), RECORD)
    if options.command == "runtime":
        print(choice.reason, file=sys.stderr)
        print(choice.name)
        return 0
    values = _settings()
    if options.command == "demo":
        if options.recipients < 1:
            raise StackError("--recipients must be 1 or more")
        demo.run(values, options.recipients)
        return 0
    return _run_on(_connect(choice, values, arguments), choice, values, options)


def _run_on(
    stack: Runtime, choice: Choice, values: Mapping[str, str], options: argparse.Namespace
) -> int:
    match options.command:
        case "up":
            return _up(stack, choice, values)
        case "down":
            return _down(stack, volumes=options.volumes or values.get("VOLUMES") == "1")
        case "ps":
            return _ps(stack)
        case "logs":
            follow = sys.stdout.isatty() if options.follow is None else options.follow
            return _logs(stack, options.service, follow=follow)
        case _:
            return stack.shell()


def _settings() -> dict[str, str]:
    existed = (ROOT / ".env").exists()
    generated = environment.prepare(ROOT)
    if not existed:
        print("Created .env from .env.example, with fresh passwords.", flush=True)
    elif generated:
        print(f"Filled in what .env lacked: {', '.join(generated)}.", flush=True)
    return environment.load(ROOT)


def _connect(choice: Choice, values: Mapping[str, str], arguments: Sequence[str]) -> Runtime:
    if choice.name == "containers":
        return ContainersRuntime(ROOT, values)
    if importlib.util.find_spec("supervisor") is None:
        virtual_environment = ROOT / ".venv"
        python = virtual_environment / "bin" / "python"
        if not python.exists() or Path(sys.prefix) == virtual_environment:
            raise StackError(
                "the embedded runtime needs Python packages: run make up, or "
                "python3 -m venv .venv && .venv/bin/pip install -r requirements/embedded.txt"
            )
        sys.stdout.flush()
        os.execv(python, [str(python), "-m", "deploy.stack", *arguments])  # noqa: S606
    from deploy.embedded.runtime import EmbeddedRuntime  # noqa: PLC0415 - needs packages

    return EmbeddedRuntime(ROOT, STATE, values)


def _up(stack: Runtime, choice: Choice, values: Mapping[str, str]) -> int:
    print(f"Runtime: {choice.name} ({choice.reason}).", flush=True)
    ports.check(stack.ports(), values, stack.held_ports())
    STATE.mkdir(exist_ok=True)
    RECORD.write_text(choice.name + "\n", encoding="utf-8")
    try:
        services = stack.up()
    except KeyboardInterrupt:
        if not stack.status():  # it stopped again: the next start may choose anew
            RECORD.unlink(missing_ok=True)
        raise
    print(summary.render(values, services))
    return 0


def _down(stack: Runtime, *, volumes: bool) -> int:
    existed = stack.down(volumes=volumes)
    RECORD.unlink(missing_ok=True)
    print("Stopped." if existed else "Nothing was running.")
    print("All data is deleted." if volumes else "Data is kept (make down VOLUMES=1 deletes it).")
    return 0


def _ps(stack: Runtime) -> int:
    services = stack.status()
    if not services:
        print("Nothing is running. Start it with make up.")
        return 0
    rows = [(item.service, item.state, item.health) for item in services]
    print(table.render([("SERVICE", "STATE", "HEALTH"), *rows]))
    return 0


def _logs(stack: Runtime, service: str | None, *, follow: bool) -> int:
    try:
        return stack.logs(service, follow=follow)
    except KeyboardInterrupt:  # how one stops following
        return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
