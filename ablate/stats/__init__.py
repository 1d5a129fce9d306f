"""Paired tests, factorial effects, Pareto fronts, quantiles. No torch."""
