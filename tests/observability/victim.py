"""The stack that is broken on purpose, and the handles by which it is."""

from __future__ import annotations

import json
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import psycopg
from redis import Redis

from tests.faults.targets.embedded import EmbeddedTarget
from tests.support.alert_receiver import AlertReceiver
from tests.support.embedded_stack import EmbeddedStack

APPLICATION = Path(__file__).parent / "application"
#: Seconds in which a request is answered, also by a stack that is broken.
ANSWER_SECONDS = 20.0


class Victim:
    """A running stack of our own.

    Attributes:
        stack: Starts and stops its services.
        target: Freezes and kills them.
        receiver: What its Alertmanager posts to.
    """

    def __init__(self, stack: EmbeddedStack, receiver: AlertReceiver) -> None:
        self.stack = stack
        self.target = EmbeddedTarget(stack)
        self.receiver = receiver

    @cached_property
    def redis(self) -> Redis:
        """The broker, with all rights."""
        return Redis.from_url(self.target.broker_url)

    @contextmanager
    def session(self) -> Iterator[psycopg.Connection[Any]]:
        """Open a session of the database that commits by itself."""
        with psycopg.connect(self.target.database_url, autocommit=True) as connection:
            yield connection

    def publish(self, task: str, number: int = 1, options: Any = None, **arguments: Any) -> None:
        """Have the application call a task of ``alert_causes`` so many times.

        Args:
            task: Its name.
            number: How often.
            options: Those of ``apply_on_commit``.
            arguments: Those of the task.
        """
        self.post(
            "/causes/publish",
            {"task": task, "number": number, "arguments": arguments, "options": options or {}},
        )

    def control(self, command: str, **arguments: Any) -> dict[str, Any]:
        """Have all workers obey a command; returns their answers."""
        answers: dict[str, Any] = self.post(
            "/causes/control", {"command": command, "arguments": arguments}
        )
        return answers

    def post(self, path: str, body: Any) -> Any:
        """Post JSON to the application, and return its answer."""
        request = urllib.request.Request(
            f"{self.stack.url}{path}",
            data=json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=ANSWER_SECONDS) as response:
            return json.load(response)

    def get(self, path: str) -> int:
        """Get a page; returns the status."""
        try:
            with urllib.request.urlopen(
                f"{self.stack.url}{path}", timeout=ANSWER_SECONDS
            ) as response:
                return int(response.status)
        except urllib.error.HTTPError as error:
            return error.code
