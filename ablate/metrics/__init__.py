"""Metrics of image sets and image pairs: extractors, distances, neighbours, the cache of reference features."""
