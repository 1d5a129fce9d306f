"""Autoguidance: the weak network is an early average of the same training, and both are kept as one."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import pytest
import torch

from ablate.diffusion.sampling import sample_images
from ablate.diffusion.solvers import network_evaluations
from ablate.inference.simulated_formats import group_of
from ablate.models.cost import cost
from ablate.models.denoiser import construct, groups_of, load_weights, weights_of
from ablate.models.guidance import construct_sampled, guided, unguided
from ablate.study import variants
from ablate.training.checkpoint import TrainingState
from ablate.training.loop import train

PLAIN = variants.resolve(variants.load("no_perceptual"), "smoke").replaced(
    train={"steps": 5, "batch": 2}, sample={"num_steps": 2}
)
GUIDED = PLAIN.replaced(sample={"guidance": 1.5, "guide_after": 0.4})


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    return torch.randint(0, 256, (8, 3, 64, 64), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)


def train_guided(images: torch.Tensor, checkpoint: Path, stop_at: int | None = None) -> TrainingState:
    def interrupt(state: TrainingState) -> None:
        if state.step == stop_at:
            os.kill(os.getpid(), signal.SIGINT)

    return train(GUIDED, images, 0, perceptual=None, precision="fp32", checkpoint=checkpoint, on_step=interrupt)


def test_the_guide_is_the_average_after_the_chosen_step_also_in_a_resumed_training(
    images: torch.Tensor, tmp_path: Path
) -> None:
    averages: dict[int, dict[str, torch.Tensor]] = {}

    def note(state: TrainingState) -> None:
        averages[state.step] = {name: value.clone() for name, value in weights_of(state.ema).items()}

    plain = train(PLAIN, images, 0, perceptual=None, precision="fp32", checkpoint=tmp_path / "plain", on_step=note)
    assert not plain.guide
    with pytest.raises(KeyboardInterrupt):
        train_guided(images, tmp_path / "cut", stop_at=3)
    state = train_guided(images, tmp_path / "cut")
    assert state.guide.keys() == averages[2].keys()
    assert all(torch.equal(value, averages[2][name]) for name, value in state.guide.items())
    assert all(torch.equal(value, averages[5][name]) for name, value in weights_of(state.ema).items())


def test_one_network_of_two_evaluations_draws_and_is_kept_as_one(images: torch.Tensor, tmp_path: Path) -> None:
    state = train_guided(images, tmp_path / "checkpoint")
    network = guided(state.ema, state.guide, GUIDED)
    weak = construct(GUIDED).eval()
    load_weights(weak, state.guide)
    z, t = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1)), torch.tensor([0.2, 0.7])
    with torch.inference_mode():
        expected = weak(z, t) + 1.5 * (state.ema(z, t) - weak(z, t))
        torch.testing.assert_close(network(z, t), expected)
        assert not torch.allclose(network(z, t), state.ema(z, t), atol=1e-4)
    again = construct_sampled(GUIDED).eval()
    load_weights(again, weights_of(network))
    drawn = [sample_images(one, GUIDED, 0, range(2), precision="fp32") for one in (network, again)]
    assert torch.equal(*drawn)
    assert unguided(network) is state.ema
    assert groups_of(network) == groups_of(state.ema)
    names = [f"denoiser.{name}" for name, _ in network.named_parameters()]
    assert {group_of(name) for name in names} == {name.split(".")[2] for name in names}


def test_a_run_is_named_after_its_guidance_and_counts_both_networks() -> None:
    assert "guidance" not in PLAIN.to_json()
    assert PLAIN.replaced(sample={"guide_after": 0.5}).hash == PLAIN.hash
    assert len({PLAIN.hash, GUIDED.hash, GUIDED.replaced(sample={"guide_after": 0.5}).hash}) == 3
    assert network_evaluations(GUIDED.sample) == 2 * network_evaluations(PLAIN.sample) == 4
    assert cost(GUIDED) == cost(PLAIN)
