"""``manage.py metrics_doc``: writes the tables of docs/metrics.md, or checks them."""

from __future__ import annotations

from telemetry.management.generated_file import GeneratedFileCommand
from telemetry.metrics_page import rendered


class Command(GeneratedFileCommand):
    """Writes or checks the page about metrics."""

    help = "Write the tables of a page about metrics, or check them."
    rule = "what app/telemetry/catalogue.py says"
    target = "metrics-doc"

    def text(self, present: str) -> str:
        """Return the page with the tables as the catalogue has them."""
        return rendered(present)
