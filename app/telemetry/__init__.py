"""What processes say about themselves: logs, heartbeat, probes. May import ``delivery``."""
