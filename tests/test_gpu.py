"""GPU results: captured graphs equal eager calls, and CUDA kernels the published formulation."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lpips_trunks import loss_of
from torch import Tensor

from ablate.base import cuda_graphs, machine
from ablate.diffusion.sampling import denoise, sample_images, sample_images_with
from ablate.models.autoencoder import PIXEL_CODEC
from ablate.models.kpn import filters
from ablate.study import variants
from ablate.training import autoencoder, loop
from benchmarks import published

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device"),
]
CUDA = torch.device("cuda")


@pytest.mark.parametrize("channels", [3, 4])
def test_filters_equal_the_published_formulation_in_float64(channels: int) -> None:
    torch.manual_seed(0)
    params = 3 * torch.randn(3, 29, 16, 20, device=CUDA)
    image, small = (torch.randn(3, channels, *size, device=CUDA) for size in ((16, 20), (8, 10)))
    weights = [torch.randn(3, channels, 16, 20, device=CUDA) for _ in range(2)]

    def outcome(cast: Callable[[Tensor], Tensor]) -> list[Tensor]:
        leaves = [cast(x).clone().requires_grad_() for x in (image, small, params)]
        kernel, gaussian = leaves[2][:, :25], leaves[2][:, 25:28]
        if leaves[0].dtype == torch.double:
            outs = [published.filter_pixels(leaves[0], kernel.tanh()), published.upsample_gaussian(leaves[1], gaussian)]
        else:
            assert filters.use_kernels(leaves[0])
            outs = [
                filters.filter_pixels(leaves[0], kernel, apply_tanh=True),
                filters.upsample_gaussian(leaves[1], gaussian),
            ]
        total = sum((out * cast(weight)).sum() for out, weight in zip(outs, weights, strict=True))
        return [*outs, *torch.autograd.grad(total, leaves)]

    for results, expected in zip(outcome(lambda x: x), outcome(lambda x: x.double()), strict=True):
        torch.testing.assert_close(results.double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", variants.names())
def test_captured_training_and_sampling_equal_the_eager_ones(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ABLATE_CACHE", str(tmp_path))
    monkeypatch.setattr(cuda_graphs, "CAPTURE_FROM_CALLS", 1)
    config = variants.resolve(variants.load(name), "smoke")
    config = config.replaced(train={"steps": 6, "batch": 4})
    torch.manual_seed(0)
    images = torch.randint(0, 256, (10, 3, 64, 64), dtype=torch.uint8, device=CUDA)
    precision = machine.pick_precision(CUDA)
    with machine.deterministic() as names:
        codec = PIXEL_CODEC
        if config.model.space == "latent":
            where = tmp_path / "a.safetensors"
            codec = autoencoder.prepare(config, images, "0" * 64, 0, precision=precision, checkpoint=where).codec
        perceptual = loss_of(config.train, CUDA)
        states, captured_steps = [], loop.CapturedSteps
        for capture in (True, False, True):
            if not capture:
                monkeypatch.setattr(loop, "CapturedSteps", _eager)
            checkpoint = tmp_path / f"{len(states)}.safetensors"
            options = {"perceptual": perceptual, "precision": precision, "codec": codec, "checkpoint": checkpoint}
            states.append(loop.train(config, images, 0, **options))  # type: ignore[arg-type]
            if not capture:
                monkeypatch.setattr(loop, "CapturedSteps", captured_steps)
        model, count = states[0].ema, list(range(5))
        options = {"precision": precision, "codec": codec, "batch": 2}
        captured = sample_images(model, config, 0, count, **options)  # type: ignore[arg-type]
        eager = sample_images_with(
            lambda z, t: denoise(model, config, z, t, precision),  # type: ignore[arg-type]
            config, 0, count, decode=codec.decode, device=CUDA, batch=2,
        )  # fmt: skip
    assert names <= {"scaled_dot_product_attention"}
    assert torch.equal(captured, eager)
    for other in states[1:]:
        assert [row["loss"] for row in other.curve] == [row["loss"] for row in states[0].curve]
        assert all(torch.equal(a, b) for a, b in zip(states[0].averages, other.averages, strict=True))


def test_without_triton_a_training_is_captured_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = variants.resolve(variants.load("no_perceptual"), "smoke")
    images = torch.randint(0, 256, (10, 3, 64, 64), dtype=torch.uint8, device=CUDA)
    losses = []
    for name in ("with", "without"):
        state = loop.train(config, images, 0, perceptual=None, precision="fp32", checkpoint=tmp_path / name)
        losses.append(state.curve[-1]["loss"])
        monkeypatch.setattr(filters, "_cuda_kernels", lambda device: None)
    assert losses[0] == pytest.approx(losses[1], rel=1e-3)


def _eager(
    draw_inputs: Callable[[int], list[Tensor]], terms: Callable[..., list[Tensor]], parameters: list[Tensor], steps: int
) -> Callable[[int], list[Tensor]]:
    def gradients(step: int) -> list[Tensor]:
        results = terms(*(x.to(CUDA) for x in draw_inputs(step)))
        results[0].backward()
        return results

    return gradients
