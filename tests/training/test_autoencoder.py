"""Training of the autoencoder: cached by content, resumable, latents scaled to unit variance."""

import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch

from ablate.base import machine
from ablate.study import variants
from ablate.study.config import Config
from ablate.training import autoencoder
from ablate.training.checkpoint import TrainingState

CONFIG = variants.resolve(variants.load("latent"), "smoke").replaced(autoencoder={"steps": 6, "batch": 4})


def random_images() -> torch.Tensor:
    return torch.randint(0, 256, (40, 3, 64, 64), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def images() -> torch.Tensor:
    return random_images()


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ABLATE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "autoencoders"


def prepare(
    images: torch.Tensor,
    folder: Path,
    *,
    config: Config = CONFIG,
    data_digest: str = "d",
    seed: int = 0,
    precision: str = "fp32",
) -> tuple[autoencoder.TrainedAutoencoder, list[int]]:
    """Return the autoencoder and the steps its training reported: none if it was cached."""
    steps: list[int] = []
    trained = autoencoder.prepare(
        config,
        images,
        data_digest,
        seed,
        precision=precision,
        checkpoint=folder / "a.safetensors",
        on_step=lambda state: steps.append(state.step),
    )
    return trained, steps


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache that holds the autoencoder of `CONFIG`."""
    folder = tmp_path_factory.mktemp("trained")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ABLATE_CACHE", str(folder))
        prepare(random_images(), folder)
    return folder / "autoencoders"


def test_latents_have_unit_variance_and_the_cache_returns_the_same_autoencoder(
    images: torch.Tensor, tmp_path: Path, cache: Path
) -> None:
    trained, steps = prepare(images, tmp_path)
    assert steps == list(range(7))
    assert trained.wall_s > 0
    assert not (tmp_path / "a.safetensors").exists()
    z = trained.codec.encode(images.float() / 127.5 - 1)
    torch.testing.assert_close(z.mean((0, 2, 3)), torch.zeros(4), atol=1e-4, rtol=0)
    torch.testing.assert_close(z.std((0, 2, 3)), torch.ones(4), atol=1e-3, rtol=0)
    again, steps = prepare(images, tmp_path)
    assert steps == []
    assert (again.digest, again.wall_s) == (trained.digest, trained.wall_s)
    assert torch.equal(again.codec.decode(z), trained.codec.decode(z))


@pytest.mark.parametrize(
    "changed",
    [
        {"data_digest": "other"},
        {"seed": 1},
        {"precision": "bf16"},
        {"config": CONFIG.replaced(autoencoder={"kl_weight": 0.1})},
        {"config": CONFIG.replaced(train={"weight_decay": 0.1})},
    ],
    ids=lambda changed: next(iter(changed)),
)
def test_everything_it_depends_on_is_in_the_cache_key(
    images: torch.Tensor, tmp_path: Path, cache: Path, trained: Path, changed: dict[str, Any]
) -> None:
    shutil.copytree(trained, cache)
    assert prepare(images, tmp_path)[1] == []
    assert prepare(images, tmp_path, **changed)[1]
    assert len(list(cache.iterdir())) == 2


@pytest.mark.slow
def test_another_number_of_threads_trains_another_autoencoder(
    images: torch.Tensor, tmp_path: Path, cache: Path
) -> None:
    """Sums are computed in another order; a replay uses the threads of its row."""
    with machine.use_threads(1):
        prepare(images, tmp_path)
    with machine.use_threads(2):
        assert prepare(images, tmp_path)[1]


def test_settings_of_the_denoiser_alone_are_not_in_the_cache_key(
    images: torch.Tensor, tmp_path: Path, cache: Path, trained: Path
) -> None:
    shutil.copytree(trained, cache)
    other = variants.resolve(variants.load("latent+no_perceptual+v_pred"), "smoke")
    other = other.replaced(autoencoder=CONFIG.autoencoder.model_dump())
    assert prepare(images, tmp_path, config=other)[1] == []


def test_a_damaged_cache_file_is_replaced_and_an_unusable_cache_is_no_error(
    images: torch.Tensor, tmp_path: Path, cache: Path
) -> None:
    trained, _ = prepare(images, tmp_path)
    (path,) = cache.iterdir()
    content = bytearray(path.read_bytes())
    content[-1] ^= 1  # one bit of a weight
    path.write_bytes(content)
    again, steps = prepare(images, tmp_path)
    assert steps
    assert again.digest == trained.digest
    assert path.read_bytes() != content
    path.unlink()
    cache.rmdir()
    cache.write_text("a file where the folder should be")
    assert prepare(images, tmp_path)[0].digest == trained.digest


def test_an_interrupted_training_resumes_bit_for_bit(
    images: torch.Tensor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(state: TrainingState) -> None:
        if state.step == 5:
            os.kill(os.getpid(), signal.SIGINT)

    monkeypatch.setenv("ABLATE_CACHE", str(tmp_path / "whole"))
    whole, _ = prepare(images, tmp_path)
    monkeypatch.setenv("ABLATE_CACHE", str(tmp_path / "cut"))
    checkpoint = tmp_path / "a.safetensors"
    with pytest.raises(KeyboardInterrupt):
        autoencoder.prepare(CONFIG, images, "d", 0, precision="fp32", checkpoint=checkpoint, on_step=interrupt)
    resumed, steps = prepare(images, tmp_path)
    assert steps[0] == 5
    assert resumed.digest == whole.digest
