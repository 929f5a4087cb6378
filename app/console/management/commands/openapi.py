"""``manage.py openapi``: writes the API's document, or checks that the committed one is right."""

from __future__ import annotations

from console.api import api
from console.openapi import as_text
from telemetry.management.generated_file import GeneratedFileCommand


class Command(GeneratedFileCommand):
    """Writes or checks a file with the OpenAPI document."""

    help = "Write the OpenAPI document of the API to a file, or check the file."
    rule = "what the routes say"
    target = "openapi"

    def text(self, present: str) -> str:
        """Return the document of the routes."""
        return as_text(api.get_openapi_schema())
