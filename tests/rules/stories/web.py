"""Stories of the web role."""

from tests.rules.story import Fires, Quiet, Story, flat, nothing, rising

_UP = 'up{job="web", instance="web"}'
_WORKER = 'up{job="celery-worker", service="worker", instance="w1"}'
_NOBODY = "No web process of celeriac answers a scrape: people and programs cannot submit work."


def _responses(status: str, values: str, view: str = "api:jobs") -> dict[str, str]:
    return {
        f'django_http_responses_total_by_status_view_method_total{{status="{status}", '
        f'view="{view}", method="GET"}}': values
    }


def _latency(view: str, *, fast: float, slow: float, minutes: float = 20) -> dict[str, str]:
    """Return a histogram: requests a minute that take 0.1 s, and that take 2 s."""
    name = "django_http_requests_latency_seconds_by_view_method"
    labels = f'view="{view}", method="GET"'
    return {
        f'{name}_bucket{{{labels}, le="0.1"}}': rising(0, fast, minutes),
        f'{name}_bucket{{{labels}, le="1.0"}}': rising(0, fast, minutes),
        f'{name}_bucket{{{labels}, le="2.5"}}': rising(0, fast + slow, minutes),
        f'{name}_bucket{{{labels}, le="+Inf"}}': rising(0, fast + slow, minutes),
        f"{name}_count{{{labels}}}": rising(0, fast + slow, minutes),
    }


STORIES: list[Story] = [
    Fires(
        "its target is down",
        "DjangoDown",
        {_UP: f"{flat(1, 5)} {flat(0, 10)}"},
        at=6.25,
        not_before=5.75,
        description=_NOBODY,
    ),
    Fires(
        "its target vanishes",
        "DjangoDown",
        {_UP: f"{flat(1, 5)} stale", _WORKER: flat(1, 15)},
        at=6.25,
        not_before=5.75,
        description=_NOBODY,
    ),
    Quiet(
        "replaced within less than a minute; one of two answers",
        "DjangoDown",
        {
            _UP: f"{flat(1, 5)} {flat(0, 0.75)} {flat(1, 5)} stale",
            'up{job="web", instance="web-2"}': f"{nothing(10)} {flat(1, 10)}",
            'up{job="web", instance="web-3"}': flat(0, 20),
            _WORKER: flat(1, 20),
        },
        until=19,
    ),
    Fires(
        "a fifth of the answers are errors",
        "DjangoErrorBudgetBurnFast",
        {**_responses("200", "0+8x90"), **_responses("500", "0+2x90")},
        at=75,
        step=60,
        description="20% of the requests were answered with a server error, in the last hour. "
        "1% over 30 days is the budget.",
    ),
    Fires(
        "a hundred and twenty views fail once each: every series is born at 1, and stays there",
        "DjangoErrorBudgetBurnFast",
        {
            name: values
            for number in range(120)
            for name, values in _responses(
                "500", f"_x{70 + number // 24} 1x30", view=f"v{number}"
            ).items()
        },
        at=77,
        step=60,
        description="100% of the requests were answered with a server error, in the last hour. 1% "
        "over 30 days is the budget.",
    ),
    Quiet(
        "14 %; many 404; an error a day; an outage of ten minutes that is over; nobody asks",
        "DjangoErrorBudgetBurnFast",
        {
            **_responses("200", "0+86x200"),
            **_responses("404", "0+900x200", view="pages"),
            **_responses("503", "0+14x200"),
            'django_http_responses_total_by_status_view_method_total{namespace="b", status="500"}': "_x60 1x140",
            'django_http_responses_total_by_status_view_method_total{namespace="c", status="500"}': "900x200",
        },
        until=200,
        step=60,
    ),
    Fires(
        "7 % are errors for hours",
        "DjangoErrorBudgetBurnSlow",
        {**_responses("200", "0+93x480"), **_responses("502", "0+7x480")},
        at=430,
        step=60,
        description="7% of the requests were answered with a server error, in the last six hours. "
        "1% over 30 days is the budget.",
    ),
    Fires(
        "one request a minute, at night, and each fails",
        "DjangoErrorBudgetBurnSlow",
        {**_responses("200", "0+1x240 240x120"), **_responses("500", "0x240 0+1x120")},
        # 6 % of six hours are reached after some minutes, and must last for a quarter of an hour.
        at=280,
        not_before=260,
        step=60,
        description="13.98% of the requests were answered with a server error, in the last six "
        "hours. 1% over 30 days is the budget.",
    ),
    Quiet(
        "5.9 % for hours; two of five fail, or three at once and no more",
        "DjangoErrorBudgetBurnSlow",
        {
            **_responses("200", "0+941x480"),
            **_responses("502", "0+59x480"),
            'django_http_responses_total_by_status_view_method_total{namespace="b", status="500"}': "0+0.4x480",
            'django_http_responses_total_by_status_view_method_total{namespace="b", status="200"}': "0+0.6x480",
            'django_http_responses_total_by_status_view_method_total{namespace="c", status="500"}': "0x100 3x380",
            'django_http_responses_total_by_status_view_method_total{namespace="c", status="200"}': "9x480",
        },
        until=480,
        step=60,
    ),
    Fires(
        "6 % of a view's answers take two seconds",
        "DjangoLatencyHigh",
        {**_latency("slow", fast=94, slow=6), **_latency("quick", fast=100, slow=0)},
        at=8,
        not_before=4.75,
        labels={"view": "slow", "method": "GET"},
        description="5 % of the GET requests to slow take 1.25s or longer.",
    ),
    Quiet(
        "4 % are slow; all are, of a view that one person opens; nobody asks",
        "DjangoLatencyHigh",
        {
            **_latency("busy", fast=96, slow=4),
            **_latency("rare", fast=0, slow=1.8),
            **_latency("never", fast=0, slow=0),
        },
        until=20,
    ),
    Fires(
        "a migration is missing",
        "DjangoMigrationsUnapplied",
        {
            'web_migrations_unapplied{instance="web"}': flat(1, 20),
            'web_migrations_unapplied{instance="web-2"}': flat(0, 20),
        },
        at=10.5,
        not_before=9.75,
        description="Migrations of the running code that are not applied: 1. Its web processes are "
        "not ready.",
    ),
    Quiet(
        "a deployment of nine minutes",
        "DjangoMigrationsUnapplied",
        {"web_migrations_unapplied": f"{flat(0, 5)} {flat(2, 9.75)} {flat(0, 20)}"},
        until=30,
    ),
]
