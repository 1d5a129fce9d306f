"""Image files, data sets and the embedded cats."""
