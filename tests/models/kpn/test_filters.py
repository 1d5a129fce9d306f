"""The filters against independent float64 formulas; their gradients against finite differences.

CPU kernels compute float32; float64 is computed by torch operations.
"""

import contextlib
import io
import math
import os
import subprocess
import sys
from pathlib import Path

import numba
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from numba import prange
from numba.core.caching import CacheImpl
from torch import Tensor
from torchvision.ops import deform_conv2d

from ablate.models.kpn import cpu_kernels, filters
from benchmarks import published


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


# A dtype and how far results may be from those of float64.
DTYPES = pytest.mark.parametrize(("dtype", "tolerance"), [(torch.double, 1e-12), (torch.float, 2e-5)])


@DTYPES
def test_filter_equals_deformable_convolution_without_offsets(dtype: torch.dtype, tolerance: float) -> None:
    image, weights = torch.randn(2, 3, 8, 10, dtype=torch.double), torch.randn(2, 25, 8, 10, dtype=torch.double)
    assert filters.use_kernels(image.to(dtype)) == (dtype == torch.float)
    zeros, ones = torch.zeros(2, 50, 8, 10, dtype=torch.double), torch.ones(1, 1, 5, 5, dtype=torch.double)
    expected = torch.cat(
        [deform_conv2d(image[:, c : c + 1], zeros, ones, padding=2, mask=weights) for c in range(3)], dim=1
    )
    out = filters.filter_pixels(image.to(dtype), weights.to(dtype))
    torch.testing.assert_close(out.double(), expected, rtol=0, atol=tolerance)


def test_a_kernel_with_a_single_tap_shifts_the_image() -> None:
    image, weights = torch.randn(1, 3, 6, 6), torch.zeros(1, 25, 6, 6)
    weights[:, 5 * (1 + 2) + (-2 + 2)] = 1  # dy = 1, dx = -2
    shifted = torch.zeros_like(image)
    shifted[:, :, :5, 2:] = image[:, :, 1:, :4]
    torch.testing.assert_close(filters.filter_pixels(image, weights), shifted)


def sampled_gaussian(image: Tensor, params: Tensor) -> Tensor:
    """The equation of the upsampling, pixel by pixel."""
    b, c, h, w = image.shape
    out = torch.zeros(b, c, 2 * h, 2 * w, dtype=image.dtype)
    for n in range(b):
        for y in range(2 * h):
            for x in range(2 * w):
                a, bb, cc = params[n, :, y, x].tolist()
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


@DTYPES
def test_upsampling_equals_its_equation(dtype: torch.dtype, tolerance: float) -> None:
    image, params = torch.randn(2, 3, 4, 6, dtype=torch.double), 2 * torch.randn(2, 3, 8, 12, dtype=torch.double)
    out = filters.upsample_gaussian(image.to(dtype), params.to(dtype))
    torch.testing.assert_close(out.double(), sampled_gaussian(image, params), rtol=0, atol=tolerance)


def test_gaussian_weights_are_positive_and_sum_to_one_even_for_extreme_parameters() -> None:
    weights = filters.gaussian_weights(50 * torch.randn(2, 3, 8, 8))
    assert torch.isfinite(weights).all()
    assert (weights >= 0).all()
    torch.testing.assert_close(weights.sum(2), torch.ones(2, 4, 4, 4))


def test_upsampling_keeps_a_constant_image() -> None:
    image = torch.full((1, 3, 4, 4), 0.7)
    torch.testing.assert_close(filters.upsample_gaussian(image, torch.randn(1, 3, 8, 8)), torch.full((1, 3, 8, 8), 0.7))


@pytest.mark.slow
def test_gradients_pass_gradcheck() -> None:
    image = torch.randn(1, 2, 3, 4, dtype=torch.double, requires_grad=True)
    weights = torch.randn(1, 25, 3, 4, dtype=torch.double, requires_grad=True)
    params = torch.randn(1, 3, 6, 8, dtype=torch.double, requires_grad=True)
    assert torch.autograd.gradcheck(filters.filter_pixels, (image, weights))
    assert torch.autograd.gradcheck(filters.upsample_gaussian, (image, params))


def test_apply_tanh_equals_tanh_before_the_filter_with_its_gradient() -> None:
    image = torch.randn(1, 2, 3, 4, dtype=torch.double, requires_grad=True)
    params = torch.randn(1, 25, 3, 4, dtype=torch.double, requires_grad=True)
    squashed = filters.filter_pixels(image, params, apply_tanh=True)
    torch.testing.assert_close(squashed, filters.filter_pixels(image, params.tanh()), rtol=0, atol=1e-13)
    assert torch.autograd.gradcheck(lambda i, n: filters.filter_pixels(i, n, apply_tanh=True), (image, params))


@pytest.mark.parametrize("height", [6, 16, 20])
def test_float32_cpu_kernels_equal_the_published_formulation_in_float64(height: int) -> None:
    """Parameters as channels of a head's output, far beyond where tanh and sigmoid saturate."""
    params = (6 * torch.randn(3, 29, height, 20)).requires_grad_()
    image, small = torch.randn(3, 3, height, 20), torch.randn(3, 3, height // 2, 10)

    def outcome(double: bool) -> list[Tensor]:
        cast = (lambda x: x.detach().double()) if double else (lambda x: x.detach().clone())
        leaves = [cast(x).requires_grad_() for x in (image, small, params)]
        if double:
            outs = [
                published.filter_pixels(leaves[0], leaves[2][:, :25].tanh()),
                published.filter_pixels(leaves[0], leaves[2][:, :25]),
                published.upsample_gaussian(leaves[1], leaves[2][:, 25:28]),
            ]
        else:
            outs = [
                filters.filter_pixels(leaves[0], leaves[2][:, :25], apply_tanh=True),
                filters.filter_pixels(leaves[0], leaves[2][:, :25]),
                filters.upsample_gaussian(leaves[1], leaves[2][:, 25:28]),
            ]
        generator = torch.Generator().manual_seed(1)
        weights = [torch.randn(out.shape, generator=generator) for out in outs]
        total = sum((out * weight.to(out.dtype)).sum() for out, weight in zip(outs, weights, strict=True))
        return [*outs, *torch.autograd.grad(total, leaves)]

    for results, expected in zip(outcome(False), outcome(True), strict=True):
        torch.testing.assert_close(results.double(), expected, rtol=1e-4, atol=1e-4)


def test_gaussians_of_any_width_have_a_gradient() -> None:
    image = torch.randn(1, 3, 4, 4)
    for logit in (-60.0, 60.0):  # kx ky underflows to 0 in float32; kx = ky = 4
        params = torch.full((1, 3, 8, 8), logit, requires_grad=True)
        filters.upsample_gaussian(image, params).square().sum().backward()
        assert params.grad is not None
        assert params.grad.isfinite().all()


def test_cpu_kernels_do_not_depend_on_threads_and_propagate_nan() -> None:
    image, params = torch.randn(2, 3, 8, 8), torch.randn(2, 25, 8, 8)
    before = torch.get_num_threads()
    results = []
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            results.append(filters.filter_pixels(image, params, apply_tanh=True))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(*results)
    params[0, 3, 2, 2] = math.nan
    assert filters.filter_pixels(image, params, apply_tanh=True)[0, :, 2, 2].isnan().all()
    assert filters.upsample_gaussian(image[..., :4, :4], torch.full((2, 3, 8, 8), math.nan)).isnan().all()


def test_kernels_compile_without_a_writable_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def double(values: np.ndarray) -> None:
        for i in prange(len(values)):
            values[i] *= 2

    monkeypatch.setattr(CacheImpl, "_locator_classes", [])
    values = np.arange(3.0)
    cpu_kernels.jit(double)(values)
    assert values.tolist() == [0, 2, 4]


@pytest.mark.slow
def test_cpu_kernels_keep_the_number_of_torch_threads() -> None:
    code = (
        "import torch; torch.set_num_threads(1); from ablate.models.kpn import filters;"
        "filters.filter_pixels(torch.zeros(1, 3, 8, 8), torch.zeros(1, 25, 8, 8)); print(torch.get_num_threads())"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "1"


@pytest.mark.slow
def test_kernels_from_the_cache_have_the_bits_of_those_just_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "import torch; from ablate.models.kpn import filters; torch.manual_seed(0)\n"
        "out = filters.upsample_gaussian(*(torch.randn(2, 3, n, n) for n in (32, 64)))\n"
        "print(out.double().sum().item().hex(), out.double().square().sum().item().hex())"
    )
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    monkeypatch.setattr(cpu_kernels, "upsample_forward", cpu_kernels.jit(cpu_kernels.upsample_forward.py_func))
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        exec(code, {})
    compiled = sorted(path.name for path in tmp_path.rglob("*.nbc"))
    assert compiled
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert sorted(path.name for path in tmp_path.rglob("*.nbc")) == compiled
    printed = out.getvalue().split()
    assert len(printed) == 2
    assert done.stdout.split() == printed


@pytest.mark.parametrize("phases", [1, 4])
@pytest.mark.slow
def test_the_form_without_kernels_equals_unfold(phases: int) -> None:
    padded = torch.randn(2, 3, 8, 9, dtype=torch.double, requires_grad=True)
    weights = torch.randn(2, phases, 25, 4, 5, dtype=torch.double, requires_grad=True)
    out = filters._sum_windows(padded, weights)
    for f in range(phases):
        windows = F.unfold(padded, 5).view(2, 3, 25, 4, 5)
        torch.testing.assert_close(out[:, :, f], (windows * weights[:, None, f]).sum(2), rtol=0, atol=1e-13)
    small = padded[:1, :2, :6, :7], weights[:1, ..., :2, :3]
    assert torch.autograd.gradcheck(filters._sum_windows, [x.detach().clone().requires_grad_() for x in small])


def test_without_a_working_triton_the_filters_of_a_gpu_use_torch_operations() -> None:
    filters._cuda_kernels.cache_clear()
    with pytest.warns(UserWarning, match="Triton does not work here"):
        assert filters._cuda_kernels(torch.device("cpu")) is None  # Triton has no CPU
    filters._cuda_kernels.cache_clear()


@pytest.mark.slow
def test_cuda_kernels_equal_the_cpu_kernels() -> None:
    """In Triton's interpreter, which runs on a CPU."""
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
    params = torch.randn(2, 3, 4, 6, dtype=torch.double)
    weights = filters.KERNEL_WEIGHTS["gaussian"].apply(params)
    assert (weights > 0).all()
    torch.testing.assert_close(weights.sum(1), torch.ones(2, 4, 6, dtype=torch.double))
    kx, ky, rho = 4 * params[:, 0].sigmoid(), 4 * params[:, 1].sigmoid(), params[:, 2].tanh()
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


def test_linear_weights_are_the_parameters_and_a_gain_scales_convex_ones() -> None:
    params = 4 * torch.randn(2, 26, 4, 4)
    assert torch.equal(filters.KERNEL_WEIGHTS["linear"].apply(params[:, :25]), params[:, :25])
    weights = filters.KERNEL_WEIGHTS["softmax_gain"].apply(params)
    torch.testing.assert_close(weights.sum(1), 1 + params[:, 25])
    torch.testing.assert_close(weights / (1 + params[:, 25:]), params[:, :25].softmax(1))


def test_the_floor_bounds_the_gradient_of_l1_weights_near_zero_and_changes_nothing_above_it() -> None:
    large = torch.randn(2, 25, 4, 4)
    floored, plain = filters.KERNEL_WEIGHTS["l1_floored"], filters.KERNEL_WEIGHTS["l1"]
    assert torch.equal(floored.apply(large), plain.apply(large))

    def gradient(operation: filters.Operation) -> float:
        small = (1e-4 * torch.randn(1, 25, 1, 1, generator=torch.Generator().manual_seed(0))).requires_grad_()
        (found,) = torch.autograd.grad(operation.apply(small)[:, 0].sum(), small)
        return float(found.abs().max())

    assert gradient(plain) > 100
    assert gradient(floored) <= 1
