"""Work that a person asked for: its state, progress, cancellation and HTTP routes.

Knows nothing of the workloads; each registers itself (``jobs.kinds``). May import ``telemetry``
and ``delivery``.
"""
