"""Colours by meaning: one thing has one colour on every dashboard.

Okabe and Ito's palette, which people with any of the three common colour vision deficiencies can
tell apart. Its orange, sky blue and yellow are darkened, so that each colour has a contrast of at
least 3:1 against Grafana's dark and light panels (WCAG 2.2, 1.4.11). Red is not theirs: vermilion
beside a darkened orange looks the same without red or green cones. A unit test computes all this.
A colour never stands alone: a name, a number or a word repeats what it says.
"""

from typing import Final

from config.topology import QUEUES

BLUE: Final = "#0072B2"
SKY: Final = "#3A9AD9"
GREEN: Final = "#009E73"
ORANGE: Final = "#C78500"
RED: Final = "#D7263D"
PURPLE: Final = "#CC79A7"
OLIVE: Final = "#9A8F2E"
GREY: Final = "#7F858F"

GOOD: Final = GREEN
WARNING: Final = ORANGE
BAD: Final = RED
#: A number that is neither good nor bad.
NEUTRAL: Final = BLUE
#: Something is switched off, or nobody knows.
UNKNOWN: Final = GREY
#: Targets, limits and capacities, drawn as dashed lines.
LIMIT: Final = GREY

#: Fractions of a distribution: the rarer, the darker.
QUANTILES: Final = {"p50": SKY, "p95": BLUE, "p99": PURPLE}

#: Not the colours of good, warning and bad: a queue is none of them. A fifth one begins again.
QUEUE_PALETTE: Final = (BLUE, PURPLE, SKY, OLIVE)
#: Queue name -> its colour, in the order of ``config/topology.py``.
QUEUE: Final = {
    queue.name: QUEUE_PALETTE[index % len(QUEUE_PALETTE)] for index, queue in enumerate(QUEUES)
}

#: What can become of a task, a message or a delivery -> its colour.
STATE: Final = {
    "received": BLUE,
    "waiting": BLUE,
    "sent": BLUE,
    "started": SKY,
    "running": SKY,
    "active": SKY,
    "prefetched": BLUE,
    "scheduled": OLIVE,
    "succeeded": GOOD,
    "retried": WARNING,
    "timed out": PURPLE,
    "process lost": RED,
    "failed": BAD,
    "dead": BAD,
    "revoked": PURPLE,
    "rejected": PURPLE,
    "ignored": GREY,
    "redelivered": OLIVE,
}
