"""The application's own routes, and those that cause alerts."""

from django.urls import include, path

from alert_causes import views

urlpatterns = [
    path("causes/publish", views.publish),
    path("causes/publish-unknown", views.publish_unknown),
    path("causes/forge", views.forge),
    path("causes/schedule", views.schedule),
    path("causes/control", views.control),
    path("causes/fail", views.fail),
    path("causes/slow", views.slow),
    path("", include("config.urls")),
]
