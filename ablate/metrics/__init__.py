"""Metrics of image sets and image pairs: extractors, distances, neighbours, reference cache."""
