"""From commit to acknowledgement: the base task, its retries, and guards for Celery's known faults.

Imports nothing of this project, so the folder can be copied into another one.
"""
