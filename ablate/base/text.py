"""Text that is safe to print in a terminal."""

from __future__ import annotations


def printable(text: object) -> str:
    """Return the text with unprintable characters (escape, newline, bidi mark) escaped."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in str(text))
