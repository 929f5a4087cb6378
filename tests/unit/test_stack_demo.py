"""The demonstration: how progress is drawn, and how it ends."""

import io
from collections.abc import Iterable

import pytest

from deploy.stack import demo
from deploy.stack.demo import Job, Progress
from deploy.stack.errors import StackError

VALUES = {"API_TOKENS": "local:secret,other:x", "WEB_PORT": "8123", "MAIL_WEB_PORT": "8125"}


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def job(done: int, state: str = "running", **more: object) -> Job:
    return Job.from_json({"id": "1", "state": state, "done": done, "total": 100, **more})


def answer_with(monkeypatch: pytest.MonkeyPatch, jobs: Iterable[Job]) -> None:
    answers = iter(jobs)
    monkeypatch.setattr(demo, "POLL_INTERVAL", 0.001)
    monkeypatch.setattr(demo.Api, "submit_newsletter", lambda _self, _recipients: "/api/jobs/1")
    monkeypatch.setattr(demo.Api, "job", lambda _self, _url: next(answers))


def test_a_terminal_shows_one_moving_bar() -> None:
    stream = Terminal()
    progress = Progress(stream)
    for done in (0, 50, 50, 100):
        progress.show(job(done))
    progress.close()

    frames = stream.getvalue().split("\r")[1:]
    assert len(frames) == 3
    assert frames[1].startswith(f"[{'#' * 20}{'.' * 20}]  50% 50/100 running")
    assert stream.getvalue().endswith("\n")


def test_elsewhere_a_line_is_written_for_each_tenth() -> None:
    stream = io.StringIO()
    progress = Progress(stream)
    for done in range(101):
        progress.show(job(done))
    progress.show(job(100, "succeeded"))
    progress.close()

    lines = stream.getvalue().splitlines()
    assert len(lines) == 12
    assert lines[0] == "0/100 running"
    assert lines[-1] == "100/100 succeeded"


def test_a_job_of_unknown_size_shows_no_progress() -> None:
    stream = Terminal()
    Progress(stream).show(Job.from_json({"id": "1", "state": "queued", "done": 0, "total": None}))
    assert "0% 0/0 queued" in stream.getvalue()


def test_reports_what_was_sent_and_where_to_read_it(monkeypatch: pytest.MonkeyPatch) -> None:
    result = {"sent": 100, "failed": 0}
    answer_with(monkeypatch, [job(0, "queued"), job(100, "succeeded", result=result)])
    stream = io.StringIO()

    demo.run(VALUES, 100, stream)

    assert "Sent 100, failed 0, in " in stream.getvalue()
    assert "http://127.0.0.1:8125/" in stream.getvalue()


def test_a_failed_job_is_an_error_with_its_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    answer_with(monkeypatch, [job(3, "failed", error="no mail server")])
    with pytest.raises(StackError, match="job 1 failed: no mail server"):
        demo.run(VALUES, 100, io.StringIO())


def test_mails_that_failed_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    answer_with(monkeypatch, [job(100, "succeeded", result={"sent": 98, "failed": 2})])
    with pytest.raises(StackError, match="2 of 100 mails could not be sent"):
        demo.run(VALUES, 100, io.StringIO())


def test_gives_up_when_nothing_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "STALL_TIMEOUT", 0.05)
    answer_with(monkeypatch, (job(7) for _ in range(10_000)))
    with pytest.raises(StackError, match="is running at 7/100 and has not moved"):
        demo.run(VALUES, 100, io.StringIO())


def test_says_so_when_the_stack_is_down() -> None:
    with pytest.raises(StackError, match=r"does not answer at http://127\.0\.0\.1:1\. Is it up"):
        demo.run({**VALUES, "WEB_PORT": "1"}, 100, io.StringIO())


def test_a_missing_token_is_an_error() -> None:
    with pytest.raises(StackError, match=r"API_TOKENS in \.env must hold name:token"):
        demo.run({"API_TOKENS": ""}, 100, io.StringIO())


def test_an_answer_that_is_no_job_is_an_error() -> None:
    with pytest.raises(StackError, match="did not answer with a job"):
        Job.from_json({"detail": "?"})
