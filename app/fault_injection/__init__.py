"""Faults on purpose, so that people see what the stack does about them. For local stacks."""
