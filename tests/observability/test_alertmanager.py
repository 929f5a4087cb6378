"""A real Alertmanager with our configuration: who hears of what, when, and in which words."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from config import topology
from deploy.embedded import monitoring
from deploy.embedded.servers import free_port
from tests.rules.stories import ALL
from tests.rules.story import Fires, all_labels
from tests.support.alert_receiver import AlertReceiver, running_alert_receiver
from tests.support.alertmanager import Alertmanager
from tests.support.mail_sink import MailSink
from tests.support.roles import ROOT, wait_until

FOLDER = ROOT / "deploy" / "prometheus"
RENDERER = FOLDER / "alertmanager-configuration"
MAIL = {
    "ALERT_MAIL_TO": "on-call@example.com,duty@example.com",
    "ALERT_MAIL_FROM": "Celeriac alerts <alerts@example.com>",
}
SERVER = {"EMAIL_HOST": "mail.example.com", "EMAIL_PORT": "587"}
ALERT = {
    "namespace": "celeriac", "severity": "critical", "area": "queues",
    "alertname": "CeleryQueueStalled", "queue_name": "default",
}  # fmt: skip
ANNOTATIONS = {
    "summary": "Queue default is not worked on",
    "description": "42 messages wait & <nothing> has started for 5 minutes.",
    "runbook_url": "https://example.com/runbooks/CeleryQueueStalled",
    "dashboard_url": "https://example.com/d/celeriac-queues?var-queue_name=default&from=now-1h",
}

pytestmark = pytest.mark.skipif(
    not (monitoring.ALERT_MANAGER.path and shutil.which("amtool")) and not os.environ.get("CI"),
    reason="Alertmanager is not installed: .ci/prometheus install",
)


def render(**environment: str) -> str:
    """Return the configuration; with nothing else in the environment."""
    done = subprocess.run(
        [RENDERER],
        env={"PATH": os.environ["PATH"], **environment},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture
def start(tmp_path: Path) -> Callable[[str], Any]:
    """Return what runs an Alertmanager with a configuration."""

    @contextmanager
    def run(configuration: str) -> Iterator[Alertmanager]:
        program = monitoring.ALERT_MANAGER.path
        assert program, "CI must test Alertmanager, but it is not installed"
        file = tmp_path / "alertmanager.yml"
        file.write_text(configuration, encoding="utf-8")
        address = f"127.0.0.1:{free_port()}"
        with (tmp_path / "alertmanager.log").open("wb") as log:
            process = subprocess.Popen(
                [
                    program,
                    f"--config.file={file}",
                    f"--storage.path={tmp_path / 'data'}",
                    f"--web.listen-address={address}",
                    f"--web.external-url=http://{address}",
                    "--cluster.listen-address=",
                ],
                stdout=log,
                stderr=subprocess.STDOUT,
            )
        alertmanager = Alertmanager(f"http://{address}")
        try:
            wait_until(alertmanager.is_ready, what="Alertmanager is ready")
            yield alertmanager
        finally:
            process.terminate()
            process.wait(10)

    return run


@pytest.fixture
def receiver() -> Iterator[AlertReceiver]:
    with running_alert_receiver() as running:
        yield running


def hurried(configuration: str) -> str:
    """Return it with groups that wait for a second instead of minutes; the order stays."""
    return re.sub(r"group_(wait|interval): \d+[ms]", r"group_\1: 1s", configuration)


@pytest.mark.parametrize(
    "settings",
    [
        dict(itertools.chain.from_iterable(chosen))
        for chosen in itertools.product(
            [(), [*MAIL.items(), *SERVER.items()]],
            [(), [("ALERT_WEBHOOK_URL", "https://example.com/it's?a=%20&b={{c}}")]],
            [(), [("ALERT_WATCHDOG_URL", "https://example.com/alive")]],
            [(), [("EMAIL_HOST_USER", "us'er"), ("EMAIL_HOST_PASSWORD", "p'a$s: #s{{w}}\\rd")]],
        )
    ],
)
def test_every_way_to_set_it_up_is_valid(tmp_path: Path, settings: dict[str, str]) -> None:
    text = render(**settings)
    file = tmp_path / "alertmanager.yml"
    file.write_text(text, encoding="utf-8")

    done = subprocess.run(
        ["amtool", "check-config", file], capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, done.stderr
    assert "1 templates" in done.stdout
    parsed = yaml.safe_load(text)
    receivers = {entry.pop("name"): entry for entry in parsed["receivers"]}
    for name in ("critical", "warning"):
        assert ("email_configs" in receivers[name]) == ("ALERT_MAIL_TO" in settings)
        hooks = [hook["url"] for hook in receivers[name].get("webhook_configs", [])]
        assert hooks == [settings[key] for key in ("ALERT_WEBHOOK_URL",) if key in settings]
    assert ("webhook_configs" in receivers["watchdog"]) == ("ALERT_WATCHDOG_URL" in settings)
    if "ALERT_MAIL_TO" in settings and "EMAIL_HOST_USER" in settings:
        assert parsed["global"]["smtp_auth_username"] == settings["EMAIL_HOST_USER"]
        assert parsed["global"]["smtp_auth_password"] == settings["EMAIL_HOST_PASSWORD"]


@pytest.mark.parametrize(("value", "tls"), [("", "no"), ("false", "no"), ("true", "yes")])
def test_the_connection_to_the_mail_server_is_encrypted_as_that_of_the_application(
    value: str, tls: str
) -> None:
    parsed = yaml.safe_load(render(**MAIL, **SERVER, EMAIL_USE_TLS=value))
    assert parsed["global"]["smtp_require_tls"] is (tls == "yes")
    assert parsed["global"]["smtp_smarthost"] == "mail.example.com:587"


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"ALERT_MAIL_TO": "a@example.com"}, "ALERT_MAIL_FROM"),
        (MAIL, "EMAIL_HOST"),
        ({"ALERT_WEBHOOK_URL": "https://example.com/\nroute: {}"}, "more than one line"),
    ],
)
def test_a_fault_in_the_settings_is_named(settings: dict[str, str], named: str) -> None:
    done = subprocess.run(
        [RENDERER], env={"PATH": os.environ["PATH"], **settings}, capture_output=True, check=False
    )
    assert done.returncode != 0
    assert named in done.stderr.decode()


@pytest.mark.parametrize(
    ("labels", "receiver"),
    [
        (["alertname=Watchdog", "severity=none"], "watchdog"),
        (["alertname=RedisDown", "severity=critical"], "critical"),
        (["alertname=RedisMemoryHigh", "severity=warning"], "warning"),
        (["alertname=SomethingOfYours"], "warning"),
    ],
)
def test_urgency_decides_who_hears_of_it(tmp_path: Path, labels: list[str], receiver: str) -> None:
    file = tmp_path / "alertmanager.yml"
    file.write_text(render(), encoding="utf-8")
    done = subprocess.run(
        ["amtool", "config", "routes", "test", f"--config.file={file}",
         f"--verify.receivers={receiver}", *labels],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr


def test_workers_that_are_down_silence_their_own_queues() -> None:
    silenced: dict[str, set[str]] = {}
    for rule in yaml.safe_load(render())["inhibit_rules"]:
        services = [m for m in rule["source_matchers"] if m.startswith("service=")]
        queues = [m for m in rule["target_matchers"] if m.startswith("queue_name=~")]
        if services:
            silenced[services[0].split('"')[1]] = set(queues[0].split('"')[1].split("|"))

    expected: dict[str, set[str]] = {}
    for queue in topology.QUEUES:
        expected.setdefault(queue.worker, set()).add(queue.name)
    assert silenced == expected


def test_a_critical_alert_is_posted_at_once_and_again_when_it_is_over(
    start: Callable[[str], Any], receiver: AlertReceiver
) -> None:
    # Only the end is hurried: it waits for the interval of the group.
    text = render(ALERT_WEBHOOK_URL=receiver.url).replace(
        "group_interval: 1m", "group_interval: 1s"
    )
    with start(text) as alertmanager:
        alertmanager.alert(annotations=ANNOTATIONS, **ALERT)
        wait_until(lambda: receiver.names() == ["CeleryQueueStalled"], timeout=5)
        [posted] = receiver.notifications[0]["alerts"]
        assert posted["annotations"] == ANNOTATIONS

        alertmanager.alert(minutes=0, annotations=ANNOTATIONS, **ALERT)
        wait_until(lambda: receiver.names("resolved") == ["CeleryQueueStalled"], timeout=15)


def test_warnings_come_together(start: Callable[[str], Any], receiver: AlertReceiver) -> None:
    text = hurried(render(ALERT_WEBHOOK_URL=receiver.url)).replace("_wait: 1s", "_wait: 3s")
    with start(text) as alertmanager:
        for name in ("CeleryTaskFailing", "RedisMemoryHigh"):
            alertmanager.alert(**{**ALERT, "alertname": name, "severity": "warning"})
        wait_until(lambda: len(receiver.names()) == 2, timeout=15)
        assert len(receiver.notifications) == 1


def test_the_watchdog_calls_its_own_address_only(
    start: Callable[[str], Any], receiver: AlertReceiver
) -> None:
    with running_alert_receiver() as watcher:
        text = render(ALERT_WEBHOOK_URL=receiver.url, ALERT_WATCHDOG_URL=watcher.url)
        # As often as it repeats; here in seconds.
        text = re.sub(r"repeat_interval: 1m\n", "repeat_interval: 1s\n", hurried(text))
        with start(text) as alertmanager:
            alertmanager.alert(**{**ALERT, "alertname": "Watchdog", "severity": "none"})
            wait_until(lambda: len(watcher.names()) >= 2, timeout=20, what="it calls again")
            alertmanager.alert(**ALERT)
            wait_until(receiver.names, timeout=10)
    assert set(receiver.names()) == {"CeleryQueueStalled"}
    assert set(watcher.names()) == {"Watchdog"}


def as_the_rules_make_it(alert: str, /, **values: str) -> dict[str, str]:
    """Return an alert with the labels that Prometheus gives it, no more and no fewer.

    They are taken from a story of tests/rules, which promtool has compared with the rule.

    Args:
        alert: Its name.
        values: Labels that it has, with the values that are wanted here.
    """
    for story in ALL:
        if isinstance(story, Fires) and story.alert == alert and story.namespace:
            labels = all_labels(story)
            if values.keys() <= labels.keys():
                return {"alertname": alert, **labels, **values}
    raise AssertionError(f"no story says that {alert} has the labels {sorted(values)}")


@pytest.mark.parametrize(
    ("cause", "consequence"),
    [
        (as_the_rules_make_it(cause, **values), as_the_rules_make_it(consequence, **others))
        for cause, values, consequence, others in (
            ("RedisDown", {}, "CeleryQueueStalled", {}),
            ("RedisDown", {}, "CeleryRelayCannotPublish", {}),
            ("PostgresDown", {}, "CeleryBeatStalled", {}),
            (
                "CeleryWorkerDown", {"service": "worker"},
                "CeleryQueueHasNoConsumer", {"queue_name": "mail"},
            ),
            (
                "CeleryQueueingErrorBudgetBurnFast", {"queue_name": "mail"},
                "CeleryQueueingErrorBudgetBurnSlow", {"queue_name": "mail"},
            ),
            (
                "CeleryExecutionErrorBudgetBurnFast", {"queue_name": "mail", "name": "a.task"},
                "CeleryExecutionErrorBudgetBurnSlow", {"queue_name": "mail", "name": "a.task"},
            ),
            ("DjangoErrorBudgetBurnFast", {}, "DjangoErrorBudgetBurnSlow", {}),
            (
                "CeleryWorkerDown", {"service": "worker"},
                "MetricsTargetDown", {"job": "celery-worker", "service": "worker"},
            ),
            ("CeleryBeatStalled", {}, "MetricsTargetDown", {"job": "celery-beat"}),
            ("CeleryRelayStalled", {}, "MetricsTargetDown", {"job": "celery-relay"}),
            ("DjangoDown", {}, "MetricsTargetDown", {"job": "web"}),
        )
    ],
    ids=lambda labels: labels["alertname"],
)  # fmt: skip
def test_a_cause_silences_its_consequences(
    start: Callable[[str], Any],
    receiver: AlertReceiver,
    cause: dict[str, str],
    consequence: dict[str, str],
) -> None:
    with start(hurried(render(ALERT_WEBHOOK_URL=receiver.url))) as alertmanager:
        alertmanager.alert(**cause)
        wait_until(lambda: receiver.names() == [cause["alertname"]], timeout=10)
        alertmanager.alert(**consequence)
        # The same in another namespace has another cause, and is posted.
        alertmanager.alert(**{**consequence, "namespace": "another"})
        wait_until(lambda: len(receiver.names()) >= 2, timeout=10)

        assert receiver.names() == [cause["alertname"], consequence["alertname"]]
        assert receiver.notifications[-1]["commonLabels"]["namespace"] == "another"
        states = {
            (alert["labels"]["alertname"], alert["labels"]["namespace"]): alert["status"]["state"]
            for alert in alertmanager.alerts()
        }
        assert states[consequence["alertname"], consequence["namespace"]] == "suppressed"


@pytest.mark.parametrize(
    ("cause", "other"),
    [
        (
            as_the_rules_make_it("CeleryWorkerDown", service="worker-bulk"),
            as_the_rules_make_it("CeleryQueueStalled", queue_name="default"),
        ),
        (
            as_the_rules_make_it("CeleryWorkerDown", service="worker-bulk"),
            as_the_rules_make_it("MetricsTargetDown", job="celery-worker", service="worker"),
        ),
        (
            as_the_rules_make_it("CeleryExecutionErrorBudgetBurnFast", name="a.task"),
            as_the_rules_make_it("CeleryExecutionErrorBudgetBurnSlow", name="another.task"),
        ),
    ],
    ids=lambda labels: labels["alertname"],
)
def test_a_cause_does_not_silence_what_has_another(
    start: Callable[[str], Any],
    receiver: AlertReceiver,
    cause: dict[str, str],
    other: dict[str, str],
) -> None:
    with start(hurried(render(ALERT_WEBHOOK_URL=receiver.url))) as alertmanager:
        alertmanager.alert(**cause)
        wait_until(lambda: receiver.names() == [cause["alertname"]], timeout=10)
        alertmanager.alert(**other)
        wait_until(lambda: receiver.names() == [cause["alertname"], other["alertname"]], timeout=10)


def test_a_mail_says_what_is_wrong_what_to_do_and_where_to_look(
    start: Callable[[str], Any], mail_server: MailSink
) -> None:
    mail_server.clear()
    server = {"EMAIL_HOST": "127.0.0.1", "EMAIL_PORT": os.environ["EMAIL_PORT"]}
    with start(hurried(render(**MAIL, **server))) as alertmanager:
        alertmanager.alert(annotations=ANNOTATIONS, **ALERT)
        wait_until(lambda: len(mail_server.recipients()) == 1, timeout=15, what="a mail arrives")
        alertmanager.alert(minutes=0, annotations=ANNOTATIONS, **ALERT)
        wait_until(lambda: len(mail_server.recipients()) == 2, timeout=15, what="the end too")

    listed = mail_server.request("/api/v1/messages")["messages"]
    subjects = {message["Subject"] for message in listed}
    assert subjects == {
        "[CRITICAL] Queue default is not worked on",
        "[RESOLVED] Queue default is not worked on",
    }
    [first] = [message for message in listed if message["Subject"].startswith("[CRITICAL]")]
    mail = mail_server.request(f"/api/v1/message/{first['ID']}")
    assert {person["Address"] for person in mail["To"]} == {
        "on-call@example.com", "duty@example.com",
    }  # fmt: skip
    for text in ANNOTATIONS.values():
        assert text in mail["Text"]
    assert "<nothing>" not in mail["HTML"], "what an alert says is text, not HTML"
    assert "&lt;nothing&gt;" in mail["HTML"]
    links = re.findall(r'href="([^"]+)"', mail["HTML"])
    assert ANNOTATIONS["runbook_url"] in links
    assert ANNOTATIONS["dashboard_url"].replace("&", "&amp;") in links
    assert "template" not in mail["Text"] + mail["HTML"] + first["Subject"]
