"""The celery-exporter role: what waits in Redis and PostgreSQL, as Prometheus metrics.

Without Django and without the application's secrets: it has two accounts of its own that can only
read (docs/decisions/0011-our-own-exporter.md). It never asks workers.
"""
