"""Places for the names of points in a plot: no name lies on another name or on a point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

LETTER, LINE = 6.0, 12.0  # pixels: the width of a letter and the height of a line at font size 11
POINT = 6.0  # radius
ASIDE, ABOVE = 9, 11  # pixels from a point to its name
TRIED = ((1, 0), (-1, 0), (1, -1), (-1, -1), (1, 1), (-1, 1), (0, -1), (0, 1))  # right, left, ...
ALIGN = {1: "left", -1: "right", 0: "center"}


@dataclass(frozen=True)
class Place:
    """Where a name stands: pixels from its point, downwards positive, and its alignment."""

    dx: int
    dy: int
    align: str


def places(points: Sequence[tuple[float, float, str]], width: float) -> list[Place | None]:
    """Return a place for the name of each point; None where there is no room. Earlier points choose first.

    Args:
        points: x and y in pixels, downwards positive, and the name.
        width: Of the plot in pixels. If it grows, names that did not collide hardly do.
    """
    taken = [(x - POINT, y - POINT, x + POINT, y + POINT) for x, y, _ in points]
    found: list[Place | None] = []
    for x, y, name in points:
        choice = None
        for side, level in TRIED:
            length = LETTER * len(name)
            left = x + side * ASIDE - length * (1 - side) / 2
            middle = y + level * ABOVE
            box = (left, middle - LINE / 2, left + length, middle + LINE / 2)
            own = (x - POINT, y - POINT, x + POINT, y + POINT)
            if box[0] >= 0 and box[2] <= width and not any(_overlap(box, other) for other in taken if other != own):
                taken.append(box)
                choice = Place(side * ASIDE, level * ABOVE, ALIGN[side])
                break
        found.append(choice)
    return found


def _overlap(a: tuple[float, float, float, float], b: tuple[float, float, float, float]) -> bool:
    return a[0] < b[2] and b[0] < a[2] and a[1] < b[3] and b[1] < a[3]


def apart(heights: Sequence[float], least: float, top: float) -> list[float]:
    """Return heights of at least `least` from each other, near the given ones, in [0, top] if they fit."""
    order = sorted(range(len(heights)), key=lambda i: heights[i])
    moved = [0.0] * len(heights)
    floor = 0.0
    for i in order:
        moved[i] = max(heights[i], floor)
        floor = moved[i] + least
    ceiling = top
    for i in reversed(order):
        moved[i] = max(0.0, min(moved[i], ceiling))
        ceiling = moved[i] - least
    return moved
