"""Newsletters as a Django app."""

from django.apps import AppConfig


class NewslettersConfig(AppConfig):
    """One mail to many people."""

    name = "newsletters"

    def ready(self) -> None:
        """Register the kind of job."""
        from jobs import kinds  # noqa: PLC0415 - models are not loaded before
        from newsletters import services  # noqa: PLC0415

        kinds.register(
            kinds.Kind(
                name=services.KIND,
                enqueue=services.newsletter_enqueue,
                release=services.newsletter_progress,
                reopen=services.newsletter_reopen,
                deliveries=services.newsletter_deliveries,
            )
        )
