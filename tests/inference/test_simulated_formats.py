"""Rounding to number formats: against closed forms, and that only the named module groups round."""

import pytest
import torch
from kpn_networks import build
from torch import nn

from ablate.inference.simulated_formats import (
    FORMATS,
    activation_ranges,
    group_of,
    rounded,
    rounded_modules,
    rounded_weight,
    simulated,
    weight_bytes,
)
from ablate.study import variants

CONFIG = variants.resolve(variants.load("baseline"), "smoke")
GROUPS = ("backbone", "upscaler", "heads", "filters", "drift")


@pytest.fixture(scope="module")
def network() -> nn.Module:
    model = build(CONFIG.model, 0, torch.device("cpu")).requires_grad_(False).eval()
    for name, p in model.named_parameters():
        if not p.any():
            p.normal_(0, 0.05, generator=torch.Generator().manual_seed(len(name)))
    return model


INPUTS = [(torch.randn(3, 3, 64, 64, generator=torch.Generator().manual_seed(i)), torch.rand(3)) for i in range(3)]


@pytest.mark.parametrize(("scheme", "steps"), [("int8", 127), ("int4", 7)])
def test_integers_err_by_half_a_step_at_most(scheme: str, steps: int) -> None:
    x = torch.linspace(-2, 2, 1001)
    found = rounded(x, FORMATS[scheme], torch.tensor(2.0))
    step = 2 / steps
    assert (found - x).abs().max() <= step / 2 + 1e-6
    assert len(found.unique()) == 2 * steps + 1
    assert rounded(torch.tensor([9.0]), FORMATS[scheme], torch.tensor(2.0)) == 2  # clipped


def test_fp8_has_three_bits_of_mantissa_and_reaches_448() -> None:
    form = FORMATS["fp8"]
    x = torch.logspace(-4, 0, 1000) * 448  # normal numbers
    assert ((rounded(x, form, torch.tensor(448.0)) - x).abs() / x).max() <= 2**-4
    assert rounded(torch.tensor([1.0, 1.0625, 1.125, 448, 500]), form, torch.tensor(448.0)).tolist() == [
        1,
        1,
        1.125,
        448,
        448,
    ]
    torch.testing.assert_close(rounded(x / 100, form, torch.tensor(4.48)), rounded(x, form, torch.tensor(448.0)) / 100)


@pytest.mark.parametrize("layer", [nn.Conv2d(3, 5, 3), nn.ConvTranspose2d(5, 3, 2), nn.Linear(7, 4)])
def test_a_scale_per_output_channel(layer: nn.Module) -> None:
    weight = layer.get_parameter("weight")
    channel = 1 if isinstance(layer, nn.ConvTranspose2d) else 0
    weight.data.select(channel, 0).mul_(1000)
    error = (rounded_weight(layer, FORMATS["int8"]) - weight).abs()
    for i in range(weight.shape[channel]):
        assert error.select(channel, i).max() <= weight.select(channel, i).abs().max() / 127 / 2 * 1.001


@pytest.mark.parametrize("group", GROUPS)
def test_only_the_named_group_rounds(network: nn.Module, group: str) -> None:
    amax = activation_ranges(network, INPUTS)
    changed = simulated(network, "int8", [group], amax)
    for name, module in rounded_modules(changed).items():
        assert bool(module._forward_pre_hooks) == (group_of(name) == group), name
    found, expected = changed(*INPUTS[0]), network(*INPUTS[0])
    assert 0 < (found - expected).abs().max() < 0.2
    same = simulated(network, "int8", [], amax)
    assert torch.equal(same(*INPUTS[0]), expected)


def test_a_image_does_not_depend_on_its_batch(network: nn.Module) -> None:
    changed = simulated(network, "fp8", GROUPS, activation_ranges(network, INPUTS))
    z, t = INPUTS[0]
    torch.testing.assert_close(changed(z, t)[1:2], changed(z[1:2], t[1:2]), rtol=0, atol=2e-3)


def test_int4_leaves_activations_but_rounds_the_filters_weights(network: nn.Module) -> None:
    changed = simulated(network, "int4", GROUPS, activation_ranges(network, INPUTS))
    hooked = {name for name, module in rounded_modules(changed).items() if module._forward_pre_hooks}
    assert hooked == {f"filters.filter_params.{i}" for i in range(3)}


def test_fewer_bits_err_more(network: nn.Module) -> None:
    amax = activation_ranges(network, INPUTS)
    z, t = INPUTS[1]
    errors = [
        (simulated(network, s, GROUPS, amax)(z, t) - network(z, t)).square().mean() for s in ("bf16", "int8", "int4")
    ]
    assert errors[0] < errors[1] < errors[2]


def test_bytes_of_weights() -> None:
    module = nn.ModuleDict({"heads": nn.Conv2d(2, 4, 1)})
    assert weight_bytes(module, "fp32", ["heads"]) == 4 * (8 + 4)
    assert weight_bytes(module, "int8", ["heads"]) == 8 + 4 * 4 + 4 * 4  # weights, a scale a channel, biases
    assert weight_bytes(module, "int4", ["heads"]) == 4 + 4 * 4 + 4 * 4
    assert weight_bytes(module, "bf16", ["heads"]) == 16 + 4 * 4
    assert weight_bytes(module, "int8", ["drift"]) == 4 * (8 + 4)
