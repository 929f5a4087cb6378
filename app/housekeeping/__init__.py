"""Periodic work: retention and first set-up. May import ``jobs`` and below."""
