"""The mail server of tests and benches: it keeps every mail, and fails when told to."""

from __future__ import annotations

import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from tests.support.roles import ROOT, wait_until


class MailSink:
    """A running mail sink, by Mailpit's API."""

    def __init__(self, url: str) -> None:
        self.url = url

    def request(self, path: str, method: str = "GET", body: Any = None) -> Any:
        """Ask the sink."""
        request = urllib.request.Request(
            f"{self.url}{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=10) as response:
            text = response.read().decode()
        return json.loads(text) if text.startswith(("{", "[")) else text

    def recipients(self) -> list[str]:
        """Return the address of every mail that arrived, sorted."""
        found = self.request("/api/v1/messages?limit=20000")["messages"]
        return sorted(message["To"][0]["Address"] for message in found)

    def counters(self) -> dict[str, int]:
        """Return what it has counted since its start."""
        counters: dict[str, int] = self.request("/api/v1/info")["RuntimeStats"]
        return counters

    def connections(self) -> int:
        """Return how often somebody has connected by SMTP since the start."""
        return self.counters()["SMTPConnections"]

    def clear(self) -> None:
        """Forget all mails and all faults that were asked for."""
        self.request("/api/v1/messages", "DELETE")
        self.fail(0)

    def fail(self, probability: int, code: int = 451) -> None:
        """Refuse so many percent of the senders with an SMTP status."""
        trigger = {"ErrorCode": code, "Probability": probability}
        self.request("/api/v1/chaos", "PUT", {"Sender": trigger})


@contextmanager
def running_mail_sink(log_file: Path, smtp_port: int, web_port: int) -> Iterator[MailSink]:
    """Run the mail sink; its output goes to a file."""
    with log_file.open("wb") as log:
        process = subprocess.Popen(
            [
                sys.executable, "-m", "deploy.mail_sink",
                "--smtp-host", "127.0.0.1", "--smtp-port", str(smtp_port),
                "--http-host", "127.0.0.1", "--http-port", str(web_port),
            ],
            cwd=ROOT, stdout=log, stderr=subprocess.STDOUT,
        )  # fmt: skip
    sink = MailSink(f"http://127.0.0.1:{web_port}")

    def answers() -> bool:
        assert process.poll() is None, log_file.read_text()
        try:
            sink.request("/readyz")
        except OSError:
            return False
        return True

    try:
        wait_until(answers, what="the mail sink answers")
        yield sink
    finally:
        process.terminate()
        process.wait(10)
