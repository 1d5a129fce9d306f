"""What is to be run: variant files, configuration, claims, metric names, the list of runs. No torch."""
