"""Composition root: settings, queues, routes, servers. Only entry points import it."""
