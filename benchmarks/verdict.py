"""The time to a verdict on the post's four axes: `python benchmarks/verdict.py [--before COMMIT]`.

    seconds = start-up + runs x (load + autoencoder + steps / rate + sampling + measuring + formats)

Each of the five variants is run for real from an empty folder, with few training steps; the rate of
its last steps is extrapolated to the preset's length. The number of runs is that of a plan of six
seeds, and that of `--until-decided`, replayed on the rows of a stored study. With `--before` an
earlier commit is timed too, in turns with this code, in a worktree that is deleted afterwards.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

import ablate
from ablate.study import variants as registry

ROOT = Path(__file__).parents[1]
VARIANTS = ("baseline", "normalized", "no_drift", "v_pred", "latent")  # one for each axis
SEEDS, MOST_SEEDS = 6, 8  # of the plan; of the stored study
PARTS = ("start", "load", "autoencoder", "train", "sample", "measure", "quantize")
SHORT = {"train.steps": 30, "autoencoder.steps": 30}  # of the timed runs


def main(
    preset: Annotated[str, typer.Option(help="The preset whose time is estimated.")] = "quick",
    before: Annotated[str | None, typer.Option(help="A commit that is timed too.", show_default=False)] = None,
    timed: Annotated[
        str, typer.Option("--variants", help="Those to time; others cost what the first does.")
    ] = ",".join(VARIANTS),
    study: Annotated[Path, typer.Option(help="The stored study.")] = ROOT / "results" / "studies" / "quick_cats",
    as_json: Annotated[bool, typer.Option("--json", help="One JSON document.")] = False,
) -> None:
    """Estimate the seconds until the four axes are decided on this machine."""
    studies = {"plan": dict.fromkeys(VARIANTS, SEEDS), "until decided": runs_until_decided(study)}
    with code_trees(before) as trees:
        times: dict[str, dict[str, dict[str, float]]] = {name: {} for name in trees}
        for variant in timed.split(","):
            for name, tree in trees.items():
                times[name][variant] = time_run(tree, variant, preset)
    seconds = {name: {how: study_seconds(times[name], runs) for how, runs in studies.items()} for name in times}
    if as_json:
        typer.echo(json.dumps({"runs": studies, "parts_s": times, "study_s": seconds}, indent=2))
        return
    table = Table("seconds", "variant", *PARTS, "run")
    for name, of_tree in times.items():
        for variant, parts in of_tree.items():
            table.add_row(name, variant, *(f"{parts[part]:.1f}" for part in PARTS), f"{run_seconds(parts):.0f}")
    Console().print(table)
    for name in times:
        for how, runs in studies.items():
            typer.echo(f"{name}, {how}: {sum(runs.values())} runs, {seconds[name][how] / 60:.0f} minutes")


@contextmanager
def code_trees(commit: str | None) -> Iterator[dict[str, Path]]:
    """Yield the code to time: name -> checkout; the earlier commit first."""
    if commit is None:
        yield {"now": ROOT}
        return
    folder = Path(tempfile.mkdtemp(prefix="ablate-verdict-")) / "before"
    subprocess.run(["git", "worktree", "add", "--quiet", "--detach", str(folder), commit], cwd=ROOT, check=True)
    try:
        yield {commit: folder, "now": ROOT}
    finally:
        subprocess.run(["git", "worktree", "remove", "--force", str(folder)], cwd=ROOT, check=False)
        shutil.rmtree(folder.parent, ignore_errors=True)


def time_run(tree: Path, variant: str, preset: str) -> dict[str, float]:
    """Return the seconds of each part of one run at a preset, from a short one in a new process."""
    with tempfile.TemporaryDirectory(prefix="ablate-verdict-") as folder:
        settings = [word for key, value in SHORT.items() for word in ("--set", f"{key}={value}")]
        words = ["run", "--preset", preset, "--variant", variant, "--no-baseline", "--offline", *settings]
        environment = {**os.environ, "PYTHONPATH": str(tree)}
        begun = time.monotonic()
        command = [sys.executable, "-c", "from ablate.cli import main; main()", *words, "--results", "results"]
        subprocess.run(command, cwd=folder, env=environment, check=True, stdout=subprocess.DEVNULL)
        wall_s = time.monotonic() - begun
        results = ablate.load_results(Path(folder) / "results")
        run, curve = results.runs.iloc[0], results.curves
    config = registry.resolve(registry.load(variant), preset)
    parts = {part: float(run[f"{part}_wall_s"]) for part in PARTS[1:]}
    parts["start"] = wall_s - sum(parts.values())
    parts["train"] = config.train.steps * config.train.batch / float(curve["images_per_s"].iloc[-1])
    parts["autoencoder"] *= config.autoencoder.steps / SHORT["autoencoder.steps"]
    return {part: parts[part] for part in PARTS}


def run_seconds(parts: Mapping[str, float]) -> float:
    """Return the seconds of a run among others, without the start of the process."""
    return sum(parts.values()) - parts["start"]


def study_seconds(times: Mapping[str, Mapping[str, float]], runs: Mapping[str, int]) -> float:
    """Return the seconds of a study, one run after another; a variant that was not timed costs what the first does."""
    first = next(iter(times.values()))
    return first["start"] + sum(count * run_seconds(times.get(name, first)) for name, count in runs.items())


def runs_until_decided(study: Path) -> dict[str, int]:
    """Return the runs of each variant until it is decided, and as many of the baseline as the last needs.

    `fd` of the stored study is judged as of a study that grows, with two seeds and then one more
    each time. A variant that stays undecided takes `MOST_SEEDS`.
    """
    runs = ablate.load_results(study).runs
    runs = runs.loc[(runs["status"] == "done") & runs["variant"].isin(VARIANTS), ["variant", "seed", "fd"]]
    decided = dict.fromkeys(VARIANTS[1:], MOST_SEEDS)
    for count in range(MOST_SEEDS - 1, 1, -1):
        known = ablate.judge(runs[runs["seed"] < count], metrics="fd", better="lower", against=VARIANTS[0]).set_index(
            "label"
        )["verdict"]
        for name in decided:
            if decided[name] == count + 1 and known[name] != "undecided":
                decided[name] = count
    return {VARIANTS[0]: max(decided.values()), **decided}


if __name__ == "__main__":
    typer.run(main)
