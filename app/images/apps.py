"""The images workload as a Django app."""

from django.apps import AppConfig


class ImagesConfig(AppConfig):
    """Pictures into renditions and a contact sheet."""

    name = "images"
