"""Near twins between held-out and training images."""

from pathlib import Path

import numpy as np
import pytest
from image_bytes import noise

from ablate.data.datasets import load_dataset
from ablate.data.near_twins import near_twins


def scenes(count: int, frames: int, size: int = 32) -> np.ndarray:
    """Return the frames (N, H, W, 3) uint8 of videos: each scene with a little noise of its own."""
    each = noise(count, size).astype(float).repeat(frames, 0)
    return (each + 8 * np.random.default_rng(1).standard_normal(each.shape)).clip(0, 255).astype(np.uint8)


@pytest.mark.parametrize(("frames", "share", "notes"), [(1, 0.0, 0), (5, 1.0, 1)])
def test_frames_of_a_video_are_near_twins_and_noted(tmp_path: Path, frames: int, share: float, notes: int) -> None:
    np.savez(tmp_path / "set.npz", images=scenes(200 // frames, frames))
    data = load_dataset(str(tmp_path / "set.npz"), size=32)
    assert data.twins == share
    told = "100% of held-out images have a near twin in training: metrics of held-out images"
    assert sum(note.startswith(told) for note in data.notes) == notes


@pytest.mark.parametrize("size", [8, 16, 17, 40])
def test_an_image_is_near_its_mirror_image_at_any_size(size: int) -> None:
    train = noise(60, size).transpose(0, 3, 1, 2)
    near = np.concatenate([train[:5, :, :, ::-1] ^ 1, noise(10, size, 7).transpose(0, 3, 1, 2)])
    assert near_twins(near[:5], train) == 1
    assert near_twins(near, train) == pytest.approx(1 / 3)
    assert near_twins(np.zeros((3, 3, size, size), np.uint8), np.zeros((9, 3, size, size), np.uint8)) == 0


@pytest.mark.slow
def test_the_recorded_share_of_the_cats_is_computed_by_the_same_code() -> None:
    data = load_dataset("cats")
    assert data.twins == near_twins(data.held_out, data.train)
