"""The embedded cats."""

from pathlib import Path

import numpy as np
import pytest

from ablate.data import cats
from ablate.files import cache_folder


@pytest.fixture(autouse=True)
def _cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABLATE_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))


def test_a_picture_depends_on_its_number_alone() -> None:
    together = cats.compose(40)
    assert together.shape == (40, 3, 64, 64)
    assert together.dtype == np.uint8
    assert np.array_equal(together[30:], cats.compose(10, start=30))
    assert len({picture.tobytes() for picture in together}) == 40


def test_the_ground_is_plain_and_the_cat_fills_the_picture() -> None:
    pictures = cats.compose(64)
    corner = pictures[:, :, :2, -2:].reshape(64, 3, 4)
    assert (np.ptp(corner, axis=2) == 0).mean() > 0.9  # a hat may reach the corner
    ground = corner[:, :, :1, None]
    covered = (np.abs(pictures.astype(int) - ground) > 8).any(axis=1).mean(axis=(1, 2))
    assert covered.min() > 0.3
    assert covered.max() < 0.9


def test_cached_layers_give_the_same_pictures_and_a_damaged_cache_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = cats.compose(8)
    (kept,) = (cache_folder() / "cats").glob("*.npz")
    monkeypatch.setenv("ABLATE_CACHE", str(tmp_path))
    (tmp_path / "cats").mkdir()
    (tmp_path / "cats" / kept.name).write_bytes(b"PK\x03\x04 not a zip")
    assert np.array_equal(cats.compose(8), first)
    assert (tmp_path / "cats" / kept.name).stat().st_size > 10_000


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("ABLATE_CACHE", str(tmp_path / "file"))
    assert cats.compose(2).shape == (2, 3, 64, 64)
