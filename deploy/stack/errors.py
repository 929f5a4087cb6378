"""The one exception an operator sees."""


class StackError(Exception):
    """A mistake or a failure; the message says what is wrong and what to do about it."""
