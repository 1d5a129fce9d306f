"""Findings as terminal text, Markdown, JSON and HTML. Nothing is computed here."""
