"""Text that is safe to print in a terminal."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, TypeVar

MESSAGE_LIMIT = 300  # characters of an error or a note, whatever it quotes
_END = 120  # characters kept of the end of a long message: what to do about it
_LONG_WORD = re.compile(r"\S{81,}")
_KEPT = re.compile(r"[^\n\t]+")
Json = TypeVar("Json", dict[str, Any], list[Any])


def printable(text: object) -> str:
    """Return the text with unprintable characters (escape, newline, bidi mark) escaped."""
    plain = str(text)
    if plain.isprintable():
        return plain
    return "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in plain)


def printable_lines(text: str) -> str:
    """Return the text with unprintable characters escaped, except for line breaks and tabs."""
    return text if text.isprintable() else _KEPT.sub(lambda part: printable(part[0]), text)


def printable_json(text: str) -> str:
    """Return a JSON document with unprintable characters as JSON escapes: its values stay the same."""

    def escaped(part: re.Match[str]) -> str:
        return "".join(c if c.isprintable() else json.dumps(c)[1:-1] for c in part[0])

    return text if text.isprintable() else _KEPT.sub(escaped, text)


def message(text: object) -> str:
    """Return an error or a note as one printable line of at most 300 characters.

    In a longer one, long words are cut. Then the beginning is kept, and the end, which says how to
    fix it.
    """
    line = one_line(text)
    if len(line) > MESSAGE_LIMIT:
        line = _LONG_WORD.sub(lambda word: f"{word[0][:50]}...{word[0][-20:]}", line)
    if len(line) <= MESSAGE_LIMIT:
        return line
    before, separator, advice = line[-_END:].partition("; ")
    end = separator + advice if separator else " " + before[-_END // 2 :]
    return f"{line[: MESSAGE_LIMIT - len(end) - 3]}...{end}"


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


def plural(n: int, word: str) -> str:
    """Return a number of things: `1 run`, `2 runs`, `1,000 runs`."""
    return f"{n:,} {word}{'' if n == 1 else 's'}"


def join_and(words: Sequence[str]) -> str:
    """Join words for a sentence: `a, b and c`."""
    return " and ".join(filter(None, (", ".join(words[:-1]), *words[-1:])))


def read_json(text: object, kind: type[Json]) -> Json:
    """Parse a JSON text that should hold a `kind` (dict or list); anything else gives an empty one.

    A table may come from elsewhere, so its cells may hold anything.
    """
    with suppress(ValueError, TypeError, RecursionError):
        value = json.loads(str(text))
        return value if isinstance(value, kind) else kind()
    return kind()


def duration(seconds: float | None) -> str:
    """Return a time in two units at most, `1 h 12 min`, or `unknown`."""
    if seconds is None:
        return "unknown"
    if seconds < 100:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours = round(seconds / 3600)
    return f"{minutes // 60} h {minutes % 60} min" if hours < 48 else f"{hours // 24} d {hours % 24} h"
