"""The routes of the web service."""

from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("", include("console.urls")),
    path("admin/", admin.site.urls),
]
