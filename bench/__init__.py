"""Measurements that are run by hand; their figures are never asserted in tests."""
