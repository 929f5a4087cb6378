"""Reads `/metrics` of the celery-exporter, and when it read the servers behind it."""

from __future__ import annotations

import time
import urllib.request
from dataclasses import dataclass

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families


@dataclass(frozen=True)
class Scrape:
    """What one scrape said, and when it began and ended in seconds since the epoch."""

    families: dict[str, Metric]
    began: float
    ended: float

    def value(self, name: str, **labels: str) -> float | None:
        """Return the sample with exactly these labels, or None."""
        return self.values(name).get(tuple(sorted(labels.items())))

    def readings_began(self) -> list[float]:
        """Return when the celery-exporter began to read each server that has answered."""
        last = self.by("celery_exporter_last_success_timestamp_seconds", "source")
        lasted = self.by("celery_exporter_read_duration_seconds", "source")
        return [
            last[source] - lasted[source]
            for source in ("broker", "database")
            if self.value(f"celery_{source}_up")
        ]

    def values(self, name: str) -> dict[tuple[tuple[str, str], ...], float]:
        """Return all samples of a gauge by their labels."""
        family = self.families[name]
        return {tuple(sorted(sample.labels.items())): sample.value for sample in family.samples}

    def by(self, name: str, label: str) -> dict[str, float]:
        """Return all samples of a gauge by one label, which must tell them apart."""
        family = self.families[name]
        found = {sample.labels[label]: sample.value for sample in family.samples}
        assert len(found) == len(family.samples), f"{name} has more labels than {label}"
        return found


def scrape(url: str, *, timeout: float = 10) -> Scrape:
    """Ask for the metrics; the same number of seconds as Prometheus waits."""
    began = time.time()
    with urllib.request.urlopen(f"{url}/metrics", timeout=timeout) as response:
        text = response.read().decode()
    families = {family.name: family for family in text_string_to_metric_families(text)}
    return Scrape(families, began, time.time())
