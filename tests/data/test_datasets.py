"""Data sets of folders, zips and `.npz` files, good and bad, and of the cats."""

import os
import struct
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from image_bytes import encode, noise, read_images
from PIL import Image

from ablate.base.errors import DataError
from ablate.data import cats
from ablate.data.datasets import is_embedded, load_dataset

REAL_CATS = Path(__file__).parents[3] / "shared" / "data" / "cats64.zip"
Arrange = Callable[[Path], Path]


def test_folder_zip_and_npz_of_the_same_images_are_the_same_set(tmp_path: Path) -> None:
    images = noise(40)
    folder = tmp_path / "set"
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for i, image in enumerate(images):
            path = folder / ("a" if i < 20 else "b/c") / f"{i:03}.{'PNG' if i % 2 else 'bmp'}"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encode(image))
            archive.write(path, path.relative_to(folder))
        for junk in ("__MACOSX/a/._000.png", "a/.hidden.png", ".git/x.png", "notes.txt", "__MACOSX\\b.png"):
            archive.writestr(junk, b"junk")
    (folder / ".hidden.png").write_bytes(b"junk")
    (folder / "notes.txt").write_bytes(b"junk")
    np.savez(tmp_path / "set.npz", labels=np.arange(40), images=images)
    sets = [load_dataset(str(tmp_path / name), size=16) for name in ("set", "set.zip", "set.npz")]
    assert {found.name for found in sets} == {"set"}
    assert len({found.digest for found in sets}) == 1
    assert np.array_equal(read_images(folder, size=16), images.transpose(0, 3, 1, 2))


def test_the_split_follows_the_images_not_their_order(tmp_path: Path) -> None:
    images = noise(41)
    np.savez(tmp_path / "a.npz", images)
    np.savez(tmp_path / "b.npz", np.concatenate([images[::-1], images[:7]]))
    a, b = load_dataset(str(tmp_path / "a.npz"), size=16), load_dataset(str(tmp_path / "b.npz"), size=16)
    assert (len(a.held_out), len(a.train), a.duplicates) == (5, 36, 0)
    assert (len(b.held_out), len(b.train), b.duplicates) == (5, 36, 7)
    assert np.array_equal(a.held_out, b.held_out)
    assert np.array_equal(a.train, b.train[::-1])
    assert a.digest != b.digest
    assert not {p.tobytes() for p in a.train} & {p.tobytes() for p in a.held_out}


def broken_link(tmp_path: Path) -> Path:
    (tmp_path / "gone.png").symlink_to(tmp_path / "nowhere")
    return tmp_path


def lone_pipe(tmp_path: Path) -> Path:
    os.mkfifo(tmp_path / "pipe.png")
    return tmp_path


def text(tmp_path: Path) -> Path:
    (tmp_path / "a.txt").write_text("x")
    return tmp_path / "a.txt"


def few(tmp_path: Path) -> Path:
    np.savez(tmp_path / "few.npz", np.concatenate([noise(31)] * 2))
    return tmp_path / "few.npz"


def array(value: np.ndarray) -> Arrange:
    def arrange(tmp_path: Path) -> Path:
        np.savez(tmp_path / "a.npz", value)
        return tmp_path / "a.npz"

    return arrange


def bare_array(tmp_path: Path) -> Path:
    with (tmp_path / "a.npz").open("wb") as file:
        np.save(file, noise(40))
    return tmp_path / "a.npz"


def file(name: str, content: bytes) -> Arrange:
    def arrange(tmp_path: Path) -> Path:
        (tmp_path / name).write_bytes(content)
        return tmp_path

    return arrange


def torn_zip(tmp_path: Path) -> Path:
    (tmp_path / "a.zip").write_bytes(b"PK\x03\x04 but no")
    return tmp_path / "a.zip"


def torn_image_in_zip(tmp_path: Path) -> Path:
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("cats/ok.png", encode(noise(1)[0]))
        archive.writestr("cats/torn.jpg", b"\xff\xd8\xff\xe0 torn")
    return tmp_path / "a.zip"


def huge_header() -> bytes:
    """A PNG of 100,000 x 100,000 pixels in a hundred bytes."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", struct.pack(">IIBBBBB", 10**5, 10**5, 8, 0, 0, 0, 0))
        + chunk(b"IDAT", b"")
    )


EPS = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\nshowpage\n"
FILM = encode(Image.new("L", (8, 8)), "GIF", save_all=True, append_images=[Image.new("L", (8, 8), 200)])


@pytest.mark.parametrize(
    ("arrange", "message"),
    [
        (
            lambda tmp_path: tmp_path / "absent",
            r"absent: no such file or folder; allowed: cats, or the path of a folder",
        ),
        (lambda tmp_path: tmp_path / ("x" * 5000), r"x: no such file or folder"),
        (lambda tmp_path: tmp_path, r": no images found; looked for files ending in \.png"),
        (text, r"a\.txt: found a file ending in \.txt; allowed: a folder"),
        (few, r"few\.npz: 31 distinct images, 31 copies; allowed: at least 32"),
        (broken_link, r"gone\.png: not a regular file"),
        (lone_pipe, r"pipe\.png: not a regular file"),
        (file("cut.png", encode(noise(1, 64)[0])[:2000]), r"cut\.png: cannot be read \("),
        (file("text.png", b"hello"), r"text\.png: not an image; allowed: PNG, JPEG"),
        (file("eps.png", EPS), r"eps\.png: not an image"),  # Pillow would start Ghostscript for it
        (file("film.gif", FILM), r"film\.gif: 2 frames; allowed: still images"),
        (file("huge.png", encode(Image.new("1", (9000, 9000)))), r"huge\.png: 9000 x 9000 pixels; allowed: 50,000,000"),
        (file("bomb.png", huge_header()), r"bomb\.png: far too large; allowed: 50,000,000 pixels"),
        (
            file("f.tif", encode(Image.new("F", (9, 9)), "TIFF")),
            r"f\.tif: floating-point pixels; allowed: 8 or 16 bits",
        ),
        (file("a\nb.png", b"hello"), r"a b\.png: not an image"),
        (torn_zip, r"a\.zip: not a readable zip"),
        (torn_image_in_zip, r"a\.zip: cats/torn\.jpg: "),
        (file("a.npz", b""), r"no images found"),
        (bare_array, r"a\.npz: not an \.npz of plain arrays"),
        (array(noise(40) / 255), r"a\.npz: found float64 \(40, 16, 16, 3\); allowed: uint8 \(N, H, W\)"),
        (array(noise(40)[:0]), r"a\.npz: found uint8 \(0, 16, 16, 3\)"),
        (array(np.zeros((9, 16, 16, 5), np.uint8)), r"a\.npz: found uint8 \(9, 16, 16, 5\)"),
        (array(np.array([{"a": 1}], dtype=object)), r"a\.npz: not an \.npz of plain arrays"),
    ],
)
def test_bad_data_is_one_line_that_names_the_file(tmp_path: Path, arrange: Arrange, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load_dataset(str(arrange(tmp_path)), size=16)
    assert "\n" not in str(caught.value)
    assert "0x" not in str(caught.value)


def test_an_empty_name_is_not_the_current_folder() -> None:
    with pytest.raises(DataError, match="no name given; allowed: cats"):
        load_dataset("")


def test_the_cats_are_a_data_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cats, "compose", lambda count, *, size: noise(count // 100, size).transpose(0, 3, 1, 2))
    found = load_dataset("cats", size=16)
    assert (found.name, len(found.train), len(found.held_out)) == ("cats", 90, 10)


@pytest.mark.slow
def test_the_cats_are_known_by_their_digest_alone(tmp_path: Path) -> None:
    embedded = load_dataset("cats")
    assert is_embedded(embedded.digest)
    np.savez(tmp_path / "cats.npz", images=noise(40))
    assert not is_embedded(load_dataset(str(tmp_path / "cats.npz"), size=16).digest)


def test_some_training_images_are_of_all_classes_whatever_the_files_are_called(tmp_path: Path) -> None:
    classes = [*(noise(60) // 2), *(noise(60, seed=1) | 128)]  # dark images first, then bright ones
    chosen = []
    for name, order in (("sorted", np.arange(120)), ("shuffled", np.random.default_rng(0).permutation(120))):
        np.savez(tmp_path / f"{name}.npz", np.stack([classes[i] for i in order]))
        data = load_dataset(str(tmp_path / f"{name}.npz"), size=16)
        some, others = data.training_images(40), data.other_training_images(40)
        assert len(some) + len(others) == len(data.train) == len(np.unique(np.concatenate([some, others]), axis=0))
        assert data.training_images(1000) is data.train
        assert 10 <= sum(image.max() > 127 for image in some) <= 30
        chosen.append(some)
    assert np.array_equal(*chosen)


def test_mirror_images_are_held_out_together(tmp_path: Path) -> None:
    images = noise(60)
    np.savez(tmp_path / "mirrored.npz", np.concatenate([images, images[:, :, ::-1]]))
    data = load_dataset(str(tmp_path / "mirrored.npz"), size=16)
    train, held_out = ({image.tobytes() for image in part} for part in (data.train, data.held_out))
    assert len(held_out) >= 12
    assert all(np.ascontiguousarray(image[..., ::-1]).tobytes() in held_out for image in data.held_out)
    assert not train & held_out


def test_what_was_done_with_the_images_is_noted(tmp_path: Path) -> None:
    for i, image in enumerate([*noise(40), *noise(3)]):
        (tmp_path / f"{i}.png").write_bytes(encode(image if i else Image.fromarray(image).convert("L")))
    (tmp_path / "notes.txt").write_text("x")
    assert load_dataset(str(tmp_path), size=16).notes == (
        "left out: 1 .txt",
        "greyscale images read as RGB",
        "2 of 43 images are exact copies of others, dropped",
    )


def test_a_name_keeps_what_follows_a_dot(tmp_path: Path) -> None:
    (tmp_path / "photos.v2").mkdir()
    for i, image in enumerate(noise(40)):
        (tmp_path / "photos.v2" / f"{i}.png").write_bytes(encode(image))
    np.savez(tmp_path / "photos.v3.npz", images=noise(40))
    names = [load_dataset(str(tmp_path / name), size=16).name for name in ("photos.v2", "photos.v3.npz")]
    assert names == ["photos.v2", "photos.v3"]


@pytest.mark.skipif(not REAL_CATS.is_file(), reason="shared/data/cats64.zip is not beside this checkout")
@pytest.mark.slow
def test_the_real_cats_load() -> None:
    found = load_dataset(str(REAL_CATS))
    assert (found.name, found.train.shape, found.held_out.shape) == ("cats64", (6642, 3, 64, 64), (739, 3, 64, 64))
    assert found.duplicates == 0
