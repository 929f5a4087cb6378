"""The workload of the fault suite: tasks whose effects are counted, and the way to submit them.

Loaded into the unchanged application through ``DJANGO_SETTINGS_MODULE=fault_settings``. It has no
models: the suite makes its tables itself (tests/faults/ledger.py), without any unique constraint
that could hide a doubled effect.
"""
