"""Factorial studies: the effect of each level averaged over the other axes, and interactions.

    main(a)     = mean over the other axes' levels r of  y(a, r) - y(baseline, r)
    joint(a, b) = mean over r of  y(a, b, r) - y(a, r) - y(b, r) + y(r)

and so on for more axes, seed by seed. Each effect is a contrast with one value per seed, so it is
tested like any other paired difference.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np

Cell = frozenset[str]  # variants that are combined; empty: the baseline


@dataclass(frozen=True)
class Design:
    """Axes and the levels of each, without the baseline's; `missing`: combinations that were not run."""

    axes: tuple[str, ...]
    levels: tuple[tuple[str, ...], ...]
    missing: tuple[Cell, ...]

    def cells(self) -> list[Cell]:
        """Return every combination, with the baseline's levels."""
        rows = itertools.product(*(("", *levels) for levels in self.levels))
        return [frozenset(level for level in row if level) for row in rows]


def designs(cells: Mapping[Cell, object], axis_of: Mapping[str, str]) -> list[Design]:
    """Return the factorial studies among the variants that were run, the largest first.

    Args:
        cells: The combinations that were run.
        axis_of: Variant -> its axis.
    """
    by_axes: dict[tuple[str, ...], dict[str, dict[str, None]]] = {}
    for cell in cells:
        axes = tuple(sorted({axis_of[part] for part in cell if part in axis_of}))
        if len(cell) < 2 or len(axes) != len(cell):  # not one level of each axis
            continue
        levels = by_axes.setdefault(axes, {axis: {} for axis in axes})
        for part in sorted(cell):
            levels[axis_of[part]][part] = None
    largest = [axes for axes in by_axes if not any(set(axes) < set(other) for other in by_axes)]
    studies = []
    for axes in sorted(largest, key=lambda axes: (-len(axes), axes)):
        design = Design(axes, tuple(tuple(sorted(by_axes[axes][axis])) for axis in axes), ())
        studies.append(Design(axes, design.levels, tuple(cell for cell in design.cells() if cell not in cells)))
    return studies


def effects(
    design: Design, values: Mapping[Cell, np.ndarray]
) -> Iterator[tuple[tuple[str, ...], tuple[str, ...], np.ndarray]]:
    """Yield each effect of a complete design: its levels, their axes and its contrast (seeds,).

    Main effects come first.

    Args:
        design: A design with nothing missing.
        values: Combination -> its metric (seeds,).
    """
    places = range(len(design.axes))
    for order in range(1, len(design.axes) + 1):
        for chosen in itertools.combinations(places, order):
            for levels in itertools.product(*(design.levels[i] for i in chosen)):
                axes = tuple(design.axes[i] for i in chosen)
                yield levels, axes, _contrast(design, dict(zip(chosen, levels, strict=True)), values)


def _contrast(design: Design, levels: Mapping[int, str], values: Mapping[Cell, np.ndarray]) -> np.ndarray:
    rest = [("", *design.levels[i]) for i in range(len(design.axes)) if i not in levels]
    total: list[np.ndarray] = []
    for other in itertools.product(*rest):
        background = frozenset(level for level in other if level)
        for size in range(len(levels) + 1):
            sign = (-1) ** (len(levels) - size)
            for some in itertools.combinations(levels.values(), size):
                total.append(sign * values[background | frozenset(some)])
    return np.sum(total, axis=0) / np.prod([len(x) for x in rest], dtype=int)
