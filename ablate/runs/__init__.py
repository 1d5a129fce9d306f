"""One run, from data to rows; finished runs loaded, replayed and timed."""
