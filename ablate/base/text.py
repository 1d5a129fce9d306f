"""Text that is safe to print."""

from __future__ import annotations


def printable(text: object) -> str:
    """Return a text as one line that a terminal shows as it stands: what would steer it (escape, newline, bidi marks) is escaped."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in str(text))
