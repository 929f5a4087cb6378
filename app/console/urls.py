"""Routes of the console and the API."""

from django.contrib.admin.forms import AdminAuthenticationForm
from django.contrib.auth.views import LoginView, LogoutView
from django.urls import path

from console import faults, views
from console.api import api

urlpatterns = [
    path("", views.console, name="console"),
    path("status", views.status_part, name="status"),
    path("jobs", views.job_list, name="job-list"),
    path("jobs/<uuid:job_id>", views.job_page, name="job-page"),
    path("jobs/<uuid:job_id>/cancel", views.job_stop, name="job-stop"),
    path("jobs/<uuid:job_id>/deliveries", views.deliveries, name="job-deliveries"),
    path("newsletters", views.newsletter_form, name="newsletter-form"),
    path("faults", faults.panel, name="fault-panel"),
    path("faults/stop", faults.stop_all, name="fault-stop-all"),
    path("faults/<slug:name>/start", faults.start, name="fault-start"),
    path("faults/<slug:name>/stop", faults.stop, name="fault-stop"),
    path("images", views.images_form, name="images-form"),
    path("capacity", views.capacity_form, name="capacity-form"),
    path(
        "sign-in",
        LoginView.as_view(
            template_name="console/sign_in.html", authentication_form=AdminAuthenticationForm
        ),
        name="sign-in",
    ),
    path("sign-out", LogoutView.as_view(), name="sign-out"),
    path("api/", api.urls),
    # Pages that are not ours (admin, API documentation) have no icon of their own.
    path("favicon.ico", views.icon),
]
