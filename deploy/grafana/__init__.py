"""What Grafana is given: the data source, the dashboards, and the Python that writes them."""
