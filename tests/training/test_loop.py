"""The training loop: pairing, resuming, divergence, the loss, and captured steps."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lpips_trunks import loss_of

from ablate.base.errors import DivergedError, ResultsError
from ablate.base.source_code import code_version
from ablate.diffusion.sampling import sample_images
from ablate.models.autoencoder import PIXEL_CODEC
from ablate.study import variants
from ablate.study.config import Config
from ablate.training import autoencoder, captured_steps, checkpoint
from ablate.training import loop as train_module
from ablate.training.loop import Batches, learning_rate, loss_terms, train

SMOKE = variants.resolve(variants.load("no_perceptual"), "smoke")
WEIGHTS = Path(__file__).parents[3] / "shared" / "weights"


@pytest.fixture(scope="module")
def images() -> torch.Tensor:
    """Discs of random colour on a random background."""
    generator = torch.Generator().manual_seed(0)
    y, x = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    disc = ((y - 32) ** 2 + (x - 32) ** 2 < 400).float()
    ground, colour = torch.rand(2, 40, 3, 1, 1, generator=generator)
    return ((disc * colour + (1 - disc) * ground) * 255).to(torch.uint8)


def run(
    config: Config, images: torch.Tensor, folder: Path, seed: int = 0, **options: object
) -> checkpoint.TrainingState:
    return train(
        config, images, seed, perceptual=None, precision="fp32", checkpoint=folder / "c.safetensors", **options
    )  # type: ignore[arg-type]


def weights(state: checkpoint.TrainingState) -> dict[str, torch.Tensor]:
    return dict(state.ema.named_parameters())


@pytest.mark.slow
def test_the_loss_falls_and_the_same_seed_gives_the_same_weights(images: torch.Tensor, tmp_path: Path) -> None:
    longer = run(SMOKE.replaced(train={"steps": 60}), images, tmp_path / "longer")
    assert longer.curve[-1]["loss"] < 0.6 * longer.curve[0]["loss"]
    one, two, other = (run(SMOKE, images, tmp_path / name, seed=seed) for name, seed in (("a", 0), ("b", 0), ("c", 1)))
    assert all(torch.equal(a, b) for a, b in zip(weights(one).values(), weights(two).values(), strict=True))
    assert not torch.equal(weights(one)["backbone.embed.weight"], weights(other)["backbone.embed.weight"])


@pytest.mark.parametrize("name", variants.names())
@pytest.mark.slow
def test_every_variant_trains_samples_and_repeats(
    images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("ABLATE_CACHE", str(tmp_path))
    config = variants.resolve(variants.load(name), "smoke").replaced(
        train={"batch": 4, "perceptual_stages": 1}, sample={"num_steps": 2}
    )
    loss = loss_of(config.train, torch.device("cpu"))
    codec = PIXEL_CODEC
    if config.model.space == "latent":
        checkpoint = tmp_path / "a.safetensors"
        codec = autoencoder.prepare(config, images, "discs", 0, precision="fp32", checkpoint=checkpoint).codec
    samples = []
    for file in ("one", "two"):
        checkpoint = tmp_path / file
        state = train(config, images, 0, perceptual=loss, precision="fp32", checkpoint=checkpoint, codec=codec)
        assert state.curve[-1]["loss"] < state.curve[0]["loss"]
        assert (state.curve[-1]["loss_perceptual"] > 0) == (name != "no_perceptual")
        samples.append(sample_images(state.ema, config, 0, range(2), precision="fp32", codec=codec))
        assert samples[-1].shape == (2, 3, 64, 64)
        assert torch.isfinite(samples[-1]).all()
    assert torch.equal(*samples)


def test_logit_normal_times_come_from_the_same_uniform_numbers(images: torch.Tensor) -> None:
    batches = Batches(images, SMOKE.replaced(train={"batch": 512}).train, 0)
    drawn = []
    for times in ("uniform", "logit_normal"):
        config = SMOKE.replaced(diffusion={"times": times})
        draw, _ = train_module.objective(config, torch.nn.Identity(), batches, 0, perceptual=None, precision="fp32")
        drawn.append(draw(0)[-1])
    u, t = drawn
    torch.testing.assert_close(torch.special.ndtr(t.logit()), u, atol=1e-5, rtol=0)
    assert ((t - 0.5).abs() > 0.4).float().mean() < 0.5 * ((u - 0.5).abs() > 0.4).float().mean()


@pytest.mark.slow
def test_an_interrupted_run_resumes_bit_for_bit(images: torch.Tensor, tmp_path: Path) -> None:
    whole = run(SMOKE, images, tmp_path / "whole")

    def interrupt(state: checkpoint.TrainingState) -> None:
        if state.step == 7:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(SMOKE, images, tmp_path / "cut", on_step=interrupt)
    steps: list[int] = []
    resumed = run(SMOKE, images, tmp_path / "cut", on_step=lambda state: steps.append(state.step))
    assert steps[0] == 7
    assert all(torch.equal(a, b) for a, b in zip(weights(whole).values(), weights(resumed).values(), strict=True))
    drop = ("images_per_s",)
    assert [{k: v for k, v in row.items() if k not in drop} for row in resumed.curve] == [
        {k: v for k, v in row.items() if k not in drop} for row in whole.curve
    ]


def test_a_resumed_training_names_all_code_that_computed_it(
    images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(state: checkpoint.TrainingState) -> None:
        if state.step == 3:
            os.kill(os.getpid(), signal.SIGINT)

    first = code_version()
    with pytest.raises(KeyboardInterrupt):
        run(SMOKE, images, tmp_path, on_step=stop)
    monkeypatch.setattr(train_module, "code_version", lambda: '{"source": "other"}')
    warnings: list[str] = []
    state = run(SMOKE, images, tmp_path, on_step=lambda state: warnings.extend(state.resume_warnings[:1]))
    assert state.code == [first, '{"source": "other"}']
    assert "another version of the code" in warnings[0]


def test_a_damaged_checkpoint_is_named(images: torch.Tensor, tmp_path: Path) -> None:
    (tmp_path / "c.safetensors").write_bytes(b"\x08\x00\x00\x00\x00\x00\x00\x00nonsense")
    with pytest.raises(ResultsError, match=r"c.safetensors: damaged checkpoint .* delete the file"):
        run(SMOKE, images, tmp_path)


def test_a_full_disk_keeps_the_old_checkpoint(
    images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = run(SMOKE, images, tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ResultsError, match="No space left on device"):
        state.save(tmp_path / "c.safetensors")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
    assert set(before) == {"c.safetensors", "previous_c.safetensors"}


def test_divergence_raises_diverged_error(images: torch.Tensor, tmp_path: Path) -> None:
    hot = SMOKE.replaced(train={"lr": 1e30, "warmup": 0})
    with pytest.raises(DivergedError, match="near step"):
        run(hot, images, tmp_path)


def test_batches_depend_on_the_seed_alone(images: torch.Tensor) -> None:
    one, two, other = Batches(images, SMOKE.train, 0), Batches(images, SMOKE.train, 0), Batches(images, SMOKE.train, 1)
    for step in (0, 9, 3):
        assert torch.equal(one(step), two(step))
        assert not torch.equal(one(step), other(step))


def test_every_image_is_seen_once_per_epoch(images: torch.Tensor) -> None:
    flipless = SMOKE.train.replaced(flip=False, batch=8)
    marked = torch.arange(40, dtype=torch.uint8).view(40, 1, 1, 1).expand(40, 3, 64, 64)
    batches = Batches(marked, flipless, 0)
    seen = torch.cat([batches(step)[:, 0, 0, 0] for step in range(5)])
    assert sorted(((seen + 1) * 127.5).round().int().tolist()) == list(range(40))


def test_schedule_warms_up_holds_and_decays_to_almost_nothing() -> None:
    budget = SMOKE.train.replaced(steps=100, warmup=10, decay_from=0.5, lr=1.0)
    rates = [learning_rate(budget, step) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert rates[10:51] == [1.0] * 41
    assert rates[75] == pytest.approx(0.5)
    assert rates[99] == pytest.approx(0.02)


def test_loss_of_a_perfect_prediction_is_zero_in_both_spaces() -> None:
    x, eps, t = torch.rand(4, 3, 8, 8), torch.randn(4, 3, 8, 8), torch.rand(4)
    z = t.view(-1, 1, 1, 1) * x + (1 - t.view(-1, 1, 1, 1)) * eps
    v_pred = variants.resolve(variants.load("v_pred+no_perceptual"), "smoke")
    assert float(loss_terms(SMOKE, None, x, x, z, t)[0]) == 0
    assert float(loss_terms(v_pred, None, x - eps, x, z, t)[0]) < 1e-8
    assert float(loss_terms(v_pred, None, x - eps + 1, x, z, t)[0]) == pytest.approx(1, rel=0.5)


@pytest.mark.slow
def test_captured_steps_draw_one_step_ahead_and_train_the_same(
    images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stand-in replaces the CUDA graph; the training is interrupted and resumed."""

    class FakeGraph:
        """Calls the function instead of replaying it, with the gradients in the same tensors."""

        def __init__(self, function: Any, inputs: Any, device: object) -> None:
            self.function, self.parameters = function, function.__self__._parameters
            function(*inputs)
            self.gradients = [p.grad for p in self.parameters]

        def __call__(self, inputs: Any) -> list[torch.Tensor]:
            terms: list[torch.Tensor] = self.function(*inputs)
            for p, gradient in zip(self.parameters, self.gradients, strict=True):
                gradient.copy_(p.grad)
            return terms

    expected = run(SMOKE, images, tmp_path / "a")
    monkeypatch.setattr(captured_steps, "CapturedGraph", FakeGraph)
    monkeypatch.setattr(torch.Tensor, "pin_memory", lambda self: self)
    steps: list[int] = []

    def make_backward(draw: Callable[[int], list[torch.Tensor]], terms: Any, state: Any, count: int) -> Any:
        def noted(step: int) -> list[torch.Tensor]:
            steps.append(step)
            return draw(step)

        return captured_steps.CapturedSteps(noted, terms, state.parameters, count)

    monkeypatch.setattr(train_module, "make_backward", make_backward)

    def stop(state: checkpoint.TrainingState) -> None:
        if state.step == 5:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        run(SMOKE, images, tmp_path / "b", on_step=stop)
    stopped = list(steps)
    resumed = run(SMOKE, images, tmp_path / "b")
    assert stopped == list(range(6))  # one more than were trained
    assert steps[6:] == list(range(5, SMOKE.train.steps))
    assert [row["loss"] for row in resumed.curve] == [row["loss"] for row in expected.curve]
    assert all(torch.equal(a, b) for a, b in zip(weights(expected).values(), weights(resumed).values(), strict=True))
