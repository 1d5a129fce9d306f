"""From tables to findings: which runs compare, paired differences, verdicts."""
