"""The estimate is close to what torch keeps; absurd sizes are refused before allocation."""

from __future__ import annotations

import tracemalloc

import pytest
import torch

from ablate.base.errors import VariantError
from ablate.base.host import host_bytes
from ablate.models.autoencoder import Autoencoder
from ablate.models.cost import cost
from ablate.models.kpn.denoiser import Denoiser
from ablate.models.memory import check, estimate
from ablate.study import variants
from ablate.study.config import Config


def kept_bytes(config: Config) -> int:
    """Bytes that the backward pass keeps of one image: the tensors that autograd saves."""
    model = Denoiser(config.model)
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    saved: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    channels, size, _ = model.space
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = model(torch.zeros(1, channels, size, size), torch.zeros(1))
    assert out.requires_grad
    return sum(t.untyped_storage().nbytes() for pointer, t in saved.items() if pointer not in weights)


@pytest.mark.parametrize("preset", ["smoke", "quick", "standard"])
@pytest.mark.parametrize("name", ["baseline", "direct", "no_drift", "no_drift_matched", "gaussian_kernel", "latent"])
def test_the_estimate_is_within_a_factor_of_two(name: str, preset: str) -> None:
    config = variants.resolve(variants.load(name), preset)
    estimated = estimate(config)
    params = sum(p.numel() for p in Denoiser(config.model).parameters())
    assert 0.5 < estimated.params / params < 1.5
    assert 0.5 < estimated.activations / kept_bytes(config) < 2


def test_the_autoencoder_and_wide_heads_are_counted() -> None:
    config = variants.resolve(variants.load("latent"), "quick")
    assert (
        0.5
        < estimate(config).autoencoder_params / sum(p.numel() for p in Autoencoder(config.autoencoder).parameters())
        < 1.5
    )
    wide = absurd("model", head_channels=(0, 0, 2000))
    assert 0.5 < estimate(wide).params / sum(p.numel() for p in Denoiser(wide.model).parameters()) < 1.5


def absurd(section: str, **values: object) -> Config:
    config = variants.resolve(variants.load("baseline"), "smoke")
    return config.replaced(**{section: values})


ABSURD = [
    ("model", {"width": 10**8}, "parameters and their optimiser"),
    ("model", {"depth": 10**11}, "lower model.width, model.depth"),
    ("model", {"upscaler_channels": (10**7, 8, 8)}, "needs at least"),
    ("model", {"head_channels": (0, 0, 10**9)}, "needs at least"),
    ("model", {"drift_channels": 10**7}, "needs at least"),
    ("model", {"drift": False, "drift_macs_to_backbone": True, "drift_channels": 10**6}, "needs at least"),
    ("train", {"batch": 10**9}, "for a batch of 1000000000"),
    ("measure", {"fd_samples": 10**10}, "for sampling and measuring"),
    ("measure", {"latency_batches": (1, 10**11)}, r"the numbers of images in \[measure\]"),
]


@pytest.mark.parametrize(("section", "values", "message"), ABSURD, ids=[str(v) for _, v, _ in ABSURD])
def test_absurd_sizes_are_refused_with_the_memory_they_need(
    section: str, values: dict[str, object], message: str
) -> None:
    tracemalloc.start()
    with pytest.raises(VariantError, match=message) as caught:
        check("mine", absurd(section, **values), 16 * 10**9)
    assert tracemalloc.get_traced_memory()[1] < 2 * 10**6  # the modules without their weights take 1.1 MB
    tracemalloc.stop()
    assert "this device has 16.0 GB" in str(caught.value)


def test_an_absurd_autoencoder_is_refused() -> None:
    config = variants.resolve(variants.load("latent"), "smoke")
    wide = config.replaced(autoencoder={"channels": (800_000,) * 3})
    for refuse in (lambda: check("mine", wide, 16 * 10**9), lambda: cost(wide)):
        with pytest.raises(VariantError, match="parameters"):
            refuse()


def test_the_cost_of_absurd_sizes_is_refused_before_the_network_is_built() -> None:
    with pytest.raises(VariantError, match="parameters need at least"):
        cost(absurd("model", width=10**8))


@pytest.mark.parametrize("preset", variants.presets())
def test_every_preset_fits_the_memory_it_is_meant_for(preset: str) -> None:
    room = {"smoke": 10**9, "quick": 4 * 10**9, "standard": 8 * 10**9, "published": 24 * 10**9, "paper": 24 * 10**9}
    for name in variants.names():
        check(name, variants.resolve(variants.load(name), preset), room[preset])


def test_unknown_memory_allows_everything_and_this_machines_is_known() -> None:
    check("mine", absurd("model", width=10**8), None)
    assert (host_bytes() or 10**9) >= 10**8
