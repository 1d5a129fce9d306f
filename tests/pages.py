"""A results folder with all that a page shows: random numbers whose truth is known, and images of coloured discs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import synthetic

from ablate.store.image_grids import save_grid, save_strip

DIGEST = synthetic.DIGEST
TRUTH = {"baseline": 0.0, "no_drift": 30.0, "direct": -20.0, "v_pred": 0.0}
SCOPES = ("kpn", "backbone", "heads")


def discs(count: int, colour: float) -> np.ndarray:
    """Return images (count, 3, 64, 64) uint8: the disc of image i has a place of its own."""
    y, x = np.mgrid[:64, :64]
    colour = min(1.0, max(0.0, colour))
    made = np.full((count, 3, 64, 64), 230, np.uint8)
    for i in range(count):
        inside = (y - 16 - i % 5 * 8) ** 2 + (x - 16 - i % 7 * 5) ** 2 < 150
        made[i, :, inside] = [int(255 * colour), 90, int(255 * (1 - colour))]
    return made


def make(
    folder: Path,
    truth: Mapping[str, float] = TRUTH,
    seeds: Sequence[int] = range(9),
    *,
    images: bool = True,
    **columns: object,
) -> Path:
    """Write a study and return its folder; `columns` replace those of every run."""
    made = synthetic.rows(truth, seeds, schemes=["int8", "fp8"], **columns)
    draw = np.random.default_rng(1)
    made |= {"curves": [], "denoising": [], "latency": []}
    parts = [row | {"scope": scope} for row in made["quantized"] for scope in SCOPES[1:] if row["scope"] == "kpn"]
    made["quantized"] += [row | {"psnr_db": row["psnr_db"] + draw.normal(5, 2), "file_bytes": None} for row in parts]
    for row in made["runs"]:
        run_id, effect = row["run_id"], truth[row["variant"]]
        row |= {"n_train": 9000, "n_held_out": 1000, "duplicates": 0}
        for step in range(10, 1501, 10):
            loss = 2 * step**-0.4 * (1 + effect / 100) + draw.normal(0, 0.01)
            made["curves"].append({"run_id": run_id, "step": step, "images_seen": 16 * step, "loss": loss})
        for i in range(1, 10):
            db = 14 + 14 * i / 10 - effect / 30 * (10 - i) / 10 + draw.normal(0, 0.1)
            made["denoising"].append({"run_id": run_id, "t": i / 10, "n": 64, "psnr_db": db, "pd": 1 / db})
        for batch in (1, 8):
            call = {
                "run_id": run_id,
                "batch": batch,
                "scope": "step",
                "scheme": "bf16",
                "engine": "torch",
                "session": "run",
            }
            times = draw.gamma(30, 0.4, 20) * batch**0.8
            made["latency"] += [call | {"sample": k, "latency_ms": ms} for k, ms in enumerate(times)]
        artifacts = folder / "artifacts" / run_id
        artifacts.mkdir(parents=True)
        if images and row["seed"] == 0:
            colour = 0.5 + effect / 100
            save_grid(artifacts / "samples.png", discs(64, colour))
            for step in (187, 375, 750):
                save_grid(artifacts / f"samples_{step}.png", discs(16, colour * step / 1500))
            save_strip(artifacts / "strip.png", [discs(8, c) for c in (0.1, 0.3, 0.5, 0.7, 0.9)])
            save_strip(artifacts / "nearest.png", [discs(16, colour), discs(16, 0.9)])
    return synthetic.save(folder, made)
