"""Keyed random numbers: independent of batch and process, uniform, uncorrelated."""

import os
import subprocess
import sys

import pytest
import torch

from ablate.base import rng


def test_noise_of_an_image_does_not_depend_on_its_batch() -> None:
    together = rng.normal(7, "sample", range(64), (3, 8, 8))
    alone = torch.cat([rng.normal(7, "sample", [i], (3, 8, 8)) for i in range(64)])
    assert torch.equal(together, alone)


def test_streams_seeds_and_indices_are_independent() -> None:
    noise = torch.stack(
        [rng.normal(seed, stream, [i], (4096,))[0] for seed in (0, 1) for stream in ("a", "b") for i in (0, 1)]
    )
    correlation = torch.corrcoef(noise) - torch.eye(8)
    assert correlation.abs().max() < 0.08
    assert noise.mean().abs() < 0.02
    assert (noise.std() - 1).abs() < 0.02


def test_uniform_numbers_fill_the_interval() -> None:
    t = rng.uniform(0, "time", range(4000))
    assert t.min() >= 0
    assert t.max() < 1
    assert (torch.histc(t, 10, 0, 1) / 4000 - 0.1).abs().max() < 0.02


@pytest.mark.slow
def test_keys_are_the_same_in_another_process() -> None:
    code = "from ablate.base import rng; print(rng.derive(3, 'noise', 5), rng.derive(0, 'init', 'heads.0'))"
    seed = "2" if os.environ.get("PYTHONHASHSEED") == "1" else "1"  # hashes of text differ from those of this process
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env={"PYTHONHASHSEED": seed})
    assert done.stdout == f"{rng.derive(3, 'noise', 5)} {rng.derive(0, 'init', 'heads.0')}\n", done.stderr


def test_permutations_hold_every_index_once_and_differ_by_epoch() -> None:
    one, two = rng.permutation(0, "order", 0, 100), rng.permutation(0, "order", 1, 100)
    assert sorted(one.tolist()) == list(range(100))
    assert not torch.equal(one, two)
