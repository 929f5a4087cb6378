"""Are people and programs served?"""

from __future__ import annotations

from typing import Final

from deploy.prometheus.rulebook import burning
from deploy.prometheus.rulebook.pace import HOUR, MINUTE, Pace
from deploy.prometheus.rulebook.promql import OWN_JOBS, grown
from deploy.prometheus.rulebook.rule import CRITICAL, WARNING, Alert, Group

#: Seconds within which 95 of 100 requests of a view should be answered: a person's train of
#: thought breaks after about one (Nielsen, Response Times). A bound of django-prometheus' buckets.
#: Not scaled: it is about speed, not about patience.
SLOW_RESPONSE_SECONDS: Final = 1
#: Requests in ten minutes, below which one slow answer would be the 95th percentile.
LEAST_REQUESTS: Final = 20


def group(pace: Pace) -> Group:
    """Return the alerts of the web role."""
    return Group(
        "celeriac.web",
        (
            _down(pace),
            *burning.alerts(
                pace,
                burning.Promise(
                    "Django",
                    "namespace:django_http_responses",
                    "django_http_responses_total_by_status_view_method_total",
                    "namespace",
                    meaning="Requests are answered with a server error",
                    what="the requests were answered with a server error",
                    dashboard="web-database",
                    born_at_zero=False,
                    rare=_rarely_asked_and_failing(pace),
                ),
            ),
            _slow(pace),
            _migrations(pace),
        ),
        area="web",
    )


def _down(pace: Pace) -> Alert:
    return Alert(
        "DjangoDown",
        CRITICAL,
        "No web process answers",
        f'(\n  group by (namespace) (up{{job=~"{OWN_JOBS}"}})\n'
        f'  or group by (namespace) (last_over_time(up{{job="web"}}[{pace.window(HOUR)}]))\n)\n'
        'unless on (namespace)\ngroup by (namespace) (up{job="web"} == 1)',
        summary="The web role is down",
        description="No web process of {{ $labels.namespace }} answers a scrape: people and "
        "programs cannot submit work.",
        dashboard="web-database",
        hold=pace.hold(MINUTE),
    )


def _rarely_asked_and_failing(pace: Pace) -> str:
    """Return the errors of ten minutes, where there are three and they are most of the answers.

    Nobody asks much at night; whoever does should not be the only one to know. Three: one answer
    that fails tells nothing.
    """
    answers = "django_http_responses_total_by_status_view_method_total"
    errors, every = (
        f"sum by (namespace) ({grown(series, 10 * MINUTE, pace)})"
        for series in (f'{answers}{{status=~"5.."}}', answers)
    )
    return f"  {errors} >= 3\n  and\n  {errors} > 0.5 * {every}"


def _slow(pace: Pace) -> Alert:
    count = grown("django_http_requests_latency_seconds_by_view_method_count", 10 * MINUTE, pace)
    return Alert(
        "DjangoLatencyHigh",
        WARNING,
        f"More than 5 % of a view's requests take longer than {SLOW_RESPONSE_SECONDS} s",
        f"view:django_http_requests_latency:p95_10m > {SLOW_RESPONSE_SECONDS}\n"
        "and on (namespace, view, method)\n"
        f"sum by (namespace, view, method) ({count}) >= {LEAST_REQUESTS}",
        summary="A view answers slowly",
        description="5 % of the {{ $labels.method }} requests to {{ $labels.view }} take "
        "{{ $value | humanizeDuration }} or longer.",
        dashboard="web-database",
        hold=pace.hold(5 * MINUTE),
    )


def _migrations(pace: Pace) -> Alert:
    return Alert(
        "DjangoMigrationsUnapplied",
        WARNING,
        "The code has migrations that the database has not",
        "max by (namespace) (web_migrations_unapplied) > 0",
        summary="Migrations are missing in the database",
        description="Migrations of the running code that are not applied: "
        "{{ $value | printf `%.0f` }}. Its web processes are not ready.",
        dashboard="web-database",
        # A deployment migrates first; code that waits for it is replaced within minutes.
        hold=pace.hold(10 * MINUTE),
    )
