"""The Python API: run a study, open a results folder, read its tables and its findings.

`findings` is the content of `ablate report --json`, computed by the same code. Nothing here imports
torch before `run` is called.
"""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterable, Sequence
from functools import cached_property
from numbers import Integral
from os import PathLike
from pathlib import Path
from typing import Any, Literal

import pandas as pd
import pyarrow as pa

from ablate.base.errors import AblateError, ResultsError, did_you_mean
from ablate.base.text import split_names
from ablate.report.builder import build, read
from ablate.report.findings import Findings
from ablate.report.selection import Choice
from ablate.store import tables
from ablate.store.atomic_files import output_file
from ablate.store.output import check_output
from ablate.study import variants
from ablate.study.variants import registry

Budget = Literal["steps", "macs"]
DTYPES = {pa.string(): pd.StringDtype(), pa.int64(): pd.Int64Dtype(), pa.bool_(): pd.BooleanDtype()}  # as in tables
SHOWN = (
    "run_id",
    "variant",
    "preset",
    "seed",
    "status",
    "fd",
    "pd",
    "psnr_db",
    "wall_s",
)  # what a notebook shows of runs


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
        """Return `runs` with a column for each setting of the configuration too, as in `config.train.lr`.

        A setting that is a list is a JSON text, as in `[24, 24, 24]`. A run whose configuration is
        unknown, or has no such setting, is null there.
        """
        texts = self.runs["config"]
        settings = {text: _settings(text) for text in texts.dropna().unique()}
        names = dict.fromkeys(name for one in settings.values() for name in one)
        rows = [settings.get(text, {}) for text in texts]
        flat = pa.table({name: _column([row.get(name) for row in rows]) for name in names})
        return self.runs.join(flat.to_pandas(types_mapper=DTYPES.get))

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
        return self.folder / "artifacts" / run_id

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
            shown = self.runs[[name for name in SHOWN if name in self.runs]]
            return to_fragment(
                None,
                note=str(error),
                rows=shown.astype(object).where(shown.notna(), "").to_numpy().tolist(),
                heads=SHOWN,
            )


def _settings(config: str) -> dict[str, object]:
    """Return the settings of a run by the names of their columns; none if its configuration cannot be read."""
    try:
        sections = json.loads(config)
        return {
            f"config.{section}.{name}": json.dumps(value) if isinstance(value, list | dict) else value
            for section, settings in sections.items()
            for name, value in settings.items()
        }
    except (ValueError, AttributeError, RecursionError):  # a table may come from elsewhere
        return {}


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
    given = {word: value for word, value in words.items() if value is not None}  # None means the default
    given |= {name: split_names(given[name]) for name in ("metrics", "variants") if name in given}
    if given.get("budget", "steps") not in ("steps", "macs"):
        raise AblateError(f"findings(budget={given['budget']!r}): unknown; allowed: steps, macs")
    texts = ("preset", "data", "against", "samples", "extractor", "where")
    given |= {name: str(given[name]) for name in texts if name in given}
    if "without_seeds" in given:
        seeds = given["without_seeds"]
        given["without_seeds"] = tuple(map(int, [seeds] if isinstance(seeds, Integral) else seeds))
    if "variants" in given:
        given["variants"] = tuple(map(variants.canonical, given["variants"]))
    return Choice(**given | {"against": variants.canonical(given.get("against", variants.BASELINE))})


def load_results(path: str | PathLike[str] = "results") -> Results:
    """Open a results folder.

    Args:
        path: The folder that `ablate run` wrote.

    Raises:
        ResultsError: There is no such folder.
    """
    return Results(path)


def merge(
    folders: Iterable[str | PathLike[str]],
    output: str | PathLike[str],
    *,
    prefer: str | PathLike[str] | None = None,
) -> Results:
    """Put the runs of several results folders into one, as `ablate merge` does, and open it.

    Args:
        folders: The folders to read.
        output: The folder to write: a new one, or one to add to.
        prefer: One of these folders, whose rows are taken where those of a run differ.

    Raises:
        ResultsError: A folder cannot be read or written, or rows of a run differ without `prefer`.
    """
    from ablate.launch.leases import Leases
    from ablate.store import merge as merging

    merging.merge(
        [Path(folder) for folder in folders],
        Path(output),
        prefer=None if prefer is None else Path(prefer),
        refuse_running=Leases(Path(output)).refuse_held,
    )
    return Results(output)


def run(
    variant: str | Sequence[str] = variants.BASELINE,
    seeds: str | int | Iterable[int] = 0,
    preset: str = variants.DEFAULT_PRESET,
    *,
    until_decided: bool = False,
    max_seeds: int | None = None,
    factors: str | None = None,
    set: str | Sequence[str] = (),
    tune: str | Sequence[str] = (),
    tune_seeds: str | int | Iterable[int] = (1000, 1001),
    tune_metric: str = "pd",
    at_steps: str | Sequence[int] = (),
    nfe: str | Sequence[int] = (),
    baseline: bool = True,
    data: str | PathLike[str] = "cats",
    results: str | PathLike[str] = "results",
    budget: Budget = "steps",
    metrics: str | Sequence[str] = (),
    weights: str | PathLike[str] | None = None,
    device: str = "auto",
    launcher: Literal["local", "ray", "slurm"] = "local",
    ray_address: str | None = None,
    slurm: str | Sequence[str] = (),
    jobs: int | None = None,
    threads: int | None = None,
    gpus: float | None = None,
    quantize: str | None = None,
    scopes: str | None = None,
    fail_fast: bool = False,
    force: bool = False,
    failed: bool = False,
    stale: bool = False,
    steal: bool = False,
    compile: Literal["auto", "on", "off"] = "auto",
    save_every_s: float = 60.0,
    log: str | Sequence[str] = (),
    variants: str | PathLike[str] | None = None,
    tag: str | Sequence[str] = (),
    on_row: Callable[[dict[str, Any], str], None] | None = None,
) -> Results:
    """Train, sample, measure and record variants and their baseline, as `ablate run` does.

    Finished runs are skipped, interrupted ones resume. Progress goes to stderr: a line for each run,
    and bars on a terminal or in a notebook with ipywidgets.

    Args:
        variant: A variant, `a+b` for a combination, `all` for every one, or several of these.
        seeds: A seed, several, or text such as `0-4`.
        until_decided: After these seeds go on seed by seed, each variant until it is decided.
        max_seeds: Seeds at most, with `until_decided`; None: 16.
        preset: The preset: `smoke`, `quick`, `standard`, `paper`.
        factors: Axes, as in `drift,prediction`: every combination of their variants.
        set: Settings for every variant chosen, as in `train.lr=3e-4`; `train.lr=1e-3,3e-4`: one
            variant per value.
        tune: Settings to choose from for each variant by itself, as in `train.lr=5e-4,1e-3,2e-3`.
        tune_seeds: Seeds of the runs that choose. They are never judged.
        tune_metric: The metric that chooses.
        at_steps: Also train every variant with these numbers of steps, for curves that are shown but
            not judged.
        nfe: Also draw every run's samples with these numbers of network evaluations, for curves.
        baseline: Also run the baseline at the same seeds, to compare with.
        data: `cats`, or a folder, zip or `.npz` of images.
        results: The results folder. It is created if it is missing.
        budget: `steps`: equal training steps; `macs`: the baseline's training MACs for each.
        metrics: Metrics asked for by name. Their networks' weights may be downloaded; one that
            cannot be measured is a warning.
        weights: A folder of weights; None: `ABLATE_WEIGHTS`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        launcher: `local`: one run after another, here; `ray`: tasks of a Ray cluster; `slurm`:
            jobs of a SLURM cluster.
        ray_address: With ray: the cluster's address; None: `RAY_ADDRESS`, else this machine.
        slurm: With slurm: settings of each job, as in `["partition=gpu", "gpus_per_node=1"]`.
        jobs: With ray: runs at once; None: as many as fit. With slurm: jobs; None: one per run.
        threads: Threads of a run; None: torch's choice, or 1 with ray.
        gpus: With ray: GPUs of a run, as in 0.5; None: 1 if there are any.
        quantize: Number formats to measure, as in `int8,fp8`; None: the preset's.
        scopes: What is quantised; None: the preset's.
        fail_fast: Stop at the first failed run; else the others are made first.
        force: Make finished runs again.
        failed: Make failed and diverged runs again, and no others.
        stale: Also make finished runs again that were computed by other code.
        steal: Take runs from another process that hangs while it makes them.
        compile: Compile the transformer blocks; `auto`: if the training is long enough.
        save_every_s: Seconds between checkpoints.
        log: Trackers that record finished runs too: `tensorboard`, `mlflow`.
        variants: The folder of your own variants and presets; None: `ABLATE_VARIANTS`, else
            `variants`.
        tag: Tags for all runs of the study.
        on_row: Called after each run, instead of the line on stderr, with the run's row and how it
            went: `made`, `quantised`, or the reason for skipping it.

    Returns:
        The results folder, with the new rows.

    Raises:
        AblateError: A value that is not allowed, data that cannot be used, or a run that cannot go
            on.
        KeyboardInterrupt: Interrupted, after saving. The same call goes on from there.
    """
    options = dict(locals())  # the parameters are named after the fields of StudyRequest
    del options["on_row"], options["variants"]
    from ablate.study.request import StudyRequest, as_call

    with registry(None if variants is None else Path(variants)):
        request = StudyRequest.of(as_call, options)
        from ablate.base.progress import Progress
        from ablate.launch.study import described
        from ablate.studies import make_study

        progress = Progress()

        def on_missing(network: str, why: str) -> None:
            lost = [metric.name for metric in request.asked_metrics if metric.network == network]
            if lost:
                warnings.warn(f"no {', '.join(lost)}: {why}", stacklevel=2)

        make_study(
            request,
            progress=progress,
            on_row=on_row or (lambda row, how: progress.say(described(row, how))),
            on_missing=on_missing,
            say=progress.say,
        )
    return Results(request.results)
