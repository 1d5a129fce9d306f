"""The results folder: tables and their schema, files that are replaced whole, the cache, health checks. No torch."""
