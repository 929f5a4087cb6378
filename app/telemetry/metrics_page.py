"""The tables of docs/metrics.md, made from the table of metrics and from django-prometheus.

The page has a pair of marks for each table; what stands between them is written here.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any, Final

from prometheus_client.metrics import MetricWrapperBase

from telemetry import catalogue
from telemetry.catalogue import BEAT, EXPORTER, RELAY, WEB, WORKER, Metric

#: Jobs in the order of the page; each is also the name of its marks.
JOBS: Final = (WORKER, BEAT, RELAY, EXPORTER, WEB)
#: Name of the marks of the metrics that django-prometheus adds to those of web.
REQUESTS: Final = "django-prometheus"

_MARKED = re.compile(
    r"(?P<begin><!-- begin (?P<name>[a-z-]+) -->\n).*?(?P<end><!-- end (?P=name) -->)", re.DOTALL
)


def rendered(page: str) -> str:
    """Return the page with its tables written anew.

    Raises:
        ValueError: A table has no place on the page, or two.
    """
    tables = {job: _table(catalogue.served_by(job)) for job in JOBS}
    tables[REQUESTS] = _table(django_prometheus_metrics())
    names = [match["name"] for match in _MARKED.finditer(page)]
    if sorted(names) != sorted(tables):
        raise ValueError(f"the page has marks for {names}, it needs {sorted(tables)}")
    return _MARKED.sub(lambda match: f"{match['begin']}{tables[match['name']]}{match['end']}", page)


def django_prometheus_metrics() -> Iterator[Metric]:
    """Yield what django-prometheus counts of requests and statements; needs Django's settings."""
    from django_prometheus.db import metrics as statements  # noqa: PLC0415 - registers metrics
    from django_prometheus.middleware import Metrics as Requests  # noqa: PLC0415

    for instrument in (*vars(Requests.get_instance()).values(), *vars(statements).values()):
        if isinstance(instrument, MetricWrapperBase):
            yield _described(instrument)


def _described(instrument: Any) -> Metric:
    # prometheus-client tells what it is made of in private only.
    suffix = "_total" if instrument._type == catalogue.COUNTER else ""  # noqa: SLF001
    return Metric(
        f"{instrument._name}{suffix}",  # noqa: SLF001
        instrument._type,  # noqa: SLF001
        instrument._documentation,  # noqa: SLF001
        (WEB,),
        tuple(instrument._labelnames),  # noqa: SLF001
    )


def _table(metrics: Iterable[Metric]) -> str:
    rows = [
        f"| `{metric.name}` | {metric.kind} | {_code(metric.labels)} | {metric.help} |\n"
        for metric in metrics
    ]
    return "".join(["| metric | type | labels | meaning |\n", "|---|---|---|---|\n", *rows])


def _code(words: Iterable[str]) -> str:
    return ", ".join(f"`{word}`" for word in words)
