"""A finished run trained again from its row, and a verdict on how equal the outcome is.

- Bit-exact: the digests of weights and samples are the row's.
- Within tolerance: the samples have a PSNR of at least `PSNR_TOLERANCE_DB` against samples drawn
  here from the kept weights. The largest difference of a weight is reported, not judged: AdamW
  turns a gradient's last bit into a step of the learning rate's size.
- Environment mismatch: neither, and a library, the CPU, the GPU or the threads differ from the
  row's.
- Not reproduced: neither, in the same environment.
"""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from ablate.base import machine
from ablate.base.errors import DataError, ResultsError
from ablate.base.progress import Progress
from ablate.base.source_code import git_state
from ablate.data import cats
from ablate.data.datasets import is_embedded
from ablate.diffusion.sampling import sample_images, to_uint8
from ablate.inference.trained_run import TrainedRun
from ablate.metrics.networks import MetricNetworks, load_networks
from ablate.runs import loading
from ablate.runs.context import RunContext
from ablate.runs.finished import find_run
from ablate.runs.pipeline import train_and_sample
from ablate.runs.program_replay import ProgramReplay, replay_program
from ablate.runs.rows import RunRows
from ablate.study import plugins, variants
from ablate.study.config import DataConfig
from ablate.study.images import load_images
from ablate.study.plan import RunSpec
from ablate.study.program import ProgramConfig

Verdict = Literal["bit_exact", "within_tolerance", "environment_mismatch", "not_reproduced"]
PSNR_TOLERANCE_DB = 40.0


@dataclass(frozen=True)
class Replay:
    """The outcome of a replay."""

    run_id: str
    verdict: Verdict
    weights_equal: bool
    samples_equal: bool
    weights_max_abs_diff: float | None  # None: the kept weights are missing or damaged
    samples_psnr_db: float | None  # None: bit-exact, or the kept weights are missing
    environment: dict[str, tuple[Any, Any]]  # what differs: name -> (in the row, here)
    nondeterministic_ops: list[str]  # that ran here
    note: str


def replay_run(
    folder: Path,
    name: str,
    *,
    data: str | None = None,
    device: str | None = None,
    threads: int | None = None,
    progress: Progress,
    on_difference: Callable[[str, Any, Any], None] = lambda name, row, here: None,
) -> Replay | ProgramReplay:
    """Train and sample a run again in a temporary folder, and compare it with its row.

    A program is run again, and its metrics are compared.

    Args:
        folder: The results folder.
        name: A finished run's name, or the beginning of it.
        data: The path of its images; None: the embedded cats, or the plug-in's data set.
        device: A name as for `pick_device`; None: the row's, if this machine has it.
        threads: torch's threads; None: the row's.
        progress: Bars to show.
        on_difference: Called before the training with each part of the environment that differs,
            its value in the row and its value here.

    Raises:
        ResultsError: There is no such run, or it has not finished.
        DataError: The images are not those of the row.
        DivergedError: The training diverged this time.
    """
    row = find_run(folder, name)
    config = variants.from_json(row["config"], row["preset"])
    if isinstance(config, ProgramConfig):
        return replay_program(
            folder,
            row,
            config,
            device=device or "auto",
            networks=lambda: load_networks([], None, machine.pick_device(device or "auto")),
            progress=progress,
            on_difference=on_difference,
        )
    if config.hash != row["config_hash"]:
        raise ResultsError(
            f"run {row['run_id']}: its configuration has the hash {config.hash}, its row says {row['config_hash']}"
        )
    for name in config.changed_plugins():
        raise ResultsError(
            f"run {row['run_id']}: the code of {name} is not the run's (digest {config.plugins[name]}); "
            "restore that file and load it with --plugin"
        )
    registered = row["data"] in plugins.names("dataset")
    cats_in_another_form = (
        row["data"] == cats.NAME and config.data.replaced(array="") != DataConfig()
    )  # their digest is another
    if data is None and not registered and not cats_in_another_form and not is_embedded(row["data_digest"]):
        raise DataError(
            f"run {row['run_id']}: trained on {row['data']!r} ({str(row['data_digest'])[:12]}...), "
            "which is not embedded; fix: give its path with --data PATH"
        )
    source = data or (row["data"] if registered else cats.NAME)
    images = load_images(source, config.data)
    if images.digest != row["data_digest"]:
        raise DataError(
            f"--data {source}: digest {images.digest[:12]}..., the run's row says "
            f"{str(row['data_digest'])[:12]}...; fix: give the images that the run was trained on"
        )
    target = machine.pick_device(device or ("auto" if str(row["device"]).startswith("cuda") else "cpu"))
    spec = RunSpec(row["variant"], row["axis"], row["preset"], row["seed"], config, row["budget"])
    with (
        machine.use_threads(threads or row["threads"]),
        tempfile.TemporaryDirectory(prefix="ablate-replay-") as scratch,
    ):
        differing = _environment(row, target)
        for part, (then, here) in differing.items():
            on_difference(part, then, here)
        rows = RunRows({"run_id": row["run_id"]})
        networks = MetricNetworks(target, {}, {}, {})  # a replay measures nothing
        compiled = machine.pick_compile("on" if row["compiled"] else "off", config.train.steps, target)
        context = RunContext(
            spec=spec,
            data=images,
            rows=rows,
            artifacts=Path(scratch),
            networks=networks,
            device=target,
            precision=row["precision"],
            compiled=compiled,
            progress=progress,
            save_every_s=math.inf,
            cache=Path(scratch),
        )
        model, _, samples = train_and_sample(context)
        weights_equal = rows.run["weights_digest"] == row["weights_digest"]
        samples_equal = rows.run["samples_digest"] == row["samples_digest"]
        ops = rows.run["nondeterministic_ops"].split()
        largest: float | None = 0.0 if weights_equal and samples_equal else None
        psnr, note = None, ""
        if row["mixed_arithmetic"] is not None:
            note = f"the run was resumed in another arithmetic ({row['mixed_arithmetic']}); a replay uses only one"
        if largest is None:
            try:
                kept = loading.load_run(folder, row["run_id"], target)
                largest, psnr = _compare(kept, model, samples)
            except ResultsError as error:
                note = "; ".join(filter(None, (note, str(error))))
    near = largest is not None and (psnr is None or psnr >= PSNR_TOLERANCE_DB)
    verdict: Verdict = "environment_mismatch" if differing else "not_reproduced"
    verdict = "bit_exact" if weights_equal and samples_equal else "within_tolerance" if near else verdict
    return Replay(row["run_id"], verdict, weights_equal, samples_equal, largest, psnr, differing, ops, note)


def _compare(kept: TrainedRun, model: nn.Module, samples: np.ndarray) -> tuple[float, float | None]:
    """Return the largest difference of a weight, and the PSNR of the samples in dB.

    The samples (N, 3, H, W) uint8 are compared with those drawn here from the kept weights.
    """
    pairs = zip(model.parameters(), kept.model.parameters(), strict=True)
    largest = max(float((a - b).abs().max()) for a, b in pairs)
    precision, indices = kept.row["precision"], range(len(samples))
    images = sample_images(kept.model, kept.config, kept.row["seed"], indices, precision=precision, codec=kept.codec)
    return largest, _psnr_db(samples, to_uint8(images))


def _environment(row: dict[str, Any], device: torch.device) -> dict[str, tuple[Any, Any]]:
    """Return what differs in the environment: name -> (in the row, here); None if absent."""
    commit, dirty = git_state()
    then = json.loads(row["environment"]) | {"threads": row["threads"], "device": str(row["device"])}
    here = json.loads(machine.environment(device)) | {"threads": machine.threads(), "device": str(device)}
    then, here = then | {"processes": row["world_size"] or 1}, here | {"processes": 1}
    if commit is not None and row["git_commit"] is not None:
        then["git commit"] = row["git_commit"] + (" with changes" if row["git_dirty"] else "")
        here["git commit"] = commit + (" with changes" if dirty else "")
    return {k: (then.get(k), here.get(k)) for k in sorted(then.keys() | here.keys()) if then.get(k) != here.get(k)}


def _psnr_db(a: np.ndarray, b: np.ndarray) -> float | None:
    """Return the PSNR in dB of two arrays of images (N, 3, H, W) uint8; None if they are equal."""
    squared = float(np.square(a.astype(np.float64) - b).mean())
    return 10 * math.log10(255**2 / squared) if squared else None
