"""Finds the stack's processes by a mark in their environment, and stops what was left behind.

supervisord stops its own processes; this is for those of a supervisord that was killed itself.
"""

import signal
from collections.abc import Collection
from contextlib import suppress
from pathlib import Path
from time import monotonic, sleep

import psutil

from deploy.embedded.process import PROCESS_MARKER, STACK_MARKER, STOP_WAIT
from deploy.embedded.processes import WORKER_STOP_WAIT

_SERVERS = ("postgres", "redis", "mail")


def find(state: Path) -> list[psutil.Process]:
    """Return the processes of the stack that keeps its files in `state`."""
    return [process for process in psutil.process_iter() if _belongs(process, state)]


def listening_ports(state: Path) -> set[int]:
    """Return the TCP ports those processes listen on."""
    listening = set()
    for process in find(state):
        try:
            connections = process.net_connections(kind="tcp")
        except psutil.Error:
            continue
        listening |= {item.laddr.port for item in connections if item.status == psutil.CONN_LISTEN}
    return listening


def stop(state: Path) -> None:
    """Stop them: supervisord first, so that it restarts nothing, then roles, then servers."""
    for process in find(state):
        if _name(process) == "":
            _signal(process, signal.SIGKILL)
    roots = _roots(find(state))
    servers = [process for process in roots if _name(process) in _SERVERS]
    _stop_all([process for process in roots if process not in servers], WORKER_STOP_WAIT)
    _stop_all(servers, STOP_WAIT)
    _kill(find(state))


def _stop_all(processes: Collection[psutil.Process], timeout: float) -> None:
    for process in processes:
        # PostgreSQL waits for its clients after SIGTERM, not after SIGINT.
        _signal(process, signal.SIGINT if _name(process) == "postgres" else signal.SIGTERM)
    outstayed = _wait(processes, timeout)
    _kill([*(child for process in outstayed for child in _children(process)), *outstayed])


def _kill(processes: Collection[psutil.Process]) -> None:
    for process in processes:
        _signal(process, signal.SIGKILL)
    _wait(processes, STOP_WAIT)


def _wait(processes: Collection[psutil.Process], timeout: float) -> list[psutil.Process]:
    """Wait up to `timeout` seconds for them to end; return those that did not."""
    deadline = monotonic() + timeout
    remaining = list(processes)
    while (remaining := [item for item in remaining if _alive(item)]) and monotonic() < deadline:
        sleep(0.1)
    return remaining


def _alive(process: psutil.Process) -> bool:
    # psutil.wait_procs counts zombies as alive, and an orphan's new parent may never collect it.
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.Error:
        return False


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.Error:
        return []


def _roots(processes: Collection[psutil.Process]) -> list[psutil.Process]:
    # A main process stops its own children, in the right order.
    numbers = {process.pid for process in processes}
    roots = []
    for process in processes:
        try:
            if process.ppid() not in numbers:
                roots.append(process)
        except psutil.Error:
            continue
    return roots


def _belongs(process: psutil.Process, state: Path) -> bool:
    try:
        if process.environ().get(STACK_MARKER) == str(state):
            return True
        # PostgreSQL's children overwrite their environment with a title.
        home = (state / "postgres").resolve()
        link = home / "home"
        data = (link.resolve() if link.is_symlink() else home) / "data"
        return process.name().startswith("postgres") and Path(process.cwd()) == data
    except (psutil.Error, OSError):
        return False


def _name(process: psutil.Process) -> str | None:
    """Name of the supervised process; empty for supervisord itself.

    None for children that overwrote their environment.
    """
    try:
        environment = process.environ()
    except (psutil.Error, OSError):
        return None
    return environment.get(PROCESS_MARKER, "") if STACK_MARKER in environment else None


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    with suppress(psutil.Error):  # it may have left by itself
        process.send_signal(number)
