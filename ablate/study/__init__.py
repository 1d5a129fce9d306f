"""What to run: variant files, configuration, claims, metrics, requests, runs. No torch."""
