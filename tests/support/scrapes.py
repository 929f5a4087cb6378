"""Reads ``/metrics`` as Prometheus does."""

from __future__ import annotations

import urllib.request
from dataclasses import dataclass

from prometheus_client.parser import text_string_to_metric_families

#: Seconds that a scrape may take; Prometheus' own limit is 10.
TIMEOUT_SECONDS = 10.0


@dataclass(frozen=True)
class Scrape:
    """What one scrape said.

    Attributes:
        values: Name of the series (``_total``, ``_bucket`` and such included) and its labels ->
            value.
        families: Names of the metrics, as the catalogue has them.
    """

    values: dict[tuple[str, frozenset[tuple[str, str]]], float]
    families: set[str]

    def value(self, name: str, /, **labels: str) -> float:
        """Return the value of one series.

        Raises:
            KeyError: There is none.
        """
        return self.values[name, frozenset(labels.items())]

    def has(self, name: str, /, **labels: str) -> bool:
        """Whether there is such a series."""
        return (name, frozenset(labels.items())) in self.values

    def total(self, name: str, /, **labels: str) -> float:
        """Return the sum of all series of this name that have these labels, maybe among others."""
        wanted = set(labels.items())
        return sum(
            value for (found, has), value in self.values.items() if found == name and wanted <= has
        )

    def labels(self, name: str, label: str) -> set[str]:
        """Return the values that a label of the series of this name has."""
        return {dict(has)[label] for found, has in self.values if found == name}


def parse(text: str) -> Scrape:
    """Read the text format."""
    values = {}
    families = set()
    for family in text_string_to_metric_families(text):
        families.add(f"{family.name}_total" if family.type == "counter" else family.name)
        for sample in family.samples:
            values[sample.name, frozenset(sample.labels.items())] = sample.value
    return Scrape(values, families)


def scrape(url: str) -> Scrape:
    """Read what is served at an address, past any proxy."""
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    with opener.open(url, timeout=TIMEOUT_SECONDS) as response:
        return parse(response.read().decode())
