"""What Prometheus evaluates: recording and alerting rules, rendered from ``config.topology``."""
