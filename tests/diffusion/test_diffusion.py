"""Prediction targets in float64; order of the solvers on Gaussian data with a known solution."""

import math

import pytest
import torch

from ablate.diffusion import objectives, solvers


@pytest.mark.parametrize("space", ["x", "v", "eps"])
def test_a_perfect_output_gives_the_clean_image(space: str) -> None:
    x, eps = torch.randn(2, 32, 3, 4, 4, dtype=torch.double)
    t = torch.linspace(0, 1, 32, dtype=torch.double)
    z = objectives.interpolate(x, eps, t)
    output = {"x": x, "v": x - eps, "eps": eps}[space]
    # At t = 0, z holds nothing of the image: the clipped division gives zero.
    expected = torch.where(objectives.append_dims(t, x) > 0, x, 0 * x) if space == "eps" else x
    torch.testing.assert_close(objectives.PREDICTION[space](output, z, t, 1e-9), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("space", ["x", "v", "eps"])
def test_conversions_invert_each_other_and_stay_finite_at_both_ends(space: str) -> None:
    output, z = torch.randn(2, 33, 3, 4, 4, dtype=torch.double)
    inner = torch.linspace(0.05, 0.95, 33, dtype=torch.double)
    back = objectives.LOSS_SPACE[space](objectives.PREDICTION[space](output, z, inner, 0.05), z, inner, 0.05)
    torch.testing.assert_close(back, output, rtol=0, atol=1e-12)
    ends = torch.linspace(0, 1, 33, dtype=torch.double)
    x_hat = objectives.PREDICTION[space](output, z, ends, 0.05)
    assert all(torch.isfinite(to(x_hat, z, ends, 0.05)).all() for to in objectives.LOSS_SPACE.values())


def test_loss_space_v_is_the_velocity_wherever_it_is_not_clipped() -> None:
    x, eps = torch.randn(2, 16, 3, 4, 4, dtype=torch.double)
    t = torch.linspace(0, 0.95, 16, dtype=torch.double)
    z = objectives.interpolate(x, eps, t)
    torch.testing.assert_close(objectives.LOSS_SPACE["v"](x, z, t, 0.05), x - eps, rtol=0, atol=1e-12)
    clean = torch.ones(16, dtype=torch.double)
    assert torch.isfinite(objectives.LOSS_SPACE["v"](x, objectives.interpolate(x, eps, clean), clean, 0.05)).all()


def gaussian_error(solver: str, steps: int, mean: float = 0.3, std: float = 0.5) -> float:
    """Error at t = 1 for data N(mean, std^2), where the exact flow maps z to mean + std z."""

    def denoise(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        t = t[:, None]
        variance = t**2 * std**2 + (1 - t) ** 2
        return mean + t * std**2 / variance * (z - t * mean)

    z = torch.linspace(-2, 2, 9, dtype=torch.double)[:, None]
    return float((solvers.SOLVERS[solver](denoise, z, steps) - (mean + std * z)).abs().max())


@pytest.mark.parametrize(("solver", "order"), [("euler", 1), ("heun", 2)])
def test_order_of_convergence(solver: str, order: int) -> None:
    coarse, fine = gaussian_error(solver, 200), gaussian_error(solver, 400)
    assert math.log2(coarse / fine) == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize("solver", list(solvers.SOLVERS))
def test_evaluations_counts_the_network_calls(solver: str) -> None:
    calls = []

    def denoise(z: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        calls.append(float(t[0]))
        return torch.zeros_like(z)

    solvers.SOLVERS[solver](denoise, torch.ones(1, 1), 7)
    assert len(calls) == solvers.evaluations(solver, 7)
    assert max(calls) < 1
