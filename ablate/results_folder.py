"""A results folder in Python: its tables as data frames, and its findings."""

from __future__ import annotations

import html
import json
from functools import cached_property
from os import PathLike
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa

from ablate.base.errors import AblateError, ResultsError, did_you_mean
from ablate.base.text import printable, read_json
from ablate.report.builder import build, read
from ablate.report.findings import Findings
from ablate.report.selection import Choice
from ablate.store import tables
from ablate.store.artifacts import run_folder
from ablate.store.atomic_files import check_output, output_file

DTYPES = {pa.string(): pd.StringDtype(), pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}  # as in tables
SHOWN = ("run_id", "variant", "preset", "seed", "status", "fd", "pd", "psnr_db", "wall_s")  # of runs, in a notebook


class Results:
    """A results folder: its tables as data frames, and its findings.

    A table is read at its first use and kept; `refresh` reads again.

    Attributes:
        folder: The results folder.
    """

    def __init__(self, folder: str | PathLike[str]) -> None:
        """Open a results folder; see `load_results`."""
        self.folder = Path(folder)
        if not self.folder.is_dir():
            raise ResultsError(f"{self.folder}: no such folder; make a run first: ablate run, or ablate.run()")

    @cached_property
    def runs(self) -> pd.DataFrame:
        """One row per run: variant, seed, status, configuration, headline metrics, costs, environment."""
        return self.table("runs")

    @cached_property
    def curves(self) -> pd.DataFrame:
        """One row per logged training step."""
        return self.table("curves")

    @cached_property
    def denoising(self) -> pd.DataFrame:
        """One row per run and noise level t: one-step denoising."""
        return self.table("denoising")

    @cached_property
    def fidelity(self) -> pd.DataFrame:
        """One row per run, extractor and metric."""
        return self.table("fidelity")

    @cached_property
    def metrics(self) -> pd.DataFrame:
        """One row per run and metric that ablate did not measure itself: value, unit, better."""
        return self.table("metrics")

    @cached_property
    def latency(self) -> pd.DataFrame:
        """One row per timed call."""
        return self.table("latency")

    @cached_property
    def quantized(self) -> pd.DataFrame:
        """One row per run, number format and scope."""
        return self.table("quantized")

    @cached_property
    def sampling(self) -> pd.DataFrame:
        """One row per run, solver and number of network evaluations other than its own."""
        return self.table("sampling")

    def wide(self) -> pd.DataFrame:
        """Return `runs` with a column for each setting, as in `config.train.lr`, and each recorded metric.

        A recorded metric is a column as in `metrics.acc`. A setting that is a list is a JSON text, as
        in `[24, 24, 24]`. A run without such a setting or metric is null there.
        """
        texts = self.runs["config"]
        settings = {text: _settings(text) for text in texts.dropna().unique()}
        names = dict.fromkeys(name for one in settings.values() for name in one)
        rows = [settings.get(text, {}) for text in texts]
        flat = pa.table({name: _column([row.get(name) for row in rows]) for name in names})
        recorded = self.metrics.pivot(index="run_id", columns="metric", values="value").add_prefix("metrics.")
        return self.runs.join(flat.to_pandas(types_mapper=DTYPES.get)).join(recorded, on="run_id")

    def table(self, name: str) -> pd.DataFrame:
        """Read one table from its file.

        Raises:
            ResultsError: An unknown table, or a file that is damaged.
        """
        return tables.read(self.folder, name)

    def refresh(self) -> Results:
        """Return the same folder, with tables that are read again."""
        return Results(self.folder)

    def findings(self, **choice: Any) -> Findings:
        """Return the findings of `ablate report`: differences, intervals, verdicts, costs.

        Args:
            choice: Which runs to compare, with the names of the report's options: `preset`, `data`,
                `budget` ("steps" or "macs"), `against` (a variant), `metrics`, `variants`,
                `samples`, `extractor`, `where` (a condition as text), `without_seeds`.

        Raises:
            ResultsError: The runs differ in preset, data set or metric, and `choice` names none.
            AblateError: An unknown option in `choice`.
        """
        return build(read(self.folder), _choice(choice))

    def verdicts(self, **choice: Any) -> pd.DataFrame:
        """Return the comparisons as a data frame, one row per variant and metric.

        The columns are verdict, mean difference, intervals, evidence (p or e), and seeds.

        Args:
            choice: As for `findings`.

        Raises:
            AblateError: As `findings`.
        """
        columns = [
            "label",
            "metric",
            "verdict",
            "mean",
            "low",
            "high",
            "all_low",
            "all_high",
            "alone",
            "adjusted",
            "n",
            "diverged",
            "detectable",
            "seeds_needed",
            "why",
        ]
        rows = [one.model_dump() for one in self.findings(**choice).comparisons]
        return pd.DataFrame(rows, columns=columns)

    def claims(self, **choice: Any) -> pd.DataFrame:
        """Return the claims of the variants' files with their verdicts, one row each.

        Args:
            choice: As for `findings`.

        Raises:
            AblateError: As `findings`.
        """
        frame = pd.DataFrame([one.model_dump() for one in self.findings(**choice).claims])
        first = [name for name in ("label", "metric", "expect", "verdict") if name in frame]
        return frame[[*first, *frame.columns.difference(first, sort=False)]]

    def artifacts(self, run_id: str) -> Path:
        """Return the folder of a run's weights and images.

        Raises:
            ResultsError: There is no such run.
        """
        if run_id not in set(self.runs["run_id"]):
            raise ResultsError(f"run {run_id!r}: not in {self.folder}{did_you_mean(run_id, list(self.runs['run_id']))}")
        return run_folder(self.folder, run_id)

    def to_html(self, output: str | PathLike[str], *, force: bool = False, **choice: Any) -> Path:
        """Write the report as one HTML file, and return its path.

        Args:
            output: A path that ends in `.html`.
            force: Overwrite it.
            choice: As for `findings`.

        Raises:
            AblateError: The file cannot be written, or as `findings`.
        """
        from ablate.report.render.html import to_html

        path = Path(output)
        check_output(path, (".html", ".htm"), force=force)
        text = to_html(self.findings(**choice), self.folder)
        with output_file(path) as temporary:
            temporary.write_text(text, "utf-8")
        return path

    def __repr__(self) -> str:
        counts = ", ".join(f"{n} {status}" for status, n in self.runs["status"].value_counts().items())
        return f"<Results {str(self.folder)!r}: {counts or 'no runs'}>"

    def _repr_html_(self) -> str:
        """Return what a notebook shows: verdicts, or the runs if they are not comparable."""
        from ablate.report.render.html import to_fragment

        try:
            return to_fragment(self.findings())
        except ResultsError as error:
            shown = self.runs[[*SHOWN]].map(printable, na_action="ignore")
            return f"<p>{html.escape(printable(error))}</p>{shown.to_html(index=False, na_rep='')}"


def _settings(config: str) -> dict[str, object]:
    """Return the settings of a run by the names of their columns; none if its configuration cannot be read."""
    return {
        f"config.{section}.{name}": json.dumps(value) if isinstance(value, list | dict) else value
        for section, settings in read_json(config, dict).items()
        if isinstance(settings, dict)
        for name, value in settings.items()
    }


def _column(values: list[object]) -> pa.Array:
    """Return the values of one setting; as texts if they are of several types."""
    try:
        return pa.array(values)
    except (ValueError, TypeError, OverflowError):
        return pa.array([None if value is None else str(value) for value in values])


def _choice(words: dict[str, Any]) -> Choice:
    known = Choice.__dataclass_fields__
    for word in words:
        if word not in known:
            raise AblateError(
                f"findings({word}=...): unknown option{did_you_mean(word, known)} Allowed: {', '.join(known)}"
            )
    if words.get("budget") not in (None, "steps", "macs"):
        raise AblateError(f"findings(budget={words['budget']!r}): unknown; allowed: steps, macs")
    return Choice.of(words)
