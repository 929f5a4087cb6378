"""What the public celery-exporter reads as Celery's own configuration (``CELERY_LOADER=default``).

It has no option for this. Its questions to workers (``inspect``, at each scrape) are not signed:
workers would refuse them, and each one would be kept in the quarantine.
"""

#: Questions go to a channel that nobody listens to; its account in Redis may use no other.
control_exchange = "upstream-exporter"
