"""Settings of the public celery-exporter, for those who run it beside ours."""
