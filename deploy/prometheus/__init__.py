"""What Prometheus and Alertmanager are told: whom to scrape, when to alert, whom to tell."""
