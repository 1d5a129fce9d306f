"""Two processes under torchrun against one, at the same global batch: losses and gradients, rows, and an interruption of one of the two."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import parallel_worker
import pytest

from ablate import machine, results
from ablate.cli import app
from ablate.errors import AblateError
from ablate.finished import load
from ablate.replay import PSNR_TOLERANCE_DB, _compare
from ablate.sample import draw, to_uint8

# Of losses and gradient norms in float32: the sums are taken in another order.
RELATIVE_TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The study of one process in `alone`, that of two in `shared`."""
    found = tmp_path_factory.mktemp("parallel")
    np.savez(found / "set.npz", np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), np.uint8))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ABLATE_CACHE", str(found / "cache"))
        patch.setenv("ABLATE_OFFLINE", "1")
        patch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent.parent), *sys.path]))
        for change in parallel_worker.quick():
            patch.setattr(*change)
        parallel_worker.launch(found, "alone")
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
        subprocess.run([*torchrun, parallel_worker.__file__, str(found)], check=True, timeout=120)
    return found


def test_losses_and_gradients_are_those_of_one_process(folder: Path) -> None:
    alone, shared = (
        results.read(folder / name, "curves").sort_values(["run_id", "step"]) for name in ("alone", "shared")
    )
    assert alone["run_id"].tolist() == shared["run_id"].tolist()
    assert (alone["step"] == 1).sum() == len(parallel_worker.SHARES) + 1  # those with latents have one too
    for column in ("loss", "loss_l2", "loss_perceptual", "grad_norm", "images_seen"):
        first = alone["step"] <= 1
        np.testing.assert_allclose(shared[column][first], alone[column][first], rtol=RELATIVE_TOLERANCE)
        # Further on AdamW makes whole steps of a gradient's last bits.
        np.testing.assert_allclose(shared[column], alone[column], rtol=0.01)


def test_one_row_a_run_that_says_how_many_made_it(folder: Path) -> None:
    runs = results.read(folder / "shared", "runs")
    assert len(runs) == len(parallel_worker.study())
    assert set(runs["world_size"]) == {2}
    assert set(runs["status"]) == {"done"}
    assert set(results.read(folder / "alone", "runs")["world_size"]) == {1}
    assert sorted(p.name for p in (folder / "shared" / "artifacts").iterdir()) == sorted(runs["run_id"])


def test_an_interrupted_process_stops_both_and_both_go_on(folder: Path) -> None:
    first, second = (json.loads((folder / f"told{rank}.json").read_text()) for rank in "01")
    assert first == ["interrupted", *(f"{run_id} done" for run_id in results.read(folder / "shared", "runs")["run_id"])]
    assert second == ["interrupted"]
    (longest,) = (spec for spec in parallel_worker.study() if spec.config.train.steps == parallel_worker.STEPS)
    (run_id,) = (x for x in results.read(folder / "shared", "runs")["run_id"] if "-s9-" in x)
    assert longest.seed == 9
    alone, shared = (load(folder / name, run_id, machine.pick_device("cpu")) for name in ("alone", "shared"))
    samples = to_uint8(draw(shared.model, shared.config, 9, range(2), precision="fp32"))
    _, psnr_db = _compare(alone, shared.model, samples)
    assert psnr_db is None or psnr_db > PSNR_TOLERANCE_DB  # the rule of `ablate replay`


def test_a_batch_smaller_than_the_processes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    from ablate import parallel

    monkeypatch.setattr(parallel, "size", lambda: 8)
    with pytest.raises(AblateError, match="batch of 2 for 8 processes"):
        parallel.team(parallel_worker.study()[0].config.train)


def test_torchrun_and_ray_do_not_go_together(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(AblateError, match="choose one of them"):
        app(["run", "--preset", "smoke", "--launcher", "ray"], standalone_mode=False)
