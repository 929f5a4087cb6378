"""The embedded runtime: every role of the stack as a local process, without Docker."""
