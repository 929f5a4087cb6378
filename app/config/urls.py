"""The routes of the web service."""

from django.contrib import admin
from django.urls import include, path

urlpatterns = [
    path("", include("console.urls")),
    path("admin/", admin.site.urls),
]

handler400 = "console.errors.page_400"
handler403 = "console.errors.page_403"
handler404 = "console.errors.page_404"
handler500 = "console.errors.page_500"
