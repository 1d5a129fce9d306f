"""Parameters and MACs of a variant, and training budgets matched by MACs."""

import pytest

from ablate.base.errors import VariantError
from ablate.models.autoencoder import Autoencoder
from ablate.models.cost import cost, match_training_macs
from ablate.study import variants

BASELINE = variants.resolve(variants.load("baseline"), "quick")
LATENT = variants.resolve(variants.load("latent"), "quick")


def test_a_step_in_pixel_space_costs_three_forward_passes() -> None:
    spent = cost(BASELINE)
    assert (spent.decode_macs, spent.autoencoder_macs) == (0, 0)
    assert spent.train_macs(7) == 7 * 3 * 16 * spent.total_macs
    assert "decoder" not in spent.params


def test_latent_space_is_charged_with_the_autoencoder() -> None:
    spent, model = cost(LATENT), Autoencoder(LATENT.autoencoder)
    assert spent.params["decoder"] == sum(p.numel() for p in model.decoder.parameters())
    a, b, c = LATENT.autoencoder.channels
    convolutions = 9 * 16**2 * (4 * c + 2 * c * c) + 16**2 * 4 * c * b + 9 * 32**2 * 2 * b * b
    convolutions += 32**2 * 4 * b * a + 9 * 64**2 * (2 * a * a + 3 * a)
    assert spent.decode_macs == convolutions
    per_image = spent.autoencoder_macs / (3 * LATENT.autoencoder.steps * LATENT.autoencoder.batch)
    encode = per_image - spent.decode_macs
    assert encode > 0
    assert spent.train_step_macs == 16 * (3 * spent.total_macs + encode) + 2 * 8 * spent.decode_macs
    plain = cost(variants.resolve(variants.load("latent+no_perceptual"), "quick"))
    assert plain.train_step_macs == spent.train_step_macs - 2 * 8 * spent.decode_macs


@pytest.mark.parametrize("name", ["no_drift", "latent", "direct", "v_pred", "baseline"])
def test_matched_training_macs_differ_by_half_a_step_at_most(name: str) -> None:
    config = variants.resolve(variants.load(name), "quick")
    matched, spent = match_training_macs(config, BASELINE), cost(config)
    budget = cost(BASELINE).train_macs(BASELINE.train.steps)
    assert abs(spent.train_macs(matched.train.steps) - budget) <= spent.train_step_macs / 2
    assert (matched == config) == (name in ("v_pred", "baseline"))
    assert matched.replaced(train=config.train) == config


def test_an_autoencoder_that_uses_up_the_budget_is_refused() -> None:
    greedy = LATENT.replaced(autoencoder={"steps": 10**6})
    with pytest.raises(VariantError, match="nothing is left for the denoiser"):
        match_training_macs(greedy, BASELINE)
