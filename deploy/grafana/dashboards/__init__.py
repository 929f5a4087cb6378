"""The dashboards as Python; ``python -m deploy.grafana.dashboards`` writes their JSON."""
