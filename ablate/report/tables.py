"""The study in one table per preset and data set: quality per variant, paired difference to the baseline, costs.

    value      = mean +- sd of  m(variant, seed)                      over the variant's finished seeds
    difference = mean +- sd of  m(variant, seed) - m(baseline, seed)  over the seeds finished by both

`build` computes every number once; `ablate.report.forms` only writes them down.
"""

from __future__ import annotations

import statistics
import textwrap
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd

from ablate.errors import ResultsError, did_you_mean
from ablate.files import printable
from ablate.measure.metrics import FEATURES
from ablate.report.quantized import Quantized, summarise
from ablate.variant import BASELINE

ABOUT = {
    "fid": "Frechet distance in Inception-v3 features",
    "fd": "Frechet distance in EfficientNet-Lite0 features",
    "lpips": "LPIPS of one-step denoising on held-out pictures",
    "pd": "EfficientNet-Lite0 perceptual distance of one-step denoising on held-out pictures",
}
FIDELITY = ("fid", "fd")  # the ones that depend on how many samples are compared
COSTS = {  # column -> head
    "params": "params",
    "macs": "MACs",
    "nfe": "nfe",
    "train_macs": "train MACs",
    "train_wall_s": "train s",
    "latency_step_ms": "ms/step",
    "latency_image_ms": "ms/image",
}
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
UNFINISHED = ("diverged", "failed", "interrupted")
SAME_MACS = 0.01  # of the training MACs: as good as equal
MACHINE = ("device", "precision", "threads")
Run = dict[str, Any]  # one row of runs.parquet, null as None


@dataclass(frozen=True)
class Value:
    """A mean over `n` seeds and its spread: `mean` is None for no seed, `sd` for fewer than two."""

    mean: float | None
    sd: float | None
    n: int


@dataclass(frozen=True)
class Metric:
    """A headline metric, lower is better: `n` samples against `ref_n` real pictures; `floor`: real against real."""

    name: str
    about: str
    n: int | None = None
    ref_n: int | None = None
    floor: float | None = None
    floor_n: int | None = None
    warning: str | None = None


@dataclass(frozen=True)
class Row:
    """One variant in one configuration. Costs are medians over its seeds."""

    label: str
    variant: str
    axis: str | None
    config_hash: str | None
    seeds: tuple[int, ...]
    runs: int
    unfinished: dict[str, int]
    values: dict[str, Value]
    differences: dict[str, Value] | None  # None: this is the baseline
    costs: dict[str, float | None]


@dataclass(frozen=True)
class Group:
    """The runs that may be compared: one preset on one data set."""

    preset: str
    data: str | None
    data_digest: str | None
    budget: str  # what the runs have in common with the baseline: `steps`, or training `macs`
    metrics: tuple[Metric, ...]
    rows: tuple[Row, ...]
    notes: tuple[str, ...]
    quantized: Quantized | None = None


@dataclass(frozen=True)
class Report:
    """A study, one group per preset and data set."""

    groups: tuple[Group, ...]


def build(
    runs: pd.DataFrame,
    quantized: pd.DataFrame | None = None,
    *,
    preset: str | None = None,
    data: str | None = None,
    budget: str = "steps",
) -> Report:
    """Summarise the runs of a study.

    Args:
        runs: The table `runs`, as `ablate.results.read` returns it.
        quantized: The table `quantized`; None: number formats are left out.
        preset: Only the runs of this preset.
        data: Only the runs on this data set: its name, or the path it was read from.
        budget: `steps`: the runs of each variant with its preset's steps; `macs`: those with the baseline's training MACs.

    Raises:
        ResultsError: There are runs, but none with this preset or data set.
    """
    records: list[Run] = runs.astype(object).where(runs.notna(), None).to_dict("records")  # type: ignore[assignment]
    # A table may come from elsewhere: what is shown of it must not steer a terminal.
    records = [
        {key: printable(" ".join(v.split())) if isinstance(v, str) else v for key, v in run.items()} for run in records
    ]
    records = _only(records, "preset", preset, {preset})
    records = _only(records, "data", data, {data, Path(data).stem} if data else set())
    groups: dict[tuple[str, str, str], list[Run]] = {}
    for run in records:
        groups.setdefault((run["preset"], run["data"] or "", run["data_digest"] or ""), []).append(run)
    return Report(tuple(_group(groups[key], budget, quantized) for key in sorted(groups)))


def _only(records: list[Run], column: str, asked: str | None, accepted: set[str | None]) -> list[Run]:
    found = [run for run in records if asked is None or run[column] in accepted]
    if records and not found:
        there = sorted({str(run[column]) for run in records if run[column] is not None})
        near = did_you_mean(str(asked), there)
        raise ResultsError(f"no run with {column} {asked!r}{near} Found in the results: {', '.join(there) or 'none'}")
    return found


def _group(all_runs: list[Run], budget: str, quantized: pd.DataFrame | None) -> Group:
    notes: list[str] = []
    runs = _of_budget(all_runs, budget, notes)
    configs: dict[tuple[str, str], list[Run]] = {}  # by variant and configuration, the newest last
    for run in sorted(runs, key=lambda run: run["finished_at"] or EPOCH):
        key = (run["variant"], run["config_hash"] or "")
        configs[key] = [*configs.pop(key, []), run]
    done = [run for some in configs.values() for run in _done(some).values()]
    base_key = next((key for key in reversed(configs) if key[0] == BASELINE and _done(configs[key])), None)
    baseline = _done(configs[base_key]) if base_key else {}
    names = _headline(done)
    sizes = _one_size(done, baseline, notes)
    metrics = tuple(_metric(name, sizes, done) for name in names)
    several = {variant for variant, n in Counter(variant for variant, _ in configs).items() if n > 1}
    rows, labelled, base_label = [], {}, None
    axes = {key: some[-1]["axis"] or "" for key, some in configs.items()}
    for key in sorted(configs, key=lambda key: (key != base_key, key[0] != BASELINE, axes[key], *key)):
        label = f"{key[0]} @{key[1]}" if key[0] in several else key[0]
        labelled[label] = _done(configs[key])
        base_label = label if key == base_key else base_label
        spent, allowed = _budget(_done(configs[key]), budget), _budget(baseline, budget)
        if spent and allowed and spent != allowed:
            notes.append(f"{label}: an unequal budget: {spent}; the baseline: {allowed}")
        rows.append(_row(label, configs[key], None if key == base_key else baseline, names, notes))
    if base_key is None:
        notes.append("the baseline has no finished run here: no differences")
    elif BASELINE in several:
        notes.append(f"the baseline has several configurations; differences are to the newest, @{base_key[1]}")
    machines = Counter(" ".join(str(run[name]) for name in MACHINE if run[name] is not None) for run in done)
    if len(machines) > 1:
        listed = ", ".join(f"{machine or 'unknown'} ({n} runs)" for machine, n in sorted(machines.items()))
        notes.append(f"times come from unequal devices, precisions or threads and do not compare: {listed}")
    first, formats = all_runs[0], None if quantized is None else summarise(quantized, labelled, base_label)
    return Group(
        first["preset"], first["data"], first["data_digest"], budget, metrics, tuple(rows), tuple(notes), formats
    )


def _of_budget(runs: list[Run], budget: str, notes: list[str]) -> list[Run]:
    """Keep the runs that may be compared at a budget, and name the variants that have none."""
    if budget == "steps":
        return [run for run in runs if run["budget"] != "macs"]
    allowed = [run["train_macs"] for run in runs if run["variant"] == BASELINE and run["train_macs"]]
    kept = [
        run
        for run in runs
        if run["budget"] == "macs" or any(abs((run["train_macs"] or 0) / macs - 1) < SAME_MACS for macs in allowed)
    ]
    lacking = sorted({run["variant"] for run in runs} - {run["variant"] for run in kept})
    if lacking:
        notes.append(f"no run with the baseline's training MACs (ablate run --budget macs): {', '.join(lacking)}")
    return kept


def _budget(runs: dict[int, Run], budget: str) -> str:
    """What one configuration spends on each of its runs, beside what makes the budgets equal."""
    for run in runs.values():
        nfe = f"nfe {count(run['nfe'])}"
        return f"{count(run['steps'])} steps, {nfe}" if budget == "steps" else nfe
    return ""


def _done(runs: Iterable[Run]) -> dict[int, Run]:
    """The finished runs by seed; `runs` from old to new, so the newest of each seed."""
    return {run["seed"]: run for run in runs if run["status"] == "done"}


def _headline(done: list[Run]) -> list[str]:
    """`fid` and `lpips` where every finished run has them, else the embedded `fd` and `pd`."""
    complete = [name for name in ABOUT if done and all(run[name] is not None for run in done)]
    return ["fid" if "fid" in complete else "fd", "lpips" if "lpips" in complete else "pd"]


def _one_size(done: list[Run], baseline: dict[int, Run], notes: list[str]) -> tuple[int | None, int | None]:
    """Return (N, reference N), and blank the Frechet distances taken with others: their bias depends on it."""
    sizes = Counter((run["fd_n"], run["fd_ref_n"]) for run in baseline.values() or done)
    size = sizes.most_common(1)[0][0] if sizes else (None, None)
    odd: dict[tuple[str, int | None, int | None], list[int]] = {}
    for run in done:
        if (run["fd_n"], run["fd_ref_n"]) != size:
            odd.setdefault((run["variant"], run["fd_n"], run["fd_ref_n"]), []).append(run["seed"])
            run.update(dict.fromkeys((*FIDELITY, "fd_floor", "fid_floor")))
    for (variant, n, ref_n), seeds in odd.items():
        used = f"N = {count(n)} against {count(ref_n)}"
        notes.append(f"{variant}: {_seeds(seeds)} measured with {used}, not as the rest: Frechet distance left out")
    return size


def _metric(name: str, size: tuple[int | None, int | None], done: list[Run]) -> Metric:
    if name not in FIDELITY:
        return Metric(name, ABOUT[name])
    floors = [(run["fd_floor_n"], run[f"{name}_floor"]) for run in done if run[f"{name}_floor"] is not None]
    floor_n = floors[0][0] if floors else None
    few = [n for n in size if n is not None and n <= FEATURES[name]]
    warning = f"fewer pictures than the {FEATURES[name]:,} features: a covariance without full rank" if few else None
    return Metric(
        name, ABOUT[name], *size, _summary(floor for n, floor in floors if n == floor_n).mean, floor_n, warning
    )


def _row(label: str, runs: list[Run], baseline: dict[int, Run] | None, names: list[str], notes: list[str]) -> Row:
    done = _done(runs)
    values, differences = {}, {}
    for name in names:
        mine, theirs = _by_seed(done, name), _by_seed(baseline or {}, name)
        shared = [seed for seed in mine if seed in theirs]
        values[name] = _summary(mine.values())
        differences[name] = _summary(mine[seed] - theirs[seed] for seed in shared)
        if theirs and len(shared) < len(mine):
            common = f"difference over {_seeds(shared)}" if shared else "no difference"
            notes.append(f"{label}: {name} {common}: the baseline lacks {_seeds(set(mine) - set(shared))}")
        if len(mine) < len(done):
            notes.append(f"{label}: no {name} for {_seeds(set(done) - set(mine))}")
    fd, pd_, psnr_db = (
        _summary(_by_seed(done, f"autoencoder_{name}").values()).mean for name in ("fd", "pd", "psnr_db")
    )
    if fd is not None:
        notes.append(f"{label}: its autoencoder alone: fd {fd:.1f}, pd {pd_:.4f}, {psnr_db:.2f} dB")
    copies = [seed for seed, run in done.items() if run["memorised"]]
    if copies:
        notes.append(
            f"{label}: {_seeds(copies)}: samples lie next to training pictures more often than held-out ones do: copies?"
        )
    unfinished = {}
    for status in UNFINISHED:
        lost = {run["seed"]: run["error"] for run in runs if run["status"] == status and run["seed"] not in done}
        unfinished[status] = len(lost)
        if lost:
            errors = "; ".join(dict.fromkeys(textwrap.shorten(error, 160) for error in lost.values() if error))
            notes.append(f"{label}: {_seeds(lost)} {status}, not in the means{': ' if errors else ''}{errors}")
    costs = {name: _by_seed(done, name) for name in COSTS}
    return Row(
        label=label,
        variant=runs[-1]["variant"],
        axis=runs[-1]["axis"],
        config_hash=runs[-1]["config_hash"],
        seeds=tuple(sorted(done)),
        runs=len(done) + sum(unfinished.values()),
        unfinished=unfinished,
        values=values,
        differences=None if baseline is None else differences,
        costs={name: statistics.median(known.values()) if known else None for name, known in costs.items()},
    )


def _by_seed(runs: dict[int, Run], column: str) -> dict[int, float]:
    return {seed: float(run[column]) for seed, run in runs.items() if run[column] is not None}


def _summary(values: Iterable[float]) -> Value:
    numbers = list(values)
    mean = statistics.fmean(numbers) if numbers else None
    return Value(mean, statistics.stdev(numbers) if len(numbers) > 1 else None, len(numbers))


def _seeds(seeds: Iterable[int]) -> str:
    listed = sorted(seeds)
    return f"seed{'' if len(listed) == 1 else 's'} {', '.join(map(str, listed))}"


def count(n: int | None) -> str:
    """Return a number with thousands separated, or `unknown`."""
    return "unknown" if n is None else f"{n:,}"
