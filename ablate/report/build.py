"""From a results folder's tables to the findings of one comparison."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from ablate import results
from ablate.report.findings import Findings

TABLES = ("runs", "fidelity", "quantized")


@dataclass(frozen=True)
class Choice:
    """What is to be compared. None leaves it open: it is then an error if the results hold several."""

    preset: str | None = None
    data: str | None = None  # a data set's name, the path it was read from, or the beginning of its digest
    budget: str = "steps"  # `steps`, or the baseline's training `macs`
    against: str = "baseline"  # a variant
    metrics: tuple[str, ...] = ()  # the first decides; none: the headlines
    samples: int | None = None  # how many samples the Frechet distances were taken of
    extractor: str | None = None  # the beginning of a digest of weights
    variants: tuple[str, ...] = ()  # only these, beside what they are compared against; none: all


def read(folder: Path) -> dict[str, pd.DataFrame]:
    """Read what `build` needs of a results folder.

    Raises:
        ResultsError: There is no such folder, or a table cannot be read.
    """
    return {table: results.read(folder, table) for table in TABLES}


def build(frames: Mapping[str, pd.DataFrame], choice: Choice = Choice()) -> Findings:
    """Return the findings of one comparison.

    Args:
        frames: The tables `runs` and, where there are any rows, `fidelity` and `quantized`, as `read` returns them.
        choice: What is to be compared.

    Raises:
        ResultsError: The runs differ in preset, data set, extractor or number of samples and `choice` does not say which; or it names
            something that is not there.
    """
    raise NotImplementedError
