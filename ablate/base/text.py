"""Text that is safe to print in a terminal."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def printable(text: object) -> str:
    """Return the text with unprintable characters (escape, newline, bidi mark) escaped."""
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in str(text))


def one_line(text: object) -> str:
    """Return a path or a message as one printable line, whatever bytes it contains."""
    return printable(" ".join(str(text).split()))


def split_names(values: str | Iterable[str] | None) -> tuple[str, ...]:
    """Return the names of `a,b`, or of several such texts, in order and once each."""
    texts = [values] if isinstance(values, str) else values or ()
    parts = [name.strip() for text in texts for name in split_outside_brackets(text, ",")]
    return tuple(dict.fromkeys(name for name in parts if name))


def split_outside_brackets(text: str, separator: str) -> list[str]:
    """Split a text at a separator of one letter, except inside `[...]`."""
    parts, depth = [""], 0
    for letter in text:
        depth += (letter == "[") - (letter == "]")
        if letter == separator and depth <= 0:
            parts.append("")
        else:
            parts[-1] += letter
    return parts


def some_of(names: Sequence[object], most: int = 3) -> str:
    """Return the first names, printable, and how many there are beside them: `a, b, c and 4 more`."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(printable, names[:most])) + more


def count_runs(n: int) -> str:
    """Return a number of runs in words."""
    return f"{n} run{'' if n == 1 else 's'}"
