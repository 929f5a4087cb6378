"""Workload: one mail to many people, I/O-bound, in batches. May import ``jobs`` and below."""
