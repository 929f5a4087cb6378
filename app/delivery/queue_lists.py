"""How kombu's Redis transport names the lists of a queue, for those who look without kombu.

Standard library only.
"""

from __future__ import annotations

from typing import Final

#: One list for each priority step; 0 goes first and has the queue's own name
#: (kombu.transport.redis.Channel.priority_steps and .sep; a test compares).
PRIORITY_STEPS: Final = (0, 3, 6, 9)
PRIORITY_SEPARATOR: Final = "\x06\x16"


def lists_of(queue: str) -> list[str]:
    """Return the names of the Redis lists that hold a queue's messages, in order of the steps."""
    return [f"{queue}{PRIORITY_SEPARATOR}{step}" if step else queue for step in PRIORITY_STEPS]
