"""What the commands print: everything that reaches a terminal goes through here.

Names and texts may come from files and tables of strangers. Their control characters are escaped, so
nothing steers the terminal but the styles of `rich`.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING

import typer

from ablate.base.text import message, printable_json, printable_lines

if TYPE_CHECKING:
    from rich.console import Console, RenderableType


def echo(text: object, *, err: bool = False, nl: bool = True) -> None:
    """Print a text to stdout, or to stderr if `err`."""
    typer.echo(printable_lines(str(text)), err=err, nl=nl)


def echo_json(document: object) -> None:
    """Print a document to stdout as strict JSON. A text is JSON already."""
    text = document if isinstance(document, str) else json.dumps(document, indent=2, allow_nan=False)
    typer.echo(printable_json(text))


def error(text: object) -> None:
    """Print an error to stderr: one line of at most 300 characters."""
    typer.echo(message(f"error: {text}"), err=True)


def note(text: object) -> None:
    """Print a note to stderr: one line of at most 300 characters."""
    typer.echo(message(f"note: {text}"), err=True)


def show(*parts: RenderableType, highlight: bool | None = None) -> None:
    """Print tables and texts of `rich` to stdout."""
    console = terminal()
    for part in parts:
        console.print(part, highlight=highlight)


def terminal() -> Console:
    """Return a console of `rich` on stdout that escapes control characters in the texts it prints."""
    from rich.console import Console, ConsoleOptions
    from rich.segment import Segment

    class Escaping(Console):
        def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
            for segment in super().render(renderable, options):
                plain = segment.control or segment.text.isprintable()
                yield segment if plain else Segment(printable_lines(segment.text), segment.style)

    return Escaping()
