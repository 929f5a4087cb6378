"""Delivery as a Django app."""

from django.apps import AppConfig


class DeliveryConfig(AppConfig):
    """From commit to acknowledgement."""

    name = "delivery"
