"""The stack whose alerts are fired, the watch on them, and the table at the end."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.embedded import monitoring
from tests.observability import comparison, hurry, report
from tests.observability.comparison import Comparison
from tests.observability.fired import Fired
from tests.observability.phases import ALWAYS, alerts, faults
from tests.observability.report import Row
from tests.observability.victim import APPLICATION, Victim
from tests.observability.watch import Watch, watching
from tests.support import embedded_stack
from tests.support.alert_receiver import AlertReceiver, running_alert_receiver
from tests.support.alertmanager import Alertmanager
from tests.support.roles import ROOT

FIRED: pytest.StashKey[list[Fired]] = pytest.StashKey()
COMPARED: pytest.StashKey[Comparison] = pytest.StashKey()
PAGE = ROOT / "docs" / "alerts.md"


def pytest_configure(config: pytest.Config) -> None:
    """Begin empty tables."""
    config.stash[FIRED] = []
    config.stash[COMPARED] = Comparison()


@pytest.fixture(scope="session")
def fired(request: pytest.FixtureRequest) -> list[Fired]:
    """Return what has fired."""
    return request.config.stash[FIRED]


@pytest.fixture(scope="session")
def compared(request: pytest.FixtureRequest) -> Comparison:
    """Return what both exporters have counted."""
    return request.config.stash[COMPARED]


@pytest.fixture(scope="session")
def alert_receiver() -> Iterator[AlertReceiver]:
    """Run what alerts are posted to."""
    with running_alert_receiver() as receiver:
        yield receiver


@pytest.fixture(scope="session")
def dead_mans_switch() -> Iterator[AlertReceiver]:
    """Run what is called as long as alerts work."""
    with running_alert_receiver() as receiver:
        yield receiver


@pytest.fixture(scope="session")
def victim(
    tmp_path_factory: pytest.TempPathFactory,
    alert_receiver: AlertReceiver,
    dead_mans_switch: AlertReceiver,
) -> Iterator[Victim]:
    """Run the stack that is broken."""
    left_out = [program.title for program in monitoring.PROGRAMS if not program.path]
    if left_out and not os.environ.get("CI"):
        pytest.skip(f"not installed (.ci/prometheus install): {', '.join(left_out)}")
    assert not left_out, f"CI must fire the alerts, but there is no {', '.join(left_out)}"
    directory = tmp_path_factory.mktemp("alerts")
    root = hurry.copy_of_the_repository(directory / "repository")
    with embedded_stack.running(
        directory,
        root=root,
        more_code=APPLICATION,
        DJANGO_SETTINGS_MODULE="alert_settings",
        ALERT_TIME_SCALE=str(hurry.TIME_SCALE),
        ALERT_WEBHOOK_URL=alert_receiver.url,
        ALERT_WATCHDOG_URL=dead_mans_switch.url,
        EXPORTER_SCAN_SECONDS="1",
        FAULT_INJECTION="true",
        API_RATE_LIMIT_PER_MINUTE="0",
        WORKER_WARM_SHUTDOWN_SECONDS="2",
        WORKER_CONCURRENCY="6",
    ) as stack:
        yield Victim(stack, alert_receiver)


@pytest.fixture(scope="session")
def watch(victim: Victim) -> Iterator[Watch]:
    """Look at its Alertmanager from now on."""
    url = f"http://127.0.0.1:{victim.stack.values['ALERTMANAGER_PORT']}"
    with watching(Alertmanager(url)) as running:
        yield running


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, exitstatus: int, config: pytest.Config
) -> None:
    """Print the tables; write them to their pages if ``*_REPORT`` says so.

    That of the alerts after a whole run only, in which all is well.
    """
    if config.stash[COMPARED].rows:
        terminalreporter.write_sep("=", "exporters")
        terminalreporter.write_line(comparison.as_text(config.stash[COMPARED]))
        if os.environ.get("EXPORTERS_REPORT") == "write" and exitstatus == pytest.ExitCode.OK:
            comparison.write(config.stash[COMPARED])
    seen = config.stash[FIRED]
    if not seen:
        return
    always = Row(ALWAYS, "none: it always fires", None, None)
    rows = [always, *(fired.row() for fired in seen)]
    terminalreporter.write_sep("=", "alerts")
    terminalreporter.write_line(report.as_text(rows))
    if os.environ.get("ALERTS_REPORT") != "write":
        return
    if exitstatus != 0 or len(seen) != sum(len(alerts(fault)) for fault in faults()):
        terminalreporter.write_line("not written: a test failed, or faults were left out")
    else:
        report.write(Path(PAGE), rows)
        terminalreporter.write_line(f"written to {PAGE.relative_to(ROOT)}")
