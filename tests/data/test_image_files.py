"""Picture files of every kind and mode, and damaged ones."""

import os
import random
import struct
import zipfile
import zlib
from pathlib import Path

import numpy as np
import pytest
from image_bytes import encode, noise, read_images
from PIL import Image

from ablate.base.errors import DataError
from ablate.data import image_files


def deep_png(size: int = 16) -> bytes:
    """Return a PNG of 16 bits a channel in colour, which Pillow cannot write."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    pixels = np.random.default_rng(0).integers(0, 65536, (size, size, 3)).astype(">u2")
    rows = b"".join(b"\0" + row.tobytes() for row in pixels)  # each begins with its filter: none
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", size, size, 16, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def one(tmp_path: Path, content: bytes, size: int = 16) -> np.ndarray:
    (tmp_path / "a.png").write_bytes(content)
    return read_images(tmp_path, size=size)[0]


@pytest.mark.parametrize(
    ("array", "value"),
    [
        (np.full((2, 20, 30), 7, np.uint8), 7),
        (np.full((2, 20, 30, 1), 7, np.uint8), 7),
        (np.full((2, 1, 20, 30), 7, np.uint8), 7),
        (np.full((2, 20, 30, 3), 7, np.uint8), 7),
        (np.full((2, 3, 20, 30), 7, np.uint8), 7),
        (np.zeros((2, 20, 30, 4), np.uint8), 255),
        (np.zeros((2, 4, 20, 30), np.uint8), 255),
    ],
)
def test_every_layout_of_an_array_is_read(tmp_path: Path, array: np.ndarray, value: int) -> None:
    np.savez(tmp_path / "a.npz", array)
    found = read_images(tmp_path / "a.npz", size=16)
    assert found.shape == (2, 3, 16, 16)
    assert (found == value).all()


@pytest.mark.parametrize(
    ("image", "rgb"),
    [
        (Image.new("L", (16, 16), 128), (128, 128, 128)),
        (Image.new("1", (16, 16), 1), (255, 255, 255)),
        (Image.fromarray(np.full((16, 16), 40_000, np.uint16)), (156, 156, 156)),
        (Image.fromarray(np.full((16, 16), 200, np.uint16)), (1, 1, 1)),  # a dark 16-bit image stays dark
        (Image.new("LA", (16, 16), (0, 0)), (255, 255, 255)),
        (Image.new("RGBA", (16, 16), (255, 0, 0, 51)), (255, 204, 204)),
        (Image.new("RGB", (16, 16), (1, 2, 3)).quantize(4), (1, 2, 3)),
    ],
)
def test_every_mode_is_read(tmp_path: Path, image: Image.Image, rgb: tuple[int, int, int]) -> None:
    found = one(tmp_path, encode(image))
    assert (found == np.array(rgb)[:, None, None]).all()


def test_cmyk_and_the_first_image_of_a_phones_mpo_are_read(tmp_path: Path) -> None:
    assert one(tmp_path, encode(Image.new("CMYK", (16, 16), (0, 0, 0, 0)), "JPEG")).min() >= 254
    pair = {"save_all": True, "append_images": [Image.new("RGB", (16, 16), "black")]}
    assert one(tmp_path, encode(Image.new("RGB", (16, 16), "white"), "MPO", **pair)).min() >= 254


def test_the_central_square_is_taken_and_an_image_of_the_size_is_untouched(tmp_path: Path) -> None:
    wide = np.zeros((80, 200, 3), np.uint8)
    wide[:, 60:140] = 255
    assert (one(tmp_path, encode(wide)) == 255).all()
    assert (one(tmp_path, encode(wide.transpose(1, 0, 2).copy())) == 255).all()
    image = noise(1)[0]
    assert np.array_equal(one(tmp_path, encode(image)), image.transpose(2, 0, 1))
    assert one(tmp_path, encode(noise(1, 64)[0])).std() < 35  # antialiased: taking the nearest pixels would leave 74


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    left = np.zeros((16, 16, 3), np.uint8)
    left[:, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # shown turned clockwise: left becomes top
    turned = one(tmp_path, encode(left, exif=exif))
    assert (turned[:, :8] == 255).all()
    assert not turned[:, 8:].any()


def test_a_file_whose_name_is_not_text_is_named_printably(tmp_path: Path) -> None:
    (tmp_path / os.fsdecode(b"bad\xff.png")).write_bytes(b"hello")
    with pytest.raises(DataError) as caught:
        read_images(tmp_path, size=16)
    assert r"bad\udcff.png: not an image" in str(caught.value)
    str(caught.value).encode()


def test_an_image_of_a_kind_that_is_not_read_is_not_left_out_silently(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(encode(noise(1)[0]))
    (tmp_path / "b.HEIC").write_bytes(b"x")
    with pytest.raises(
        DataError, match=r"b\.HEIC: a kind of image that is not read; allowed: PNG, .*convert or remove it"
    ):
        read_images(tmp_path, size=16)
    (tmp_path / "b.HEIC").rename(tmp_path / "notes.txt")
    assert len(read_images(tmp_path, size=16)) == 1


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        *(("z.jpe", "JPEG"), ("z.JPE", "JPEG"), ("z.jif", "JPEG"), ("z.mpo", "MPO"), ("z.mpo", "JPEG")),
        *(
            ("z.apng", "PNG"),
            ("z.dib", "DIB"),
            ("z.pbm", "PPM"),
            ("z.pgm", "PPM"),
            ("b/z.ppm", "PPM"),
            ("z.tga", "TGA"),
        ),
    ],
)
def test_every_kind_that_can_be_read_is_read(tmp_path: Path, name: str, kind: str) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "a.png").write_bytes(encode(noise(1)[0]))
    image = Image.fromarray(noise(1)[0]).convert({"z.pbm": "1", "z.pgm": "L"}.get(name, "RGB"))
    (tmp_path / name).write_bytes(encode(image, kind))
    assert len(read_images(tmp_path, size=16)) == 2


LEFT_OUT = {
    "a.png": "",
    **{f"{i}.txt": "2 .txt" for i in range(2)},
    "b/c.json": "1 .json",
    "noext": "1 without a suffix",
    "B.TXT.bak": "1 .bak",
    "more.zip": "1 .zip",
    "more.npz": "1 .npz",
    ".DS_Store": "hidden",
    ".thumbs/a.png": "hidden",
    "__MACOSX/._a.png": "hidden",
    "a.png\n.x": "1 .x",
}


@pytest.mark.parametrize("packed", [False, True])
def test_what_is_left_out_is_counted_by_kind(tmp_path: Path, packed: bool) -> None:
    folder = tmp_path / "set"
    for name in LEFT_OUT:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(encode(noise(1)[0]))
    if packed:
        with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
            for name in LEFT_OUT:
                archive.write(folder / name, name)
    else:
        (folder / "more").symlink_to(tmp_path, target_is_directory=True)
        (folder / "linked.png").symlink_to(folder / "a.png")
    with image_files.ImageFiles(tmp_path / ("set.zip" if packed else "set")) as images:
        (line,) = images.notes()
        assert len(images) == (1 if packed else 2)  # a link to an image is an image
    for said in LEFT_OUT.values():
        assert said in line
    assert ("1 links to folders" in line) is not packed
    assert "3 hidden" in line
    assert line.isprintable()


def test_nothing_is_said_of_plain_images(tmp_path: Path) -> None:
    for i, image in enumerate(noise(3)):
        (tmp_path / f"{i}.png").write_bytes(encode(image))
    with image_files.ImageFiles(tmp_path) as images:
        assert images.copies() == 0
        assert images.notes() == []


@pytest.mark.parametrize(
    ("image", "kind", "said"),
    [
        (Image.new("L", (16, 16), 128), "PNG", ["greyscale images read as RGB"]),
        (Image.new("1", (16, 16), 1), "PNG", ["greyscale images read as RGB"]),
        (Image.new("RGBA", (16, 16), (255, 0, 0, 51)), "PNG", ["transparent images laid on white"]),
        (Image.fromarray(np.full((16, 16), 40_000, np.uint16)), "PNG", ["16-bit images read as 8-bit", "greyscale"]),
        (Image.new("CMYK", (16, 16), (9, 9, 9, 0)), "JPEG", ["CMYK images read as RGB"]),
        (Image.new("RGB", (16, 16), (90, 2, 3)).quantize(4), "PNG", []),
        (Image.new("RGBA", (16, 16), (255, 0, 0, 255)), "PNG", []),  # opaque: nothing is converted
        (Image.new("LA", (16, 16), (80, 255)), "PNG", ["greyscale images read as RGB"]),
        (Image.new("LAB", (16, 16), (80, 9, 9)), "TIFF", ["LAB images read as RGB"]),
        (deep_png(), "", ["16-bit images read as 8-bit"]),
    ],
)
def test_what_is_converted_is_said(tmp_path: Path, image: Image.Image | bytes, kind: str, said: list[str]) -> None:
    (tmp_path / "a.png").write_bytes(image if isinstance(image, bytes) else encode(image, kind))
    (tmp_path / "b.png").write_bytes(encode(noise(1)[0]))
    with image_files.ImageFiles(tmp_path) as images:
        list(images.read(range(2)))
        notes = [note for note in images.notes() if "of one colour" not in note]
        assert len(notes) == len(said)
        assert all(any(note.startswith(one) for note in notes) for one in said)


def test_an_encoded_image_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(image_files, "MAX_BYTES", 100)
    with pytest.raises(DataError, match=r"a\.png: [0-9]+ bytes; allowed: 100"):
        one(tmp_path, encode(noise(1)[0]))
    with zipfile.ZipFile(tmp_path / "a.zip", "w") as archive:
        archive.writestr("b.png", b"0" * 101)
    with pytest.raises(DataError, match=r"b\.png: 101 bytes; allowed: 100"):
        read_images(tmp_path / "a.zip", size=16)


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP", "zip", "npz"])
def test_damage_is_a_data_error_or_no_error(tmp_path: Path, kind: str) -> None:
    path = tmp_path / ("a." + (kind if kind in ("zip", "npz") else "png"))
    if kind == "zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a.bmp", encode(noise(1)[0] // 64, "BMP"))
    elif kind == "npz":
        np.savez_compressed(path, noise(2) // 64)
    else:
        path.write_bytes(encode(noise(1)[0], kind))
    good, draw, refused = path.read_bytes(), random.Random(0), []
    for _ in range(60):
        damaged = bytearray(good)
        for _ in range(draw.randint(1, 4)):
            damaged[draw.randrange(len(damaged))] ^= 1 << draw.randrange(8)
        path.write_bytes(damaged[: draw.randrange(len(damaged))] if draw.random() < 0.3 else damaged)
        try:
            read_images(path if kind in ("zip", "npz") else tmp_path, size=16)
        except DataError as error:
            refused.append(str(error))
    assert refused
    assert not any("\n" in message for message in refused)
