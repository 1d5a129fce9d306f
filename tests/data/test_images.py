"""Folders, zips and `.npz` files of pictures, good and bad."""

import io
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from ablate.data.images import ImageSet, load, read_images
from ablate.errors import DataError

REAL_CATS = Path(__file__).parents[3] / "shared" / "data" / "cats64.zip"


def noise(count: int, size: int = 64, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, size, size, 3), np.uint8)


def png(picture: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(picture).save(out, "PNG")
    return out.getvalue()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    pictures = tmp_path / "set"
    (pictures / "deeper").mkdir(parents=True)
    for i, picture in enumerate(noise(40)):
        (pictures / ("deeper" if i % 2 else "") / f"{i:03}.png").write_bytes(png(picture))
    (pictures / "notes.txt").write_text("not a picture")
    (pictures / ".hidden.png").write_text("not a picture")
    return pictures


def check(found: ImageSet, count: int) -> None:
    assert found.train.dtype == np.uint8
    assert found.train.shape[1:] == found.held_out.shape[1:] == (3, 64, 64)
    assert len(found.train) + len(found.held_out) == count
    assert len(found.held_out) == -(-count // 10)


def test_folder_zip_and_npz_of_the_same_pictures_are_the_same_set(folder: Path, tmp_path: Path) -> None:
    pictures = read_images(folder, size=64)
    np.savez(tmp_path / "set.npz", pictures.transpose(0, 2, 3, 1))
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for path in sorted(folder.rglob("*.png")):
            archive.write(path, path.relative_to(folder))
        archive.writestr("__MACOSX/._000.png", b"junk")
    sets = [load(str(path)) for path in (folder, tmp_path / "set.npz", tmp_path / "set.zip")]
    for found in sets:
        check(found, 40)
        assert found.name == "set"
    assert len({found.digest for found in sets}) == 1


def test_the_split_follows_the_pictures_not_their_order_or_names(tmp_path: Path) -> None:
    pictures = noise(50)
    np.savez(tmp_path / "a.npz", pictures)
    np.savez(tmp_path / "b.npz", pictures[::-1])
    one, two = load(str(tmp_path / "a.npz")), load(str(tmp_path / "b.npz"))
    assert np.array_equal(one.held_out, two.held_out)
    assert one.digest != two.digest  # the order of the training pictures differs
    assert not {p.tobytes() for p in one.train} & {p.tobytes() for p in one.held_out}


def test_duplicates_are_dropped_and_counted(tmp_path: Path) -> None:
    pictures = noise(40)
    np.savez(tmp_path / "a.npz", np.concatenate([pictures, pictures[:7]]))
    found = load(str(tmp_path / "a.npz"))
    assert found.duplicates == 7
    check(found, 40)


def test_any_size_and_mode_is_taken(tmp_path: Path) -> None:
    wide = np.zeros((80, 200, 3), np.uint8)
    wide[:, 60:140] = 255  # the central square
    images = {
        "wide.png": Image.fromarray(wide),
        "grey.png": Image.new("L", (64, 64), 128),
        "deep.png": Image.fromarray(np.full((64, 64), 40_000, np.uint16)),
        "palette.gif": Image.new("P", (64, 64), 0),
        "clear.png": Image.new("RGBA", (64, 64), (255, 0, 0, 0)),
        "print.jpg": Image.new("CMYK", (70, 70)),
        "small.png": Image.new("RGB", (10, 10), (1, 2, 3)),
    }
    for name, image in images.items():
        image.save(tmp_path / name)
    found = dict(zip(sorted(images), read_images(tmp_path, size=64), strict=True))
    assert (found["wide.png"] == 255).all()
    assert (found["grey.png"] == 128).all()
    assert (abs(found["deep.png"].astype(int) - 156) <= 1).all()
    assert (found["clear.png"] == 255).all()
    assert (found["small.png"][:, 0, 0] == [1, 2, 3]).all()


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    picture = np.zeros((64, 64, 3), np.uint8)
    picture[:, :32] = 255  # left half
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned clockwise: left becomes top
    Image.fromarray(picture).save(tmp_path / "a.png", exif=exif)
    (turned,) = read_images(tmp_path, size=64)
    assert (turned[:, :32] == 255).all()
    assert not turned[:, 32:].any()


def damaged(tmp_path: Path, kind: str) -> Path:
    path = tmp_path / "in"
    path.mkdir()
    if kind == "missing":
        return tmp_path / "absent"
    if kind == "text":
        (tmp_path / "a.txt").write_text("x")
        return tmp_path / "a.txt"
    if kind == "few":
        for i, picture in enumerate(noise(3)):
            (path / f"{i}.png").write_bytes(png(picture))
    if kind == "truncated":
        (path / "cut.png").write_bytes(png(noise(1)[0])[:2000])
    if kind == "animated":
        Image.new("L", (8, 8)).save(path / "film.gif", save_all=True, append_images=[Image.new("L", (8, 8), 200)])
    if kind == "bomb":
        Image.new("1", (9000, 9000)).save(path / "huge.png")
    if kind == "bad zip":
        (tmp_path / "a.zip").write_bytes(b"PK\x03\x04 but no")
        return tmp_path / "a.zip"
    if kind == "jpeg in zip":
        with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
            archive.writestr("cats/ok.png", png(noise(1)[0]))
            archive.writestr("cats/torn.jpg", b"\xff\xd8\xff\xe0 torn")
        return tmp_path / "a.zip"
    if kind == "bad npz":
        (tmp_path / "a.npz").write_bytes(b"nothing")
        return tmp_path / "a.npz"
    if kind == "float npz":
        np.savez(tmp_path / "a.npz", noise(40) / 255)
        return tmp_path / "a.npz"
    if kind == "pickle npz":
        np.savez(tmp_path / "a.npz", np.array([{"a": 1}], dtype=object))
        return tmp_path / "a.npz"
    return path


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("missing", r"absent: no such file or folder; allowed: cats, or the path of a folder"),
        ("text", r"a\.txt: found a file ending in \.txt; allowed: cats, a folder"),
        ("empty", r"in: no pictures found; looked for files ending in \.png"),
        ("few", r"in: 3 distinct pictures, 0 copies; allowed: at least 32 distinct"),
        ("truncated", r"cut\.png: cannot be read .* mend: replace or remove it"),
        ("animated", r"film\.gif: 2 frames; allowed: still pictures"),
        ("bomb", r"huge\.png: 9000 x 9000 pixels; allowed: 50,000,000"),
        ("bad zip", r"a\.zip: not a zip that can be read"),
        ("jpeg in zip", r"a\.zip: cats/torn\.jpg: cannot be read"),
        ("bad npz", r"a\.npz: not an \.npz of plain arrays"),
        ("float npz", r"a\.npz: found float64 \(40, 64, 64, 3\); allowed: uint8"),
        ("pickle npz", r"a\.npz: not an \.npz of plain arrays"),
    ],
)
def test_bad_data_is_one_line_that_names_the_file(tmp_path: Path, kind: str, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        load(str(damaged(tmp_path, kind)))
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(not REAL_CATS.is_file(), reason="the real cats are not beside this checkout")
def test_the_real_cats_load() -> None:
    found = load(str(REAL_CATS))
    check(found, 7381)
    assert found.duplicates == 0
