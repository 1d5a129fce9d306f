"""Backbone, pyramid, drift and the whole denoiser against plain formulas in float64."""

import kpn_networks
import pytest
import torch
import torch.nn.functional as F

from ablate.models import cost
from ablate.models.kpn import backbone, pyramid, rotary
from ablate.models.kpn.drift import BottleneckDrift, Drift, drift_macs
from ablate.study import variants
from benchmarks import published

BASELINE = variants.resolve(variants.load("baseline"), "smoke")
SMOKE = BASELINE.model
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.mark.parametrize(("dtype", "drift", "error"), [(torch.double, False, 1e-12), (torch.float, True, 1e-6)])
@pytest.mark.slow
def test_denoiser_equals_the_published_formulation(dtype: torch.dtype, drift: bool, error: float) -> None:
    net = kpn_networks.build(SMOKE.replaced(drift=drift), 0, CPU).to(dtype)
    for parameter in net.parameters():  # gates and the drift's last layer start at zero; open them
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.1)
    z, t = torch.randn(2, 3, 64, 64, dtype=dtype), torch.rand(2, dtype=dtype)
    expected = published.denoise(net, z, t)
    torch.testing.assert_close(net(z, t), expected, rtol=0, atol=error)


def test_upsample2x_is_a_transposed_convolution() -> None:
    layer = backbone.Upsample2x(6, 5).double()
    x = torch.randn(2, 6, 3, 4, dtype=torch.double, requires_grad=True)
    expected = F.conv_transpose2d(x, layer.weight, layer.bias, stride=2)
    torch.testing.assert_close(layer(x), expected, rtol=0, atol=1e-13)
    grad = torch.randn_like(expected)
    expected_grads = torch.autograd.grad(expected, [x, *layer.parameters()], grad)
    torch.testing.assert_close(torch.autograd.grad(layer(x), [x, *layer.parameters()], grad), expected_grads)


@pytest.mark.slow
def test_pyramid_gradients() -> None:
    image = torch.randn(1, 1, 8, 8, dtype=torch.double, requires_grad=True)
    filter_params = [torch.randn(1, 29, s, s, dtype=torch.double, requires_grad=True) for s in (2, 4, 8)]
    filters = pyramid.FilterPyramid(3, kernel="tanh", upsampling="gaussian", skip="lerp")
    inputs = (image, *filter_params)
    assert torch.autograd.gradcheck(lambda x, *params: filters(x, params), inputs, fast_mode=True)


def test_rotary_embedding_keeps_norms_and_depends_on_distance_alone() -> None:
    angles = rotary.rotary_angles(8, 32)
    cos, sin = angles.cos(), angles.sin()
    q, k = torch.randn(1, 32).expand(64, 32), torch.randn(1, 32).expand(64, 32)
    rotated_q, rotated_k = rotary.rotate(q, cos, sin), rotary.rotate(k, cos, sin)
    torch.testing.assert_close(rotated_q.norm(dim=1), q.norm(dim=1))
    products = (rotated_q @ rotated_k.T).view(8, 8, 8, 8)
    torch.testing.assert_close(products[1, 2, 3, 5], products[4, 0, 6, 3], rtol=1e-4, atol=1e-4)
    assert (products[0, 0, 0, 1] - products[0, 0, 0, 4]).abs() > 1e-3


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_rotary_kernel_has_the_bits_of_the_plain_form(dtype: torch.dtype) -> None:
    angles, qkv = rotary.rotary_angles(8, 12), torch.randn(3, 64, 3, 5, 12).to(dtype)
    qkv[1, 2, 0, 3, 4] = torch.nan
    cos, sin = angles.cos(), angles.sin()
    assert rotary.fits_kernel(qkv, cos)
    for part, result in enumerate(rotary.split_and_rotate(qkv, cos, sin)):
        expected = qkv[:, :, part].transpose(1, 2)
        expected = rotary.rotate(expected, cos, sin).to(dtype) if part < 2 else expected
        assert result.dtype == dtype
        torch.testing.assert_close(result, expected, rtol=0, atol=0, equal_nan=True)
    assert not rotary.fits_kernel(qkv.requires_grad_(), cos)  # it has no gradient
    assert not rotary.fits_kernel(qkv.detach().double(), cos.double())


def test_the_rotary_kernel_rounds_to_bfloat16_as_torch_does() -> None:
    bits = torch.arange(-(2**31), 2**31, 99_991, dtype=torch.int64).to(torch.int32)
    ties = (torch.arange(-(2**15), 2**15, dtype=torch.int32) << 16) + 2**15
    values = torch.cat([bits, ties]).view(torch.float32)[:, None]  # of every kind, NaN and infinity too
    qkv = torch.tensor([1.0, 0.0]).bfloat16().expand(1, len(values), 3, 1, 2).contiguous()
    query, _, _ = rotary.split_and_rotate(qkv, values, torch.zeros_like(values))  # (1, 0) turns into (values, 0)
    torch.testing.assert_close(query[0, 0, :, 0], values[:, 0].bfloat16(), rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gradients_of_filter_params_reach_the_heads_channels_last(dtype: torch.dtype) -> None:
    params = [torch.randn(2, 29, s, s).to(dtype, memory_format=torch.channels_last) for s in (2, 4, 8)]
    outputs = [p.requires_grad_() * 1 for p in params]
    filters = pyramid.FilterPyramid(3, kernel="tanh", upsampling="gaussian", skip="lerp")
    out = filters(torch.randn(2, 3, 8, 8), outputs)
    grads: list[torch.Tensor] = []
    for output in outputs:
        output.register_hook(grads.append)
    out.sum().backward()
    assert len(grads) == 3
    assert all(g.dtype == dtype and g.is_contiguous(memory_format=torch.channels_last) for g in grads)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_block_is_the_same_with_and_without_gradients(precision: str) -> None:
    net = backbone.Backbone(SMOKE)
    for block in net.blocks:
        torch.nn.init.normal_(block.modulation.weight, std=0.1)
    z, t = torch.randn(2, 3, 64, 64), torch.tensor([0.2, 0.7])
    with torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        expected = net(z, t)
        with torch.inference_mode():
            result = net(z, t)
    assert torch.equal(result, expected)


def test_explicit_attention_equals_scaled_dot_product_attention() -> None:
    q, k, v = torch.randn(3, 2, 4, 64, 16, dtype=torch.double)
    torch.testing.assert_close(backbone.attend(q, k, v), F.scaled_dot_product_attention(q, k, v))


def test_backbone_sees_every_patch_and_the_time() -> None:
    net = backbone.Backbone(SMOKE).double()
    for block in net.blocks:  # the blocks' gates start at zero; open them
        torch.nn.init.normal_(block.modulation.weight, std=0.1)
    z = torch.randn(1, 3, 64, 64, dtype=torch.double)
    out = net(z, torch.tensor([0.5], dtype=torch.double))
    assert out.shape == (1, SMOKE.width, 8, 8)
    moved = z.clone()
    moved[..., -8:, -8:] += 1
    assert (net(moved, torch.tensor([0.5], dtype=torch.double)) - out)[..., 0, 0].abs().max() > 1e-6
    assert (net(z, torch.tensor([0.501], dtype=torch.double)) - out).abs().max() > 1e-6


def test_drift_starts_at_zero_and_reaches_far() -> None:
    net = Drift(8).double()
    z = torch.randn(1, 3, 32, 32, dtype=torch.double, requires_grad=True)
    assert not net(z).any()
    torch.nn.init.normal_(net.out.weight)
    (gradient,) = torch.autograd.grad(net(z)[0, :, 16, 16].sum(), z)
    rows = gradient.abs().sum((0, 1, 3)).nonzero()
    assert rows.max() - rows.min() >= 12


@pytest.mark.parametrize(("channels", "size", "stages"), [(3, 64, 3), (4, 16, 1)])
def test_the_bottleneck_drift_passes_1024_numbers_starts_at_zero_and_has_no_skips(
    channels: int, size: int, stages: int
) -> None:
    net = BottleneckDrift(8, channels=channels, size=size)
    z = torch.randn(2, channels, size, size)
    assert not net(z).any()
    seen = []
    net.down[-1].register_forward_hook(lambda module, given, out: seen.append(out))
    assert net(z).shape == z.shape
    assert seen[0].shape == (2, 16, 8, 8)
    assert len(net.down) == len(net.up) == stages
    torch.nn.init.normal_(net.out.weight)
    torch.nn.init.zeros_(net.down[-1].weight)
    torch.testing.assert_close(net(z), net(torch.zeros_like(z)))  # nothing else reaches the output


def test_denoiser_adds_drift_to_the_filtered_sample_and_counts_its_cost() -> None:
    net = kpn_networks.build(SMOKE, 0, CPU)
    z, t = torch.randn(2, 3, 64, 64), torch.rand(2)
    filtered, drift = net.parts(z, t)
    assert drift is not None
    torch.testing.assert_close(net(z, t), filtered + drift)
    spent = cost.cost(BASELINE)
    assert spent.total_params == sum(p.numel() for p in net.parameters())
    h = SMOKE.drift_channels
    by_hand = 9 * (3 * h * 64**2 + h * h * 32**2 + h * h * 16**2 + h * h * 32**2 + h * h * 64**2 + h * 3 * 64**2)
    assert spent.macs["drift"] == by_hand
    assert spent.macs["filters"] == 2 * 25 * 3 * (64**2 + 32**2 + 16**2)
    assert all(count > 0 for count in spent.macs.values())


def test_a_kernel_with_a_gain_starts_with_the_baselines_weights_in_the_others() -> None:
    full, gain = (kpn_networks.build(SMOKE.replaced(kernel=kernel), 3, CPU) for kernel in ("tanh", "softmax_gain"))
    for scale in full.heads:
        old, new = full.heads[scale][-1], gain.heads[scale][-1]
        assert new.rows == [*range(25), 29, *range(25, 29)]
        shared = [new.rows.index(row) for row in range(29)]
        assert torch.equal(new.weight[shared], old.weight)
        assert torch.equal(new.bias[shared], old.bias)


def test_common_layers_of_two_variants_start_alike_and_seeds_differ() -> None:
    full = kpn_networks.build(SMOKE, 3, CPU).state_dict()
    without = kpn_networks.build(SMOKE.replaced(drift=False), 3, CPU).state_dict()
    assert set(without) == {name for name in full if not name.startswith("drift.")}
    assert all(torch.equal(full[name], tensor) for name, tensor in without.items())
    other = kpn_networks.build(SMOKE, 4, CPU).state_dict()
    assert not torch.equal(full["backbone.embed.weight"], other["backbone.embed.weight"])


@pytest.mark.parametrize("preset", variants.presets())
@pytest.mark.slow
def test_the_matched_control_has_the_macs_of_the_drift_in_its_backbone(preset: str) -> None:
    full, without, matched = (
        cost.cost(variants.resolve(variants.load(name), preset))
        for name in ("baseline", "no_drift", "no_drift_matched")
    )
    added, removed = matched.total_macs - without.total_macs, full.total_macs - without.total_macs
    assert removed == full.macs["drift"] == drift_macs(16, 3, 64)
    assert added == pytest.approx(removed, rel=0.02)


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("gaussian_kernel", [0, 1, 2, 25, 26, 27, 28]),
        ("bilinear_up", [*range(25), 28]),
        ("no_skip", list(range(28))),
        ("direct", [0, 1, 2]),
    ],
)
def test_smaller_heads_start_as_rows_of_the_baselines_heads(name: str, rows: list[int]) -> None:
    full = kpn_networks.build(SMOKE, 3, CPU).state_dict()
    short = kpn_networks.build(variants.resolve(variants.load(name), "smoke").model, 3, CPU).state_dict()
    for key, tensor in short.items():
        expected = full[key] if tensor.shape == full[key].shape else full[key][rows]
        assert torch.equal(tensor, expected), key


@pytest.mark.slow
def test_compiled_blocks_give_the_same_features_and_gradients() -> None:
    plain, compiled = (backbone.Backbone(SMOKE.replaced(depth=2)) for _ in range(2))
    for parameter in plain.parameters():
        torch.nn.init.normal_(parameter, std=0.1)
    compiled.load_state_dict(plain.state_dict())
    compiled.compile_blocks()
    z, t = torch.randn(2, 3, 64, 64), torch.rand(2)
    grad = torch.randn(2, SMOKE.width, 8, 8)
    for net in (plain, compiled):
        net(z, t).backward(grad)
    torch.testing.assert_close(compiled(z, t), plain(z, t), rtol=1e-4, atol=1e-4)
    for (name, result), expected in zip(compiled.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(result.grad, expected.grad, rtol=1e-3, atol=1e-3, msg=name)
