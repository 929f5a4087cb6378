"""Pictures and files in the admin: to look at, without ever loading a list of contents."""

from __future__ import annotations

from typing import Any

from django.contrib import admin
from django.http import HttpRequest
from django.template.defaultfilters import filesizeformat
from django.utils.html import format_html

from delivery.admin import ReadOnlyAdmin
from images.api import file_url
from images.models import File, Picture


@admin.register(Picture)
class PictureAdmin(ReadOnlyAdmin):
    """Pictures, newest first."""

    list_display = ("name", "job", "state", "format", "width", "height", "created_at")
    list_select_related = ("job",)
    list_filter = ("job__state", "format")
    search_fields = ("name", "job__id")
    ordering = ("-job__created_at",)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Refuse: a picture goes with its job."""
        return False

    @admin.display(ordering="job__state")
    def state(self, picture: Picture) -> str:
        """Return the state of its job."""
        return picture.job.state

    @admin.display(ordering="job__created_at")
    def created_at(self, picture: Picture) -> str:
        """Return when it was submitted."""
        return f"{picture.job.created_at:%Y-%m-%d %H:%M:%S}"


@admin.register(File)
class FileAdmin(ReadOnlyAdmin):
    """Files, newest first. Their content is never loaded here (``FileManager``)."""

    list_display = (
        "name", "kind", "content_type", "width", "height", "bytes", "job", "created_at", "download",
    )  # fmt: skip
    list_select_related = ("job",)
    list_filter = ("kind", "content_type")
    search_fields = ("name", "job__id", "sha256")
    readonly_fields = ("download",)
    ordering = ("-pk",)

    def has_delete_permission(self, request: HttpRequest, obj: Any = None) -> bool:
        """Refuse: a file goes with its job."""
        return False

    @admin.display(ordering="size")
    def bytes(self, file: File) -> str:
        """Return its size, for people."""
        return filesizeformat(file.size)

    @admin.display
    def download(self, file: File) -> str:
        """Return a link to the file."""
        return format_html('<a href="{}">download</a>', file_url(file))
