"""Benchmarks of `ablate` against the published formulation; `ablate bench --ops` runs them."""
