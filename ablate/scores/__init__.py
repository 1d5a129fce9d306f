"""Scores that another program wrote, as runs and metrics of a results folder."""
