"""The images workload as a Django app."""

from django.apps import AppConfig


class ImagesConfig(AppConfig):
    """Pictures into renditions and a contact sheet."""

    name = "images"

    def ready(self) -> None:
        """Register the kind of job."""
        from images import services  # noqa: PLC0415 - models are not loaded before
        from jobs import kinds  # noqa: PLC0415

        kinds.register(
            kinds.Kind(
                name=services.KIND,
                enqueue=services.picture_enqueue,
                release=services.picture_release,
                reopen=services.picture_enqueue,
            )
        )
