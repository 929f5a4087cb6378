"""The application's own routes, and those of the fault suite."""

from django.urls import include, path

from fault_effects import views

urlpatterns = [
    path("faults/tasks", views.submit),
    path("faults/chord", views.submit_chord),
    path("", include("config.urls")),
]
