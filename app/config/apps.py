"""Makes sure that the Celery app exists wherever Django is set up."""

from django.apps import AppConfig


class ProjectConfig(AppConfig):
    """The composition root as a Django app, without models."""

    name = "config"
    label = "config"

    def ready(self) -> None:
        """Import the Celery app, so that ``shared_task`` binds to it in every process."""
        from config import celery  # noqa: F401, PLC0415 - only once Django is ready
