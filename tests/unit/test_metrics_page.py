"""docs/metrics.md is written from the table of metrics."""

from __future__ import annotations

import re

import pytest
from django.core.management import CommandError, call_command

from telemetry import catalogue, metrics_page
from tests.support.roles import ROOT

PAGE = ROOT / "docs" / "metrics.md"


def test_the_page_says_what_the_table_says() -> None:
    call_command("metrics_doc", PAGE, check=True)
    text = PAGE.read_text(encoding="utf-8")
    for metric in catalogue.METRICS:
        assert text.count(f"| `{metric.name}` | {metric.kind} |") == len(metric.served_by)


def test_a_page_that_differs_is_refused_and_a_table_without_a_place_too() -> None:
    text = PAGE.read_text(encoding="utf-8")
    stale = text.replace("Messages that wait in the queue", "Something else")
    assert stale != text
    assert metrics_page.rendered(stale) == text
    with pytest.raises(ValueError, match="celery-beat"):
        metrics_page.rendered(re.sub(r"<!-- (begin|end) celery-beat -->\n", "", text))


def test_the_command_says_how_to_write_it(tmp_path_factory: pytest.TempPathFactory) -> None:
    page = tmp_path_factory.mktemp("page") / "metrics.md"
    page.write_text(PAGE.read_text(encoding="utf-8").replace("gauge", "guage"), encoding="utf-8")
    with pytest.raises(CommandError, match="make metrics-doc"):
        call_command("metrics_doc", page, check=True)
    call_command("metrics_doc", page)
    assert page.read_text(encoding="utf-8") == PAGE.read_text(encoding="utf-8")


def test_labels_of_the_public_exporter_that_are_kept_are_in_the_table() -> None:
    for name, labels in {
        "celery_task_received_total": {"name", "queue_name"},
        "celery_task_failed_total": {"name", "queue_name", "exception"},
        "celery_task_sent_total": {"name", "queue_name"},
        "celery_task_runtime": {"name", "queue_name"},
        "celery_task_queue_wait_time": {"queue_name"},
        "celery_worker_up": {"hostname"},
        "celery_worker_tasks_active": {"hostname"},
        "celery_queue_length": {"queue_name"},
    }.items():
        assert set(catalogue.BY_NAME[name].labels) == labels
