"""Sampling: the same image in any batch, the same noise for all variants."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from kpn_networks import build

from ablate.base import rng
from ablate.diffusion.sampling import sample_images, to_uint8
from ablate.study import variants
from ablate.training.loop import train

SMOKE = variants.resolve(variants.load("no_perceptual"), "smoke")


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return 10 * math.log10(4 / float((a - b).square().mean().clamp(min=1e-12)))


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.slow
def test_image_i_is_the_same_in_batches_of_1_and_64(precision: str, tmp_path: Path) -> None:
    images = torch.randint(0, 256, (40, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    state = train(SMOKE, images, 0, perceptual=None, precision="fp32", checkpoint=tmp_path / "c.safetensors")
    model = state.ema
    together = sample_images(model, SMOKE, 5, range(64), precision=precision, batch=64)
    for i in (0, 17, 63):
        assert psnr(sample_images(model, SMOKE, 5, [i], precision=precision, batch=1)[0], together[i]) > 40
    assert psnr(together[0], together[1]) < 30


def test_variants_of_a_seed_start_from_the_same_noise() -> None:
    starts = {}
    for name in ("baseline", "no_drift"):
        config = variants.resolve(variants.load(name), "smoke")
        model = build(config.model, 0, torch.device("cpu"))
        seen: list[torch.Tensor] = []
        model.register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0].clone()))
        sample_images(model, config, 3, range(2), precision="fp32")
        starts[name] = seen[0]
        assert len(seen) == config.sample.num_steps
    assert torch.equal(starts["baseline"], starts["no_drift"])
    assert torch.equal(starts["baseline"], rng.normal(3, "sample", range(2), (3, 64, 64)))


def test_pixels_are_clipped_and_rounded() -> None:
    images = torch.tensor([-2.0, -1.0, 0.0, 0.999, 1.0, 3.0]).view(1, 1, 1, 6)
    assert to_uint8(images).ravel().tolist() == [0, 0, 128, 255, 255, 255]
    assert to_uint8(images).dtype == np.uint8
