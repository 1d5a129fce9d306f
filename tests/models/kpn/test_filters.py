"""The two filters against independent float64 formulations, and their own backward against finite differences."""

import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numba import prange
from numba.core.caching import CacheImpl
from torch import Tensor
from torchvision.ops import deform_conv2d

from ablate.models.kpn import cpu_kernels, filters, fused_cpu_kernels
from benchmarks import published


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def test_filter_equals_deformable_convolution_without_offsets() -> None:
    image, weights = torch.randn(2, 3, 8, 10, dtype=torch.double), torch.randn(2, 25, 8, 10, dtype=torch.double)
    zeros, ones = torch.zeros(2, 50, 8, 10, dtype=torch.double), torch.ones(1, 1, 5, 5, dtype=torch.double)
    expected = torch.cat(
        [deform_conv2d(image[:, c : c + 1], zeros, ones, padding=2, mask=weights) for c in range(3)], dim=1
    )
    torch.testing.assert_close(filters.filter_pixels(image, weights), expected, rtol=0, atol=1e-13)


def test_filter_with_a_single_tap_shifts_the_picture() -> None:
    image, weights = torch.randn(1, 3, 6, 6), torch.zeros(1, 25, 6, 6)
    weights[:, 5 * (1 + 2) + (-2 + 2)] = 1  # dy = 1, dx = -2
    shifted = torch.zeros_like(image)
    shifted[:, :, :5, 2:] = image[:, :, 1:, :4]
    torch.testing.assert_close(filters.filter_pixels(image, weights), shifted)


def sampled_gaussian(image: Tensor, parameters: Tensor) -> Tensor:
    """The upsampling, pixel by pixel, as its equation stands."""
    b, c, h, w = image.shape
    out = torch.zeros(b, c, 2 * h, 2 * w, dtype=image.dtype)
    for n in range(b):
        for y in range(2 * h):
            for x in range(2 * w):
                a, bb, cc = parameters[n, :, y, x].tolist()
                kx, ky, rho = 4 / (1 + math.exp(-a)), 4 / (1 + math.exp(-bb)), math.tanh(cc)
                weights, values = [], []
                for i in range(y // 2 - 2, y // 2 + 3):
                    for j in range(x // 2 - 2, x // 2 + 3):
                        dy, dx = i - ((y + 0.5) / 2 - 0.5), j - ((x + 0.5) / 2 - 0.5)
                        q = kx**2 * dx**2 + 2 * rho * kx * ky * dx * dy + ky**2 * dy**2
                        weights.append(math.exp(-2 * q))
                        values.append(image[n, :, min(max(i, 0), h - 1), min(max(j, 0), w - 1)])
                out[n, :, y, x] = sum(g * v for g, v in zip(weights, values, strict=True)) / sum(weights)
    return out


def test_upsampling_equals_its_equation() -> None:
    image, parameters = torch.randn(2, 3, 4, 6, dtype=torch.double), 2 * torch.randn(2, 3, 8, 12, dtype=torch.double)
    torch.testing.assert_close(
        filters.upsample_gaussian(image, parameters), sampled_gaussian(image, parameters), rtol=0, atol=1e-12
    )


def test_gaussian_weights_are_positive_and_sum_to_one_even_for_extreme_parameters() -> None:
    weights = filters.gaussian_weights(50 * torch.randn(2, 3, 8, 8))
    assert torch.isfinite(weights).all()
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(2), torch.ones(2, 4, 4, 4))


def test_upsampling_keeps_a_constant_picture() -> None:
    image = torch.full((1, 3, 4, 4), 0.7)
    torch.testing.assert_close(filters.upsample_gaussian(image, torch.randn(1, 3, 8, 8)), torch.full((1, 3, 8, 8), 0.7))


def test_own_backward_passes_gradcheck() -> None:
    image = torch.randn(1, 2, 3, 4, dtype=torch.double, requires_grad=True)
    weights = torch.randn(1, 25, 3, 4, dtype=torch.double, requires_grad=True)
    parameters = torch.randn(1, 3, 6, 8, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(filters.filter_pixels, (image, weights))
    assert torch.autograd.gradcheck(filters.upsample_gaussian, (image, parameters))


def test_squashed_weights_are_their_tanh_with_its_gradient() -> None:
    image = torch.randn(1, 2, 3, 4, dtype=torch.double, requires_grad=True)
    numbers = torch.randn(1, 25, 3, 4, dtype=torch.double, requires_grad=True)
    squashed = filters.filter_pixels(image, numbers, squash=True)
    torch.testing.assert_close(squashed, filters.filter_pixels(image, numbers.tanh()), rtol=0, atol=1e-13)
    assert torch.autograd.gradcheck(lambda i, n: filters.filter_pixels(i, n, squash=True), (image, numbers))


@pytest.mark.parametrize("height", [6, 16, 20])
def test_float32_loops_equal_the_published_formulation_in_float64(height: int) -> None:
    """Numbers as a head gives them, some of more channels, far beyond where tanh and the sigmoid saturate."""
    numbers = (6 * torch.randn(3, 29, height, 20)).requires_grad_()
    image, small = torch.randn(3, 3, height, 20), torch.randn(3, 3, height // 2, 10)

    def outcome(double: bool) -> list[Tensor]:
        cast = (lambda x: x.detach().double()) if double else (lambda x: x.detach().clone())
        leaves = [cast(x).requires_grad_() for x in (image, small, numbers)]
        if double:
            outs = [
                published.filter_pixels(leaves[0], leaves[2][:, :25].tanh()),
                published.upsample_gaussian(leaves[1], leaves[2][:, 25:28]),
            ]
        else:
            outs = [
                filters.filter_pixels(leaves[0], leaves[2][:, :25], squash=True),
                filters.upsample_gaussian(leaves[1], leaves[2][:, 25:28]),
            ]
        generator = torch.Generator().manual_seed(1)
        weights = [torch.randn(out.shape, generator=generator) for out in outs]
        total = sum((out * weight.to(out.dtype)).sum() for out, weight in zip(outs, weights, strict=True))
        return [*outs, *torch.autograd.grad(total, leaves)]

    for found, expected in zip(outcome(False), outcome(True), strict=True):
        torch.testing.assert_close(found.double(), expected, rtol=1e-4, atol=1e-4)


def test_loops_do_not_depend_on_threads_and_let_nan_through() -> None:
    image, numbers = torch.randn(2, 3, 8, 8), torch.randn(2, 25, 8, 8)
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            found.append(filters.filter_pixels(image, numbers, squash=True))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*found)
    numbers[0, 3, 2, 2] = math.nan
    assert filters.filter_pixels(image, numbers, squash=True)[0, :, 2, 2].isnan().all()
    assert filters.upsample_gaussian(image[..., :4, :4], torch.full((2, 3, 8, 8), math.nan)).isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("counts", "size"), [((25, 3, 1), 16), ((3, 0, 1), 9), ((1, 3, 0), 5)])
def test_splitting_numbers_has_the_gradient_of_the_plain_form(
    dtype: torch.dtype, counts: tuple[int, int, int], size: int
) -> None:
    numbers = torch.randn(2, sum(counts), size, size).to(dtype, memory_format=torch.channels_last).requires_grad_()
    parts, plain = (
        split(numbers, torch.float32, counts) for split in (fused_cpu_kernels.split_numbers, fused_cpu_kernels._split)
    )
    assert all(torch.equal(part, other) for part, other in zip(parts, plain, strict=True))
    grads = [torch.randn_like(part) for part in parts]
    (found,) = torch.autograd.grad(parts, numbers, grads)
    (expected,) = torch.autograd.grad(plain, numbers, grads)
    assert found.dtype == dtype
    assert found.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(found, expected)


def test_numbers_are_rounded_to_bfloat16_as_torch_rounds() -> None:
    bits = torch.arange(-(2**31), 2**31, 99_991, dtype=torch.int64).to(torch.int32)
    ties = (torch.arange(-(2**15), 2**15, dtype=torch.int32) << 16) + 2**15
    grads = torch.cat([bits, ties]).view(torch.float32)[None, None, None]  # of every kind, NaN and infinity among them
    numbers = torch.zeros_like(grads, dtype=torch.bfloat16, requires_grad=True)
    (found,) = torch.autograd.grad(
        fused_cpu_kernels.split_numbers(numbers, torch.float32, (1, 0, 0))[0], numbers, grads
    )
    torch.testing.assert_close(found, grads.bfloat16(), rtol=0, atol=0, equal_nan=True)


def test_loops_compile_where_nothing_can_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    def double(values: np.ndarray) -> None:
        for i in prange(len(values)):
            values[i] *= 2

    monkeypatch.setattr(CacheImpl, "_locator_classes", [])
    values = np.arange(3.0)
    cpu_kernels.jit(double)(values)
    assert values.tolist() == [0, 2, 4]


def test_the_loops_leave_torch_its_threads() -> None:
    code = (
        "import torch; torch.set_num_threads(1); from ablate.models.kpn import filters;"
        "filters.filter_pixels(torch.zeros(1, 3, 8, 8), torch.zeros(1, 25, 8, 8)); print(torch.get_num_threads())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"


def test_loops_loaded_from_the_disk_compute_what_those_just_compiled_do(tmp_path: Path) -> None:
    code = (
        "import torch; from ablate.models.kpn import filters; torch.manual_seed(0)\n"
        "leaves = [torch.randn(2, 3, n, n, requires_grad=True) for n in (32, 64)]\n"
        "out = filters.upsample_gaussian(*leaves)\n"
        "for x in (out, *torch.autograd.grad((out * torch.randn_like(out)).sum(), leaves)):\n"
        "    print(x.double().sum().item().hex(), x.double().square().sum().item().hex())"
    )
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    said = []
    for _ in range(2):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
        said.append(done.stdout.split())
        assert list(tmp_path.rglob("*.nbc"))
    assert len(said[0]) == 6
    assert said[0] == said[1]


@pytest.mark.parametrize("phases", [1, 4])
def test_the_form_of_other_devices_equals_the_loops(phases: int) -> None:
    padded = torch.randn(2, 3, 8, 9, dtype=torch.double, requires_grad=True)
    weights = torch.randn(2, phases, 25, 4, 5, dtype=torch.double, requires_grad=True)
    out = filters._gather(padded, weights)
    for f in range(phases):
        windows = F.unfold(padded, 5).view(2, 3, 25, 4, 5)
        torch.testing.assert_close(out[:, :, f], (windows * weights[:, None, f]).sum(2), rtol=0, atol=1e-13)
    assert torch.autograd.gradcheck(filters._gather, (padded, weights))


def test_where_triton_does_not_work_the_filters_of_a_gpu_are_computed_step_by_step() -> None:
    filters._kernels.cache_clear()
    with pytest.warns(UserWarning, match="Triton does not work here"):
        assert filters._kernels(torch.device("cpu")) is None  # no kernel runs there
    filters._kernels.cache_clear()


def test_the_kernels_of_a_gpu_equal_the_loops() -> None:
    """By Triton's interpreter, which runs them on a processor."""
    pytest.importorskip("triton")
    code = Path(__file__).with_name("interpreted.py")
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    done = subprocess.run([sys.executable, str(code)], capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr


def test_normalised_weights_stay_in_the_local_range_and_tanh_weights_can_leave_it() -> None:
    image, logits = torch.rand(2, 3, 8, 8) + 1, 3 * torch.randn(2, 25, 8, 8)
    inner = (slice(None), slice(None), slice(2, -2), slice(2, -2))  # the zero padding is a value too
    high = F.max_pool2d(image, 5, stride=1)
    low = -F.max_pool2d(-image, 5, stride=1)
    convex = filters.filter_pixels(image, filters.KERNEL_WEIGHTS["softmax"].apply(logits))[inner]
    assert ((convex <= high + 1e-6) & (convex >= low - 1e-6)).all()
    free = filters.filter_pixels(image, filters.KERNEL_WEIGHTS["tanh"].apply(logits))[inner]
    assert ((free > high) | (free < low)).any()


def test_gaussian_kernel_equals_its_equation_is_positive_and_sums_to_one() -> None:
    parameters = torch.randn(2, 3, 4, 6, dtype=torch.double)
    weights = filters.KERNEL_WEIGHTS["gaussian"].apply(parameters)
    assert (weights > 0).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(2, 4, 6, dtype=torch.double))
    kx, ky, rho = 4 * parameters[:, 0].sigmoid(), 4 * parameters[:, 1].sigmoid(), parameters[:, 2].tanh()
    exps = torch.stack(
        [
            torch.exp(-2 * (kx**2 * dx**2 + 2 * rho * kx * ky * dx * dy + ky**2 * dy**2))
            for dy in range(-2, 3)
            for dx in range(-2, 3)
        ],
        dim=1,
    )
    torch.testing.assert_close(weights, exps / exps.sum(1, keepdim=True), rtol=0, atol=1e-12)


def test_sigmoid_weights_start_as_a_box_and_l1_weights_have_magnitudes_that_sum_to_one() -> None:
    box = filters.KERNEL_WEIGHTS["sigmoid"].apply(torch.zeros(1, 25, 2, 2))
    torch.testing.assert_close(box, torch.full_like(box, 1 / 25))
    signed = filters.KERNEL_WEIGHTS["l1"].apply(torch.randn(2, 25, 4, 4))
    torch.testing.assert_close(signed.abs().sum(1), torch.ones(2, 4, 4))
    assert (signed < 0).any()
