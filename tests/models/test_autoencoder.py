"""The autoencoder against closed forms, its codec, and the shape of latent denoisers."""

import kpn_networks
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from ablate.models.autoencoder import Autoencoder, latent_codec
from ablate.study import variants

LATENT = variants.resolve(variants.load("latent"), "smoke")


@pytest.fixture
def model() -> Autoencoder:
    torch.manual_seed(0)
    return Autoencoder(LATENT.autoencoder)


def test_the_kl_divergence_is_that_of_two_normals(model: Autoencoder) -> None:
    x, eps = torch.rand(3, 3, 64, 64) * 2 - 1, torch.randn(3, 4, 16, 16)
    mean, logvar = model.posterior(x)
    assert mean.shape == logvar.shape == eps.shape
    x_hat, kl = model(x, eps)
    expected = kl_divergence(Normal(mean.double(), (logvar.double() / 2).exp()), Normal(0.0, 1.0)).mean()
    assert float(kl.detach()) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert kl.item() > 0
    torch.testing.assert_close(x_hat, model.decoder(mean + (logvar / 2).exp() * eps))


def test_an_exploding_encoder_stays_finite(model: Autoencoder) -> None:
    torch.nn.init.constant_(model.encoder[-1].bias, 1e4)
    x_hat, kl = model(torch.zeros(1, 3, 64, 64), torch.randn(1, 4, 16, 16))
    assert torch.isfinite(kl)
    assert torch.isfinite(x_hat).all()


def test_the_codec_normalises_and_only_decoding_has_gradients(model: Autoencoder) -> None:
    shift, scale = torch.tensor([1.0, -1.0, 0.0, 2.0]), torch.tensor([0.5, 1.0, 2.0, 4.0])
    codec = latent_codec(model, shift, scale, "fp32")
    x = (torch.rand(2, 3, 64, 64) * 2 - 1).requires_grad_()
    z = codec.encode(x)
    assert not z.requires_grad
    mean = model.posterior(x)[0]
    torch.testing.assert_close(z * scale.view(4, 1, 1) + shift.view(4, 1, 1), mean)
    torch.testing.assert_close(codec.decode(z), model.decoder(mean))
    z.requires_grad_()
    codec.decode(z).sum().backward()
    assert z.grad is not None
    assert z.grad.abs().sum() > 0


@pytest.mark.parametrize("name", ["latent", "direct+latent", "bilinear_up+latent", "latent+no_drift_matched"])
def test_a_latent_denoiser_has_as_many_tokens_and_one_filter_scale(name: str) -> None:
    config = variants.resolve(variants.load(name), "smoke")
    net = kpn_networks.build(config.model, 0, torch.device("cpu"))
    pixels = kpn_networks.build(config.model.replaced(space="pixel"), 0, torch.device("cpu"))
    assert net.backbone.positions.weight.shape == pixels.backbone.positions.weight.shape == (64, config.model.width)
    assert torch.equal(net.backbone.positions.weight, pixels.backbone.positions.weight)
    assert list(net.heads) == ["0"]
    z = torch.randn(2, 4, 16, 16)
    assert net(z, torch.rand(2)).shape == z.shape
