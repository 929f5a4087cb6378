"""Reads what a process serves at ``/metrics``."""

from __future__ import annotations

import urllib.request
from collections.abc import Iterable
from dataclasses import dataclass

from prometheus_client import Metric
from prometheus_client.parser import text_string_to_metric_families

#: A series: its name, and its labels in order.
Series = tuple[str, frozenset[tuple[str, str]]]


@dataclass(frozen=True)
class Scrape:
    """One answer of a process.

    Attributes:
        families: As Prometheus reads them, by name; that of a counter without ``_total``.
    """

    families: dict[str, Metric]

    def value(self, name: str, /, **labels: str) -> float | None:
        """Return the value of a series; None if it is not there."""
        return self.samples([name]).get(series(name, **labels))

    def total(self, name: str, /, **labels: str) -> float:
        """Return the sum of the series of this name that have these labels."""
        wanted = set(labels.items())
        return sum(
            value for (_name, found), value in self.samples([name]).items() if wanted <= found
        )

    def samples(self, names: Iterable[str]) -> dict[Series, float]:
        """Return all series of these names."""
        wanted = set(names)
        return {
            series(sample.name, **sample.labels): sample.value
            for family in self.families.values()
            for sample in family.samples
            if sample.name in wanted
        }


def series(name: str, /, **labels: str) -> Series:
    """Return the key of a series."""
    return name, frozenset(labels.items())


def scrape(port: int | str) -> Scrape:
    """Ask a process of this machine."""
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=10) as response:
        text = response.read().decode()
    return Scrape({family.name: family for family in text_string_to_metric_families(text)})
