"""What dashboards that people have ask of celery-exporter: grafana.com 17508 and 17509.

Names and labels of our metrics are those of danihodovic/celery-exporter where the meaning is the
same, so that these dashboards draw against ours. Their variables are ``cluster``, ``namespace``,
``job``, ``queue_name`` and, on the second, ``task``; each panel filters by all of them, and leaves
out the queue ``None``.

Data only; ``test_dashboard_queries`` asks them of a live stack.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

#: How the dashboards choose: everything of one cluster and namespace, and some jobs.
_CHOSEN: Final = 'cluster="$cluster", namespace="$namespace", job=~"$job"'
_QUEUE: Final = f'{_CHOSEN}, queue_name=~"$queue_name", queue_name!~"None"'
_TASK: Final = f'{_CHOSEN}, name=~"$task", queue_name=~"$queue_name", queue_name!~"None"'

OVERVIEW: Final = "17509 Celery / Tasks / Overview"
BY_TASK: Final = "17508 Celery / Tasks / By Task"

#: The ends that each dashboard counts, by the name of their counter.
_STATES: Final = ("succeeded", "failed", "sent", "received", "rejected", "retried", "revoked")


@dataclass(frozen=True)
class CommunityQuery:
    """One question of a community dashboard.

    Attributes:
        dashboard: Its number and title.
        panel: Title of the panel.
        expression: PromQL with the dashboard's variables.
        needs: What must have happened for an answer; empty: nothing but work.
    """

    dashboard: str
    panel: str
    expression: str
    needs: str = ""

    def __str__(self) -> str:
        """Return the place, as the name of a test."""
        return f"{self.dashboard} / {self.panel}"


#: Variable -> the question for its values; ``.*`` among them is "All".
VARIABLES: Final = {
    "cluster": "label_values(celery_worker_up, cluster)",
    "namespace": 'label_values(celery_worker_up{cluster="$cluster"}, namespace)',
    "job": 'label_values(celery_worker_up{cluster="$cluster", namespace="$namespace"}, job)',
    "queue_name": (
        'label_values(celery_task_received_total{cluster="$cluster", namespace="$namespace",'
        ' job=~"$job", name!~"None"}, queue_name)'
    ),
    "task": (
        'label_values(celery_task_received_total{cluster="$cluster", namespace="$namespace",'
        ' job=~"$job", queue_name=~"$queue_name"}, name)'
    ),
}


def _success_rate(selector: str, window: str, by: str = "") -> str:
    grouped = f" by ({by})" if by else ""
    succeeded, failed = (
        f"sum{grouped} (increase(celery_task_{state}_total{{{selector}}}[{window}]))"
        for state in ("succeeded", "failed")
    )
    return f"{succeeded} / ({succeeded} + {failed} or {succeeded})"


def _quantile(quantile: float, selector: str, by: str) -> str:
    buckets = f"irate(celery_task_runtime_bucket{{{selector}}}[$__rate_interval])"
    return f"histogram_quantile({quantile}, sum by ({by}, le) ({buckets}))"


def _states(selector: str, by: str) -> tuple[tuple[str, str], ...]:
    return tuple(
        (
            state,
            (
                f"sum by ({by}) (round(increase(celery_task_{state}_total{{{selector}}}"
                "[$__rate_interval])))"
            ),
        )
        for state in _STATES
    )


QUERIES: Final = (
    CommunityQuery(OVERVIEW, "Workers", f"count(celery_worker_up{{{_CHOSEN}}} == 1)"),
    CommunityQuery(
        OVERVIEW, "Workers Active Tasks", f"sum(celery_worker_tasks_active{{{_CHOSEN}}})"
    ),
    CommunityQuery(
        OVERVIEW, "Queues", f"count(group by (queue_name) (celery_queue_length{{{_CHOSEN}}}))"
    ),
    CommunityQuery(
        OVERVIEW,
        "Tasks received by workers",
        f"sum(round(increase(celery_task_received_total{{{_CHOSEN}}}[1w])))",
    ),
    CommunityQuery(OVERVIEW, "Tasks Success Rate", _success_rate(_QUEUE, "1w")),
    CommunityQuery(
        OVERVIEW,
        "Average Runtime",
        f"sum(rate(celery_task_runtime_sum{{{_QUEUE}}}[1w]))"
        f" / sum(rate(celery_task_runtime_count{{{_QUEUE}}}[1w])) > 0",
    ),
    CommunityQuery(
        OVERVIEW,
        "Queue Length by Queue",
        f"topk(10, sum by (queue_name) (celery_queue_length{{{_QUEUE}}}))",
    ),
    CommunityQuery(
        OVERVIEW,
        "Task Rate by Name",
        f"topk(10, sum by (name) (rate(celery_task_received_total{{{_QUEUE}}}[6h])))",
    ),
    CommunityQuery(
        OVERVIEW, "Queue Length", f"sum by (job, queue_name) (celery_queue_length{{{_QUEUE}}})"
    ),
    CommunityQuery(OVERVIEW, "Task Stats", _success_rate(_QUEUE, "$__range", "job")),
    *(
        CommunityQuery(
            OVERVIEW,
            f"Tasks Completed, {state}",
            expression,
            needs="a failure" if state == "failed" else "",
        )
        for state, expression in _states(_QUEUE, "job")
    ),
    *(
        CommunityQuery(OVERVIEW, f"Tasks Runtime, {quantile}", _quantile(quantile, _QUEUE, "job"))
        for quantile in (0.5, 0.95, 0.99)
    ),
    CommunityQuery(
        OVERVIEW,
        "Top Failed Tasks",
        f"topk(10, sum by (job, name) (round(increase(celery_task_failed_total{{{_QUEUE}}}[1w]))"
        ") > 0)",
        needs="a failure",
    ),
    CommunityQuery(
        OVERVIEW,
        "Top Task Exceptions",
        "topk(10, sum by (job, exception)"
        f" (round(increase(celery_task_failed_total{{{_QUEUE}}}[1w]))) > 0)",
        needs="a failure",
    ),
    CommunityQuery(
        OVERVIEW,
        "Top Average Runtime",
        f"topk(10, sum by (job, name) (rate(celery_task_runtime_sum{{{_QUEUE}}}[1w]))"
        f" / sum by (job, name) (rate(celery_task_runtime_count{{{_QUEUE}}}[1w])) > 0)",
    ),
    CommunityQuery(
        BY_TASK,
        "Task Rate by Queue",
        f"sum by (queue_name) (rate(celery_task_received_total{{{_TASK}}}[1w]))",
    ),
    CommunityQuery(BY_TASK, "Task Stats", _success_rate(_TASK, "1w", "name")),
    CommunityQuery(
        BY_TASK,
        "Task Exceptions",
        f"sum by (name, exception) (round(increase(celery_task_failed_total{{{_TASK}}}[1w]))) > 0",
        needs="a failure",
    ),
    *(
        CommunityQuery(
            BY_TASK,
            f"Task Events, {state}",
            expression,
            needs="a failure" if state == "failed" else "",
        )
        for state, expression in _states(_TASK, "name")
    ),
    CommunityQuery(BY_TASK, "Task Success Rate", _success_rate(_TASK, "$__rate_interval", "name")),
    *(
        CommunityQuery(BY_TASK, f"Tasks Runtime, {quantile}", _quantile(quantile, _TASK, "name"))
        for quantile in (0.5, 0.95, 0.99)
    ),
)

#: Values of a local stack, everything chosen.
CHOSEN: Final = {
    "cluster": "local",
    "namespace": "celeriac",
    "job": ".*",
    "queue_name": ".*",
    "task": ".*",
}
