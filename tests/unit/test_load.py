"""The load generator: what it plans, what it sends, how it counts."""

from __future__ import annotations

import io
import json
import re
from collections import Counter
from itertools import islice, pairwise
from typing import Any

import pytest
import yaml

from deploy.load import generator
from deploy.load.__main__ import DEFAULT_MIX, DEFAULT_RATE_LIMIT, main, rate_limit_note
from deploy.load.client import Answer, Client, JobState
from deploy.load.display import Display, progress_line, seconds, summary_table
from deploy.load.generator import Generator
from deploy.load.plan import Burst, Plan, in_turn, mix_from_text, spread
from deploy.load.tally import Tally, quantile
from deploy.load.workloads import Request, Workloads
from deploy.mail_sink.faults import RecipientRules
from deploy.stack.errors import StackError
from tests.support.roles import ROOT


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def job(identifier: str, state: str, **more: Any) -> JobState:
    return JobState.from_json(
        {
            "id": identifier,
            "kind": "newsletter",
            "state": state,
            "result": None,
            "created_at": "2026-01-31T09:15:00.000Z",
            "started_at": None if state == "queued" else "2026-01-31T09:15:02.500Z",
            **more,
        }
    )


# --- the plan ------------------------------------------------------------------------------------


def test_a_steady_rate_is_spread_evenly_and_ends_with_the_duration() -> None:
    moments = [submission.at for submission in Plan(rate=4, duration=10).submissions()]
    assert len(moments) == 40
    assert moments[0] == 0
    assert {round(later - earlier, 9) for earlier, later in pairwise(moments)} == {0.25}


def test_a_long_run_does_not_drift() -> None:
    moments = [submission.at for submission in Plan(rate=0.3, duration=3600).submissions()]
    assert len(moments) == 1080
    assert moments[-1] == pytest.approx(1079 / 0.3)


def test_bursts_come_on_top_of_the_rate_and_in_order() -> None:
    plan = Plan(rate=1, duration=10, burst=Burst(5, 4))
    moments = [submission.at for submission in plan.submissions()]
    assert moments == sorted(moments)
    assert Counter(moments)[4] == 6
    assert Counter(moments)[8] == 6
    assert len(moments) == 20
    assert plan.requests_a_minute() == 60 + 75


def test_bursts_alone_are_a_plan_too() -> None:
    plan = Plan(rate=0, duration=9, burst=Burst(3, 4))
    assert [submission.at for submission in plan.submissions()] == [4, 4, 4, 8, 8, 8]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"rate": 100.1}, "--rate is 0 to 100, not 100.1"),
        ({"rate": -1}, "--rate"),
        ({"rate": float("nan")}, "--rate"),
        ({"duration": 3601}, "--duration is 1 to 3600, not 3601"),
        ({"failures": 1.1}, "--failures is 0 to 1"),
        ({"recipients": 0}, "--recipients"),
        ({"rate": 0}, "nothing to do"),
    ],
)
def test_a_plan_out_of_bounds_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(StackError, match=message):
        Plan(**{"rate": 1, "duration": 10, **changes})


@pytest.mark.parametrize("text", ["5", "5/", "x/3", "0/3", "5/0.5", "1001/10", "5/nan"])
def test_a_burst_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(StackError, match="a burst"):
        Burst.from_text(text)


def test_a_burst_is_read() -> None:
    assert Burst.from_text("50/2.5") == Burst(50, 2.5)


@pytest.mark.parametrize(
    "text", ["", "mail=1", "images", "images=x", "images=-1", "images=1,images=2", "images=²"]
)
def test_a_mix_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(StackError, match="a mix is"):
        mix_from_text(text)


@pytest.mark.parametrize("text", ["images=0", "images=1001"])
def test_the_weights_of_a_mix_are_bounded(text: str) -> None:
    with pytest.raises(StackError, match="add up to 1 to 1000"):
        mix_from_text(text)


def test_kinds_come_up_as_their_weights_say_and_evenly() -> None:
    mix = mix_from_text(DEFAULT_MIX)
    kinds = list(islice(in_turn(mix), 80))
    assert Counter(kinds) == {"newsletter": 60, "images": 10, "capacity": 10}
    for start in range(0, 80, 8):
        assert Counter(kinds[start : start + 8]) == mix


@pytest.mark.parametrize("share", [0, 0.01, 0.1, 0.25, 0.3, 0.5, 1])
def test_a_share_is_met_exactly(share: float) -> None:
    assert sum(islice(spread(share), 1000)) == round(1000 * share)


# --- the requests --------------------------------------------------------------------------------


def test_a_newsletter_has_the_asked_share_of_recipients_that_the_sink_refuses() -> None:
    workloads = Workloads(ROOT, recipients=20, failures=0.1)
    rules = RecipientRules()
    addresses: list[str] = []
    for _ in range(10):
        addresses += json.loads(workloads.request("newsletter").body)["recipients"]
    assert len(set(addresses)) == 200
    assert [rules.error_code(address) for address in addresses].count(550) == 20
    assert [rules.error_code(address) for address in addresses].count(None) == 180


def test_mailpit_refuses_the_same_addresses_as_our_own_sink() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    allowed = compose["services"]["mail"]["environment"]["MP_SMTP_ALLOWED_RECIPIENTS"]
    rules = RecipientRules()
    for address in ("reject-550@example.com", "reject-550+load-1@example.com"):
        assert rules.error_code(address) == 550
        assert re.search(allowed, address) is None
    for address in ("r@example.com", "re@example.com", "rejected@a.org", "load+1@a.org"):
        assert rules.error_code(address) is None
        assert re.search(allowed, address)


def test_a_missing_picture_is_named(tmp_path: Any) -> None:
    with pytest.raises(StackError, match=r"sample\.jpg"):
        Workloads(tmp_path, 1, 0).request("images")


# --- the counts ----------------------------------------------------------------------------------


def test_quantiles_are_values_that_were_measured() -> None:
    assert quantile([], 0.5) is None
    assert quantile([7], 0.95) == 7
    assert quantile(range(1, 101), 0.5) == 50
    assert quantile(range(1, 101), 0.95) == 95
    assert quantile([1, 2], 0.95) == 2


def test_answers_and_ends_are_counted_once_each() -> None:
    tally = Tally()
    for answer in (
        Answer(202, 0.01, job="a"),
        Answer(202, 0.02, job="b"),
        Answer(202, 0.03, job="c"),
        Answer(429, 0.001, retry_after=3),
        Answer(503, 0.001, retry_after=1),
        Answer(500, 0.2),
        Answer(0, 30),
    ):
        tally.answered(answer)
    tally.held_back()
    ended = job("a", "succeeded", result={"sent": 18, "failed": 2})
    tally.seen([ended, job("b", "running"), job("stranger", "failed")])
    tally.seen([ended])

    counts = tally.snapshot()
    assert (counts.submitted, counts.accepted, counts.refused, counts.errors) == (7, 3, 2, 2)
    assert (counts.succeeded, counts.failed, counts.open, counts.held_back) == (1, 0, 2, 1)
    assert counts.mails_refused == 2
    assert counts.wait_p95 == 2.5
    assert counts.submission_p95 == 30
    assert tally.open_jobs() == {"b", "c"}


def test_only_newsletters_refuse_mails() -> None:
    assert job("a", "succeeded", kind="capacity", result={"failed": 3}).mails_refused == 0


# --- the display ---------------------------------------------------------------------------------


def test_a_terminal_shows_one_line_that_is_redrawn() -> None:
    stream, tally = Terminal(), Tally()
    display = Display(stream, 60)
    display.show(0.5, tally.snapshot())
    tally.answered(Answer(202, 0.01, job="a"))
    display.show(1.0, tally.snapshot())
    display.say("done")
    display.say("twice")

    text = stream.getvalue()
    assert text.count("\r") == 2
    assert text.endswith("\ndone\ntwice\n")
    assert "   1/60 s  submitted 1  accepted 1  refused 0  done 0  failed 0  open 1" in text


def test_elsewhere_a_line_is_written_every_ten_seconds() -> None:
    stream = io.StringIO()
    display = Display(stream, 60)
    for moment in range(60):
        display.show(moment, Tally().snapshot())
    assert len(stream.getvalue().splitlines()) == 6
    assert "\r" not in stream.getvalue()


def test_the_line_fits_a_terminal_of_eighty_columns_until_counts_are_large() -> None:
    tally = Tally()
    for number in range(99):
        tally.answered(Answer(202, 0.01, job=str(number)))
    assert len(progress_line(59, 60, tally.snapshot())) <= 100


def test_seconds_are_written_for_people() -> None:
    assert [seconds(value) for value in (None, 0.0123, 1.25)] == ["-", "12 ms", "1.2 s"]


def test_the_table_has_a_line_for_every_count() -> None:
    tally = Tally()
    tally.answered(Answer(202, 0.01, job="a"))
    text = summary_table(0.5, tally.snapshot())
    assert re.search(r"^submitted +1 +2\.0 a second$", text, re.MULTILINE)
    assert re.search(r"^submission +p50 10 ms, p95 10 ms", text, re.MULTILINE)
    assert len(text.splitlines()) == 12


# --- the run -------------------------------------------------------------------------------------


class Service(Client):
    """Answers as told, without a network; real waiting is in the integration test."""

    def __init__(self, answers: list[Answer]) -> None:
        self._answers = iter(answers)

    def submit(self, request: Request) -> Answer:
        return next(self._answers)

    def newest_jobs(self, cursor: str | None = None) -> tuple[list[JobState], str | None]:
        if cursor is None:
            return [job("a", "succeeded")], "next"
        return [job("b", "succeeded")], None


def run(plan: Plan, answers: list[Answer]) -> Generator:
    made = Generator(
        plan, Service(answers), Workloads(ROOT, 1, 0), Display(io.StringIO(), plan.duration)
    )
    made.run()
    return made


def test_what_falls_into_a_pause_is_held_back_and_not_sent_later() -> None:
    accepted = [Answer(202, 0.01, job=str(number)) for number in range(20)]
    made = run(Plan(rate=10, duration=2), [Answer(429, 0.01, retry_after=1), *accepted])
    counts = made.tally.snapshot()
    assert counts.refused == 1
    assert 8 <= counts.held_back <= 11
    assert counts.submitted + counts.held_back == 20


def test_looks_through_the_pages_until_every_open_job_was_seen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(generator, "LOOK", 0.01)
    made = run(Plan(rate=2, duration=1), [Answer(202, 0.01, job=name) for name in "ab"])
    made.wait_for_ends(5)
    assert made.tally.snapshot().succeeded == 2


def test_a_plan_above_the_rate_limit_says_so() -> None:
    fast = Plan(rate=20, duration=10)
    note = rate_limit_note(fast, {})
    assert note is not None
    assert "1200 requests a minute" in note
    assert "takes 600" in note
    assert rate_limit_note(fast, {"API_RATE_LIMIT_PER_MINUTE": "0"}) is None
    assert rate_limit_note(Plan(rate=2, duration=10), {}) is None


def test_the_default_rate_limit_is_the_applications() -> None:
    settings = (ROOT / "app" / "config" / "settings.py").read_text()
    assert re.search(rf'"API_RATE_LIMIT_PER_MINUTE", {DEFAULT_RATE_LIMIT}\b', settings)


def test_a_stack_that_is_down_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WEB_PORT", "1")
    monkeypatch.setenv("API_TOKENS", "local:secret")
    assert main(["--rate", "1", "--duration", "1"]) == 1
    assert "Is it up? Try make up" in capsys.readouterr().err
