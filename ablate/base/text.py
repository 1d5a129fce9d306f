"""Text that is safe to print in a terminal."""

from __future__ import annotations

from collections.abc import Iterable


def printable(text: object) -> str:
    """Return the text with unprintable characters (escape, newline, bidi mark) escaped."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in str(text))


def one_line(text: object) -> str:
    """Return a path or a message as one printable line, whatever bytes it contains."""
    return printable(" ".join(str(text).split()))


def split_names(values: str | Iterable[str] | None) -> tuple[str, ...]:
    """Return the names of `a,b`, or of several such texts, in order and once each."""
    texts = [values] if isinstance(values, str) else values or ()
    return tuple(dict.fromkeys(name.strip() for text in texts for name in text.split(",") if name.strip()))
