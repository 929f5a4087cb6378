"""A picture that was submitted, and the files of its job."""

from __future__ import annotations

from typing import ClassVar

from django.db import models

from images.formats import Format
from jobs.models import Job


class Picture(models.Model):
    """What was submitted. Its job holds state and progress, its files the content."""

    job = models.OneToOneField(
        Job, on_delete=models.CASCADE, primary_key=True, related_name="picture"
    )
    name = models.CharField(max_length=200, help_text="Of the file, made harmless.")
    format = models.CharField(
        max_length=4,
        choices=[(str(form), form.upper()) for form in Format],
        help_text="By its content.",
    )
    width = models.PositiveIntegerField(help_text="Pixels, turned as EXIF says.")
    height = models.PositiveIntegerField(help_text="Pixels, turned as EXIF says.")
    rounds = models.PositiveIntegerField(
        default=0, help_text="Times that its renditions were asked for; 1 unless the job failed."
    )

    def __str__(self) -> str:
        return self.name


class FileKind(models.TextChoices):
    """What a file is."""

    ORIGINAL = "original"
    RENDITION = "rendition"
    CONTACT_SHEET = "contact_sheet"
    MANIFEST = "manifest"


class FileManager(models.Manager["File"]):
    """Files without their content, which is loaded for those only that ask for it."""

    def get_queryset(self) -> models.QuerySet[File]:
        """Return all files."""
        return super().get_queryset().defer("content")


class File(models.Model):
    """A file of a job. It is written once and never changed."""

    job = models.ForeignKey(Job, on_delete=models.CASCADE, related_name="files", db_index=False)
    name = models.CharField(max_length=200)
    kind = models.CharField(max_length=13, choices=FileKind)
    content_type = models.CharField(max_length=40)
    width = models.PositiveIntegerField(null=True, help_text="Pixels; of pictures only.")
    height = models.PositiveIntegerField(null=True, help_text="Pixels; of pictures only.")
    size = models.PositiveIntegerField(help_text="Bytes.")
    sha256 = models.CharField(max_length=64, help_text="Of the content; also its ETag.")
    content = models.BinaryField()
    created_at = models.DateTimeField(auto_now_add=True)

    objects = FileManager()

    class Meta:
        """A name is there once for each job, however often its task runs."""

        # Also for deletions: they would load all files to delete them.
        base_manager_name = "objects"
        constraints: ClassVar = [
            models.UniqueConstraint(fields=["job", "name"], name="file_once_per_name"),
        ]

    def __str__(self) -> str:
        return self.name
