"""The embedded cats: distinct, the same everywhere, and indifferent to the state of the cache."""

import hashlib
import io
import random
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ablate.base.errors import DataError
from ablate.data import cats


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ABLATE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "cats"


@pytest.fixture(scope="module")
def made() -> list[np.ndarray]:
    return [cats._shrink(entries, 16) for entries in cats._art()]


@pytest.fixture
def quick(made: list[np.ndarray], monkeypatch: pytest.MonkeyPatch) -> None:
    """Shrinking all art takes a second: these tests are about what is done with it."""
    monkeypatch.setattr(cats, "_layers", lambda size: made)


@pytest.mark.usefixtures("quick")
def test_an_image_depends_on_its_number_alone() -> None:
    together = cats.compose(150, size=16)
    assert together.shape == (150, 3, 16, 16)
    assert together.dtype == np.uint8
    apart = [cats.compose(n, size=16, start=start) for start, n in [(0, 1), (1, 99), (100, 50)]]
    assert np.array_equal(np.concatenate(apart), together)
    assert cats.compose(0, size=16).shape == (0, 3, 16, 16)


def test_there_are_324000_distinct_cats(made: list[np.ndarray]) -> None:
    assert [len(layer) for layer in made] == [15, 9, 15, 10, 16]
    for layer in made:
        assert len({art.tobytes() for art in layer}) == len(layer)
    assert np.array_equal(np.sort(cats._order(324_000)), np.arange(324_000))


def test_the_first_combinations_show_every_part_about_equally(made: list[np.ndarray]) -> None:
    counts = tuple(len(layer) for layer in made)
    for count, pick in zip(counts, np.unravel_index(cats._order(324_000)[:10_000], counts), strict=True):
        seen = np.bincount(pick, minlength=count)
        assert np.abs(seen - 10_000 / count).max() < 5 * np.sqrt(10_000 / count)


def test_backgrounds_and_order_are_pinned() -> None:
    # A change here changes every image: raise cats.VERSION with it.
    drawn = cats._order(324_000)[:100].astype("<i8").tobytes() + cats._backgrounds(100, 0).tobytes()
    assert hashlib.sha256(drawn).hexdigest()[:16] == "0c26c839fe4ed66f"
    assert cats._backgrounds(10_000, 0).min() == cats.LIGHT[0]
    assert cats._backgrounds(10_000, 0).max() == cats.LIGHT[1] - 1


@pytest.mark.slow
def test_an_image_agrees_with_one_composed_by_pillow_at_full_size_and_then_shrunk() -> None:
    art = cats._art()
    del art[1][6]  # the second empty fur
    picks = np.unravel_index(cats._order(324_000)[0], [len(entries) for entries in art])
    whole = Image.new("RGBA", (cats.ART_SIZE, cats.ART_SIZE), (*cats._backgrounds(1, 0)[0].tolist(), 255))
    for entries, pick in zip(art, picks, strict=True):
        whole.alpha_composite(Image.open(io.BytesIO(entries[pick])).convert("RGBA"))
    expected = np.asarray(whole.convert("RGB").resize((64, 64), Image.Resampling.LANCZOS), int)
    found = cats.compose(1)[0].transpose(1, 2, 0)
    assert np.abs(found - expected).mean() < 2.5  # edges between layers differ a little


def test_colours_never_exceed_their_alpha(made: list[np.ndarray]) -> None:
    assert all((layer[:, :3] <= layer[:, 3:]).all() for layer in made)


def test_the_cache_is_read_and_a_damaged_one_is_made_again(
    cache: Path, made: list[np.ndarray], monkeypatch: pytest.MonkeyPatch
) -> None:
    shrunk: list[int] = []

    def shrink(entries: list[bytes], size: int) -> np.ndarray:
        shrunk.append(size)
        return made[(len(shrunk) - 1) % len(made)]

    monkeypatch.setattr(cats, "_shrink", shrink)
    first = cats.compose(3, size=16)
    (path,) = cache.iterdir()
    assert np.array_equal(cats.compose(3, size=16), first)
    assert len(shrunk) == 5  # the second time it was read
    path.write_bytes(path.read_bytes()[:5000])
    assert np.array_equal(cats.compose(3, size=16), first)
    assert len(shrunk) == 10
    assert [entry.name for entry in cache.iterdir()] == [path.name]  # no temporary file is left


def test_no_damage_to_the_cache_is_an_error_or_another_image(tmp_path: Path, made: list[np.ndarray]) -> None:
    path = tmp_path / "a.npz"
    cats._write(path, made)
    good, draw = path.read_bytes(), random.Random(0)
    for _ in range(200):
        damaged = bytearray(good)
        for _ in range(draw.randint(1, 4)):
            damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged[: draw.randrange(len(damaged))] if draw.random() < 0.3 else damaged)
        kept = cats._read(path)
        assert kept is None or all(np.array_equal(a, b) for a, b in zip(kept, made, strict=True))


def test_a_cache_with_other_art_is_not_taken(tmp_path: Path, made: list[np.ndarray]) -> None:
    path = tmp_path / "a.npz"
    cats._write(path, made)
    with np.load(path) as file:
        kept = dict(file)
    np.savez_compressed(path, **(kept | {"art": 255 - kept["art"]}))
    assert cats._read(path) is None


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path: Path, made: list[np.ndarray]) -> None:
    (tmp_path / "file").write_text("in the way")
    cats._write(tmp_path / "file" / "cats" / "a.npz", made)
    assert cats._read(tmp_path / "file" / "cats" / "a.npz") is None


@pytest.mark.parametrize("size", [-1, 0, 1025])
def test_a_size_out_of_range_is_refused(size: int) -> None:
    with pytest.raises(DataError, match=f"size {size}; allowed: 1 to 1024"):
        cats.compose(1, size=size)
