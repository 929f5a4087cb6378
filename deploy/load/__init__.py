"""`make load`: a bounded stream of work over the HTTP API, to make dashboards live.

Needs the standard library only, and works against either runtime.
"""
