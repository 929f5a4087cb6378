"""The capacity workload as a Django app."""

from django.apps import AppConfig


class CapacityConfig(AppConfig):
    """The capacity planner."""

    name = "capacity"

    def ready(self) -> None:
        """Register the kind of job."""
        from capacity import services  # noqa: PLC0415 - models are not loaded before
        from jobs import kinds  # noqa: PLC0415

        kinds.register(
            kinds.Kind(
                name=services.KIND,
                enqueue=services.plan_enqueue,
                release=services.plan_leave,
                reopen=services.plan_reopen,
            )
        )
