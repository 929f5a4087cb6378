"""The name of the admin, and its way back to the console."""

from __future__ import annotations

from django.contrib import admin

admin.site.site_header = "Celeriac"
admin.site.site_title = "Celeriac"
admin.site.index_title = "What runs, what waits, what failed"
admin.site.site_url = "/"
