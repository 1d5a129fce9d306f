"""The Python API: run a study, open a results folder, load a run, judge scores of your own.

`findings` is the content of `ablate report --json`, computed by the same code. Nothing here imports
torch before `run` or `load_run` is called.
"""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from os import PathLike
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ablate.base.errors import AblateError
from ablate.results_folder import Results
from ablate.study import variants
from ablate.study.plugins import load_file
from ablate.study.variants import registry

if TYPE_CHECKING:
    import pandas as pd

    from ablate.inference.trained_run import TrainedRun
    from ablate.scores.reading import Scores

Budget = Literal["steps", "macs"]


def load_results(path: str | PathLike[str] = "results") -> Results:
    """Open a results folder.

    Args:
        path: The folder that `ablate run` wrote.

    Raises:
        ResultsError: There is no such folder.
    """
    return Results(path)


def load_run(
    run: str | PathLike[str],
    *,
    device: str = "auto",
    plugin: str | PathLike[str] | Sequence[str | PathLike[str]] = (),
    offline: bool = False,
) -> TrainedRun:
    """Load a trained run, to draw images from it: `ablate.load_run("user/cats").sample(16)`.

    The weights are checked against the digest in the run's row. Nothing is unpickled.

    Args:
        run: One of: a run of a results folder, as in `results/no_drift-quick-cats-s0` (the first
            letters are enough); a folder that `ablate push` wrote; a repository of the Hugging Face
            Hub, as in `user/cats`, which is downloaded once. What is on this machine comes first.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        plugin: Python files with the model, objective or solver that the run uses. Their code is
            run. What this program registers itself needs no file.
        offline: Download nothing.

    Raises:
        AblateError: There is no such run, its files are not those of its row, it needs a plug-in
            that is not loaded, or the hub cannot be reached.
    """
    for path in (plugin,) if isinstance(plugin, str | PathLike) else plugin:
        load_file(Path(path))
    from ablate.base.machine import pick_device
    from ablate.hub.loading import load

    return load(run, pick_device(device), offline=offline)


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


def judge(
    scores: str | PathLike[str] | Sequence[str | PathLike[str]] | pd.DataFrame,
    *,
    variant: str | None = None,
    seed: str | None = None,
    metrics: str | Sequence[str] = (),
    better: str | Mapping[str, str] = "",
    against: str | None = None,
    same_within: str | None = None,
) -> pd.DataFrame:
    """Judge scores of your own, as `ablate judge` does. What was guessed is a warning.

    Args:
        scores: A data frame, a file (CSV, TSV, JSON, JSON lines, Parquet), or several. A row is one
            variant at one seed, with a column for each metric; or one value, with columns `metric`
            and `value`.
        variant: The column that says which variant a row is; None: guess it.
        seed: The column of the seed; None: guess it.
        metrics: The metrics to judge by; empty: those whose name says which values are better.
        better: `higher` or `lower`, or one for each metric, where the name does not say it.
        against: The variant to compare the others with; None: `baseline`, `base` or `control`.
        same_within: Differences up to this size are the same: `2%` of the other's mean, or a number.

    Returns:
        One row for each variant and metric, as `Results.verdicts` returns them.

    Raises:
        ResultsError: What the table lacks, or which cell is wrong.
    """
    from ablate.scores.rows import to_rows
    from ablate.store import tables

    read = _read_scores(scores, variant, seed, metrics, better, against)
    with tempfile.TemporaryDirectory() as folder:
        tables.append(Path(folder), to_rows(read))
        return Results(folder).verdicts(against=read.against, same_within=same_within)


def import_scores(
    scores: str | PathLike[str] | Sequence[str | PathLike[str]] | pd.DataFrame,
    results: str | PathLike[str] = "results",
    *,
    variant: str | None = None,
    seed: str | None = None,
    metrics: str | Sequence[str] = (),
    better: str | Mapping[str, str] = "",
    against: str | None = None,
    force: bool = False,
) -> Results:
    """Write scores of your own into a results folder, as `ablate import` does, and open it.

    Args:
        scores: As for `judge`, as `variant`, `seed`, `metrics`, `better` and `against`.
        results: The results folder; created if it is missing.
        variant: The column of the variant.
        seed: The column of the seed.
        metrics: The metrics to write.
        better: Which values are better.
        against: The variant that reports compare the others with.
        force: Replace other values of the same runs.

    Raises:
        ResultsError: As `judge`, or the folder holds other values of a run.
    """
    from ablate.scores import rows

    rows.import_scores(_read_scores(scores, variant, seed, metrics, better, against), Path(results), force=force)
    return Results(results)


def _read_scores(
    scores: str | PathLike[str] | Sequence[str | PathLike[str]] | pd.DataFrame,
    variant: str | None,
    seed: str | None,
    metrics: str | Sequence[str],
    better: str | Mapping[str, str],
    against: str | None,
) -> Scores:
    """Read scores, and warn of what was guessed."""
    import pandas as pd

    from ablate.base.text import split_names
    from ablate.scores.reading import Options, read_scores

    words = [f"{name}={word}" for name, word in better.items()] if isinstance(better, Mapping) else split_names(better)
    options = Options(variant, seed, split_names(metrics), tuple(words), against)
    if isinstance(scores, str | PathLike):
        scores = [scores]
    if isinstance(scores, Sequence) and all(isinstance(path, str | PathLike) for path in scores) and scores:
        read = read_scores([Path(path) for path in scores], options)
    elif isinstance(scores, pd.DataFrame):
        read = read_scores(scores, options)
    else:
        raise AblateError(f"scores of type {type(scores).__name__}: allowed are a data frame, a path or several paths")
    for note in read.notes:
        warnings.warn(note, stacklevel=3)
    return read


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
    array: str = "",
    results: str | PathLike[str] = "results",
    budget: Budget = "steps",
    metrics: str | Sequence[str] = (),
    weights: str | PathLike[str] | None = None,
    offline: bool = False,
    device: str = "auto",
    launcher: Literal["local", "ray", "slurm"] = "local",
    ray_address: str | None = None,
    slurm: str | Sequence[str] = (),
    jobs: int | None = None,
    threads: int | None = None,
    gpus: float | None = None,
    quantize: str | None = None,
    scopes: str | None = None,
    timeout: float | None = None,
    fail_fast: bool = False,
    force: bool = False,
    failed: bool = False,
    stale: bool = False,
    steal: bool = False,
    compile: Literal["auto", "on", "off"] = "auto",
    save_every_s: float = 60.0,
    log: str | Sequence[str] = (),
    variants: str | PathLike[str] | None = None,
    plugin: str | PathLike[str] | Sequence[str | PathLike[str]] = (),
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
        preset: The preset: `smoke`, `quick`, `standard`, `published`, `paper`.
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
        array: The array of an `.npz` that holds the images; empty: the only one that can.
        results: The results folder. It is created if it is missing.
        budget: `steps`: equal training steps; `macs`: the baseline's training MACs for each.
        metrics: Metrics to measure, instead of `fid`, `kid` and `lpips`; `fd` and `pd` are always
            measured. Weights that are not on this machine are downloaded. One that cannot be
            measured is a warning.
        weights: A folder of weights; None: `ABLATE_WEIGHTS`.
        offline: Download no weights.
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
        timeout: Seconds that a program may take for a run; None: as its settings say.
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
        plugin: Python files with models, metrics, data sets, objectives or solvers of your own. Their
            code is run. What this program registers itself needs no file.
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
    del options["on_row"], options["variants"], options["plugin"]
    for path in (plugin,) if isinstance(plugin, str | PathLike) else plugin:
        load_file(Path(path))
    from ablate.study.metric_names import headline_of
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
            else:
                progress.say(f"note: no {headline_of(network)}: {why}")

        make_study(
            request,
            progress=progress,
            on_row=on_row or (lambda row, how: progress.say(described(row, how))),
            on_missing=on_missing,
            say=progress.say,
        )
    return Results(request.results)
