"""What `tests/test_parallel.py` starts under torchrun: the study of `study()`, interrupted in one process alone, and then gone on with."""

from __future__ import annotations

import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch.distributed

from ablate import evaluate, machine, parallel, results
from ablate.launch import local
from ablate.study import RunSpec, plan

# Batch, share with a perceptual distance: equal parts, unequal ones, and one process without any.
SHARES = [(8, 0.5), (7, 0.4), (5, 0.1)]
STEPS = 24


def study() -> list[RunSpec]:
    """Runs of one step for each way to share a batch, so that only that counts, and a longer one."""
    direct, latent = plan(["direct", "latent+direct"], [0], "smoke")
    few: dict[str, Any] = {"fd_samples": 2, "fd_reference": 2, "denoise_images": 1, "nearest_train": 2}
    measure = replace(direct.config.measure, **few, latency_batches=(1,), latency_samples=1)

    def run(spec: RunSpec, seed: int, **train: Any) -> RunSpec:
        config = replace(spec.config, measure=measure, train=replace(spec.config.train, **train))
        return replace(spec, seed=seed, config=replace(config, autoencoder=replace(config.autoencoder, steps=1)))

    shared = [run(direct, i, steps=1, batch=n, perceptual_share=share) for i, (n, share) in enumerate(SHARES)]
    return [run(direct, 9, steps=STEPS, perceptual="none", batch=2), *shared, run(latent, 5, steps=1)]


def quick() -> list[tuple[Any, str, Any]]:
    """What is put in the place of what: float32, and nothing measured but denoising, for it is the training that is shared."""
    nothing = [(evaluate, f"measure_{what}", lambda *_: None) for what in ("fidelity", "neighbours", "times")]
    return [(machine, "pick_precision", lambda device: "fp32"), *nothing]


def launch(folder: Path, name: str) -> list[str]:
    """Make the study in a results folder of that name; return what was told."""
    told: list[str] = []
    results.check_folder(folder / name)
    local.launch(
        study(),
        str(folder / "set.npz"),
        folder / name,
        device="cpu",
        threads=1,
        on_row=lambda row, how: told.append(f"{row['run_id']} {row.get('status', how)}"),
        on_missing=lambda *_: None,
    )
    return told


def main(folder: Path) -> None:
    """Be one of the processes."""
    rank, told = os.environ["RANK"], []
    torch.distributed.init_process_group("gloo")  # torch cannot join twice, which two studies would do
    for place, name, value in quick():
        setattr(place, name, value)
    whole = parallel.Together.whole

    def interrupted(self: parallel.Together, parts: Any, step: int) -> Any:
        if rank == "1" and step == 3:
            os.kill(os.getpid(), signal.SIGTERM)
        return whole(self, parts, step)

    parallel.Together.whole = interrupted  # type: ignore[method-assign]
    try:
        launch(folder, "shared")
    except KeyboardInterrupt:
        told.append("interrupted")
    parallel.Together.whole = whole  # type: ignore[method-assign]
    told += launch(folder, "shared")
    (folder / f"told{rank}.json").write_text(json.dumps(told))
    torch.distributed.barrier()
    torch.distributed.destroy_process_group()  # its threads may not outlive the interpreter: they would abort the process


if __name__ == "__main__":
    main(Path(sys.argv[1]))
