"""Asks the running stack, in either runtime."""

import json
import os
import subprocess
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from deploy.embedded.processes import Processes
from deploy.embedded.runtime import EmbeddedRuntime
from deploy.stack.containers import ENTRYPOINT, ContainersRuntime
from deploy.stack.errors import StackError
from deploy.stack.runtime import Choice, ServiceStatus

#: Seconds for one answer: a container starts Django in about 2 s.
TIMEOUT_SECONDS = 60
QUESTION = ("manage", "doctor_facts")


class RunningStack:
    """The stack that `make up` has started."""

    def __init__(self, choice: Choice, root: Path, state: Path, values: Mapping[str, str]) -> None:
        """Prepare to ask; `state` is the folder of the embedded runtime."""
        self._root = root
        if choice.name == "containers":
            self._runtime: ContainersRuntime | EmbeddedRuntime = ContainersRuntime(root, values)
            self._command = ["docker", "compose", "exec", "--no-TTY", "web", ENTRYPOINT, *QUESTION]
            self._environment = dict(os.environ)
        else:
            processes = Processes(root, state, values)
            self._runtime = EmbeddedRuntime(root, state, values)
            self._command = processes.entrypoint(*QUESTION)
            self._environment = {**values, **processes.shared_environment}

    def status(self) -> list[ServiceStatus]:
        """Return the state of every service; empty when the stack is down."""
        return self._runtime.status()

    def facts(self) -> dict[str, Any]:
        """Return the facts of `manage doctor_facts`, and how its clock differs from ours.

        Raises:
            StackError: The command gave none; the message has its last line.
        """
        before = time.time()
        try:
            answer = subprocess.run(
                self._command, cwd=self._root, env=self._environment, capture_output=True,
                text=True, timeout=TIMEOUT_SECONDS, check=False,
            )  # fmt: skip
            facts: dict[str, Any] = json.loads(answer.stdout.strip().rpartition("\n")[2])
        except subprocess.TimeoutExpired as error:
            raise StackError(f"no answer within {TIMEOUT_SECONDS} s") from error
        except ValueError as error:
            last = (answer.stderr.strip() or "no output").splitlines()[-1]
            raise StackError(f"status {answer.returncode}: {last}") from error
        role = facts["role"]
        role["clock_skew_seconds"] = skew(role["time"], before, time.time())
        return facts


def skew(theirs: float, before: float, after: float) -> float:
    """Return the seconds by which a clock that was read between two moments is surely wrong."""
    if before <= theirs <= after:
        return 0.0
    return round(theirs - (before if theirs < before else after), 1)
