"""django-prometheus' counts of requests, with two faults mended (docs/decisions/0029)."""

from __future__ import annotations

from typing import Any

from django.http import HttpRequest
from django_prometheus.middleware import PrometheusAfterMiddleware


class RequestMetricsMiddleware(PrometheusAfterMiddleware):
    """Counts requests by view, method and status, and how long they took."""

    def label_metric(
        self, metric: Any, request: HttpRequest, response: Any = None, **labels: Any
    ) -> Any:
        """Return the series for these labels.

        The method is one that HTTP knows, in each metric: clients may send what they like, and each
        new one would be a series for ever.
        """
        if "method" in labels:
            labels["method"] = self._method(request)
        return super().label_metric(metric, request, response, **labels)

    def process_exception(self, request: HttpRequest, exception: Exception) -> None:
        """Count an exception of a view.

        Not its duration: that is measured at the response, which there will be, and would be in the
        histogram twice.
        """
        name = type(exception).__name__
        self.label_metric(self.metrics.exceptions_by_type, request, type=name).inc()
        view = self._get_view_name(request)
        self.label_metric(self.metrics.exceptions_by_view, request, view=view).inc()
