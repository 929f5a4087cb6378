"""What the Overview says when something is wrong or gone, judged by promtool."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.grafana.dashboards.trouble import TROUBLE
from deploy.prometheus.promtool import Promtool
from deploy.prometheus.scrape_configuration import INTERVAL_SECONDS
from tests.observability.dashboard_queries import as_grafana_sends, queries

promtool = Promtool.find()
pytestmark = pytest.mark.skipif(promtool is None, reason="promtool is not installed")

#: Minutes from the first sample to the question: a little more than the window of the bars.
ASKED_AT = 6
#: What a tile says that cannot know.
UNKNOWN = -1

Series = Mapping[str, str]

TARGETS: Series = {
    f"up{{{labels}}}": "1x40"
    for labels in (
        'job="celery-worker", service="worker"',
        'job="celery-worker", service="worker-bulk"',
        'job="celery-beat"',
        'job="celery-relay"',
        'job="web"',
        'job="celery-exporter"',
        'job="redis"',
        'job="postgres"',
        'job="prometheus"',
        'job="alertmanager"',
    )
}
WORKER: Series = {"celery_worker_up": "1x40"}
EXPORTER: Series = {
    'celery_queue_time_limit_seconds{queue_name="default"}': "60x40",
    "celery_dead_letter_oldest_age_seconds": "0x40",
}
RUN: Series = {
    'celery_worker_oldest_active_task_seconds{name="add"}': "30x40",
    'celery_task_started_total{name="add", queue_name="default"}': "1x40",
}


def ask(folder: Path, expression: str, series: Series, answers: list[dict[str, Any]]) -> None:
    """Check what Prometheus answers to a query of a dashboard."""
    assert promtool is not None
    question = {
        "expr": as_grafana_sends(expression, INTERVAL_SECONDS),
        "eval_time": f"{ASKED_AT}m",
        "exp_samples": answers,
    }
    test = {
        "interval": f"{INTERVAL_SECONDS:g}s",
        "input_series": [{"series": name, "values": values} for name, values in series.items()],
        "promql_expr_test": [question],
    }
    file = folder / "test.yml"
    file.write_text(yaml.safe_dump({"rule_files": [], "tests": [test]}), encoding="utf-8")
    result = promtool.run("test", "rules", file)
    assert result.returncode == 0, result.stdout + result.stderr


def without(series: Series, part: str) -> Series:
    return {name: values for name, values in series.items() if part not in name}


@pytest.mark.parametrize(
    ("tile", "series", "value"),
    [
        ("Not scraped", TARGETS, 0),
        ("Not scraped", without(TARGETS, "relay"), 1),
        ("Not scraped", without(TARGETS, "worker-bulk"), 1),
        ("Not scraped", {**TARGETS, 'up{job="web"}': "0x40"}, 1),
        ("Not scraped", {}, len(TARGETS)),
        ("Longest run", {**WORKER, **EXPORTER}, 0),
        ("Longest run", {**WORKER, **EXPORTER, **RUN}, 0.5),
        ("Longest run", WORKER, UNKNOWN),
        ("Longest run", {**WORKER, **RUN}, UNKNOWN),
        ("Longest run", EXPORTER, UNKNOWN),
        ("Dead letters", EXPORTER, 0),
        ("Dead letters", {**EXPORTER, 'celery_dead_letters{name="add"}': "2x40"}, 2),
        ("Dead letters", {}, UNKNOWN),
    ],
)
def test_a_tile_says_what_is_so_or_that_nobody_knows(
    tmp_path: Path, tile: str, series: Series, value: float
) -> None:
    [query] = [asked for asked in queries() if asked.place == ("overview", tile, "A")]
    ask(tmp_path, query.expression, series, [{"labels": "{}", "value": value}])


#: A stack in health -> what is different when the bar is there.
BARS: Mapping[str, tuple[Series, Series]] = {
    "attempts begun late": (
        {
            "celery_sli_queueing_total": "0x8 2x40",
            "celery_sli_queueing_good_total": "0x8 2x40",
        },
        {"celery_sli_queueing_good_total": "0x8 1x40"},
    ),
    "tasks no worker knows": (
        {"celery_task_unknown_total": "0x40"},
        {"celery_task_unknown_total": "0x8 1x40"},
    ),
    "duplicates ignored": (
        {"celery_task_ignored_total": "0x40"},
        {"celery_task_ignored_total": "0x8 1x40"},
    ),
    "workers whose clock is wrong": (
        {"celery_worker_clock_timestamp_seconds": "1+15x40"},
        {"celery_worker_clock_timestamp_seconds": "-10+15x40"},
    ),
    "periodic runs overdue": (
        {
            'celery_beat_entry_interval_seconds{entry="canary"}': "60x40",
            'celery_beat_entry_last_sent_timestamp_seconds{entry="canary"}': "0+15x40",
        },
        {'celery_beat_entry_last_sent_timestamp_seconds{entry="canary"}': "200x40"},
    ),
    "connections nearly used up": (
        {
            'pg_settings_max_connections{instance="a"}': "100x40",
            'pg_stat_activity_count{instance="a", state="idle"}': "50x40",
            'pg_stat_activity_count{instance="a", state="active"}': "20x40",
            'web_database_pool_connections{instance="b", state="in_use"}': "3x40",
            'web_database_pool_connections{instance="b", state="limit"}': "4x40",
        },
        {'pg_stat_activity_count{instance="a", state="active"}': "31x40"},
    ),
    "transactions over a minute": (
        {
            'pg_stat_activity_max_tx_duration{backend_type="autovacuum worker"}': "900x40",
            'pg_stat_activity_max_tx_duration{backend_type="client backend"}': "1x40",
        },
        {'pg_stat_activity_max_tx_duration{backend_type="client backend"}': "61x40"},
    ),
}


@pytest.mark.parametrize("bar", BARS)
def test_a_bar_is_there_while_its_trouble_is(tmp_path: Path, bar: str) -> None:
    healthy, difference = BARS[bar]
    # How many: Prometheus extrapolates, and versions differ in what they count at the edges.
    seen = f"group by (trouble) ({TROUBLE})"
    ask(tmp_path, seen, healthy, [])
    ask(tmp_path, seen, {**healthy, **difference}, [{"labels": f'{{trouble="{bar}"}}', "value": 1}])


def test_a_pool_that_is_used_up_is_a_bar_too(tmp_path: Path) -> None:
    bar = "connections nearly used up"
    healthy, _ = BARS[bar]
    used = {'web_database_pool_connections{instance="b", state="in_use"}': "4x40"}
    seen = f"group by (trouble) ({TROUBLE})"
    ask(tmp_path, seen, {**healthy, **used}, [{"labels": f'{{trouble="{bar}"}}', "value": 1}])
