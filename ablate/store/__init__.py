"""The results folder: tables, schema, atomic files, plans, the cache, health checks. No torch."""
