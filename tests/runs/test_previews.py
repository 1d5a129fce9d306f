"""Grids drawn while a run trains: at which steps, of which images, at what cost."""

from __future__ import annotations

from pathlib import Path

import command
import numpy as np
import pytest
from PIL import Image
from typer.testing import CliRunner

from ablate import cli
from ablate.diffusion.solvers import evaluations
from ablate.models.cost import cost
from ablate.runs import previews
from ablate.store import tables
from ablate.store.image_grids import ZOOM
from ablate.study import variants

VARIANT = 'about = "Small."\nsource = "test"\naxis = "test"\n' + command.CHEAP.replace("samples = 8", "samples = 16")


def test_moments_are_halves_and_few_where_they_would_cost_much() -> None:
    assert previews.preview_steps(4500, train_macs=10**9, grid_macs=10**4) == [70, 140, 281, 562, 1125, 2250]
    assert previews.preview_steps(1500, train_macs=300, grid_macs=1) == [93, 187, 375, 750]
    assert previews.preview_steps(12, train_macs=1, grid_macs=10**9) == [3, 6]
    assert previews.preview_steps(1, train_macs=1, grid_macs=1) == []


@pytest.mark.parametrize("preset", ["quick", "standard", "published", "paper"])
def test_grids_cost_at_most_one_and_a_half_percent_of_training(preset: str) -> None:
    config = variants.resolve(variants.load("baseline"), preset)
    spent = cost(config)
    grid = previews.IMAGES * evaluations(config.sample.solver, config.sample.num_steps) * spent.total_macs
    train = spent.train_macs(config.train.steps)
    drawn = previews.preview_steps(config.train.steps, train, grid)
    assert len(drawn) >= previews.LEAST
    assert len(drawn) * grid <= previews.MACS_SHARE * train


@pytest.mark.slow
def test_a_run_keeps_its_grids_and_a_replay_without_them_has_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("ABLATE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("ABLATE_OFFLINE", "1")
    np.savez(tmp_path / "set.npz", np.random.default_rng(0).integers(0, 256, (40, 64, 64, 3), np.uint8))
    (tmp_path / "variants").mkdir()
    (tmp_path / "variants" / "small.toml").write_text(VARIANT)
    words = [
        "run",
        "--preset",
        "smoke",
        "--data",
        "set.npz",
        "--variant",
        "small",
        "--no-baseline",
        "--log",
        "tensorboard",
    ]
    done = CliRunner().invoke(cli.app, words)
    assert done.exit_code == 0, done.output
    folder = tmp_path / "results" / "artifacts" / tables.read(tmp_path / "results", "runs")["run_id"][0]
    assert sorted(path.name for path in folder.glob("samples*.png")) == [
        "samples.png",
        "samples_3.png",
        "samples_6.png",
    ]
    early, late, final = (np.asarray(Image.open(folder / f"samples{end}.png")) for end in ("_3", "_6", ""))
    assert early.shape == late.shape == (2 * 64 * ZOOM, 8 * 64 * ZOOM, 3)
    # The same noise: a image is nearer to the one in its place later on than to the next one there.
    own, other = (
        np.abs(late[:128, :128] - 1.0 * final[:128, :128]),
        np.abs(late[:128, :128] - 1.0 * final[:128, 128:256]),
    )
    assert own.mean() < other.mean()
    assert not np.array_equal(early, late)
    assert list((tmp_path / "results" / "tensorboard" / folder.name).glob("events.out.*"))
    replayed = CliRunner().invoke(cli.app, ["replay", "small", "--data", "set.npz"])
    assert replayed.exit_code == 0, replayed.output
    assert "bit" in replayed.output
