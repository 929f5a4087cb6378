"""What a task raises to say whether another attempt makes sense."""


class TransientError(Exception):
    """The attempt failed for a reason that may pass: try again later."""


class PermanentError(Exception):
    """The work cannot succeed, however often it is tried: do not retry."""
