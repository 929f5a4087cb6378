"""Celery as a popular Django template configures it, to show what the suite sees there."""
