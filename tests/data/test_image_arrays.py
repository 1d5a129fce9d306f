"""Which array of an `.npz` holds the images, and which files are refused."""

from __future__ import annotations

import zipfile
from pathlib import Path

import numpy as np
import pytest
from image_bytes import noise

from ablate.base.errors import DataError
from ablate.data.image_files import ImageFiles

SET = noise(40)
MASKS = SET[..., 0]


def read(path: Path, arrays: dict[str, np.ndarray], asked: str | None = None) -> tuple[np.ndarray, list[str]]:
    np.savez(path / "a.npz", **arrays)
    with ImageFiles(path / "a.npz", array=asked) as images:
        return np.stack(list(images.read(range(len(images))))), images.notes()


@pytest.mark.parametrize(
    "others",
    [
        {"labels": np.arange(40)},
        {"labels": np.arange(40, dtype=np.uint8)},
        {"onehot": np.eye(40, dtype=np.uint8)},
        {"mean": SET[0]},  # a single image
        {"mean": SET[0].transpose(2, 0, 1)},
        {"latents": np.zeros((40, 4, 8, 8), np.float32)},
        {"masks": MASKS > 128},
        {"depth": np.zeros((40, 16, 16), np.uint16)},
        {"empty": SET[:0]},
        {"features": np.zeros((40, 16, 16, 8), np.uint8)},
        {"names": np.array(["a"] * 40)},
    ],
)
def test_the_only_array_that_can_be_images_is_taken(tmp_path: Path, others: dict[str, np.ndarray]) -> None:
    found, notes = read(tmp_path, {**others, "data": SET})
    assert np.array_equal(found, SET.transpose(0, 3, 1, 2))
    assert notes == ["array data of shape (40, 16, 16, 3) read as (N, H, W, C), values 0 to 255"]


@pytest.mark.parametrize(
    "arrays",
    [
        {"arr_0": SET, "masks": MASKS},
        {"train_images": SET[:30], "val_images": SET[30:]},
        {"a": SET, "b": SET.transpose(0, 3, 1, 2)},
        {"x": SET, "y": SET[..., :1], "z": np.arange(40)},
    ],
)
def test_several_arrays_are_listed_and_one_can_be_chosen(tmp_path: Path, arrays: dict[str, np.ndarray]) -> None:
    with pytest.raises(DataError, match=r"arrays can be images: .*; fix: choose one with --array NAME") as caught:
        read(tmp_path, arrays)
    for name, array in arrays.items():
        assert f"{name}: {array.dtype} {array.shape}" in str(caught.value)
        if array.ndim > 1:
            assert len(read(tmp_path, arrays, name)[0]) == len(array)
    assert "\n" not in str(caught.value)


def test_an_array_called_images_needs_no_choice(tmp_path: Path) -> None:
    found, notes = read(tmp_path, {"masks": MASKS, "images": SET})
    assert np.array_equal(found, SET.transpose(0, 3, 1, 2))
    assert "array images" in notes[0]


@pytest.mark.parametrize(
    ("arrays", "asked", "said"),
    [
        ({"a": SET[0]}, None, "found uint8 (16, 16, 3); allowed: uint8 (N, H, W), (N, H, W, C)"),
        ({"a": SET[0]}, None, "a single image is not a set: save it as (1, H, W, C)"),
        ({"a": SET[0].transpose(2, 0, 1)}, None, "a single image is not a set"),
        ({"a": np.zeros((16, 16, 4), np.uint8)}, None, "a single image is not a set"),
        ({"a": SET / 255, "b": np.arange(3)}, None, "found a: float64 (40, 16, 16, 3), b: int64 (3,); allowed: uint8"),
        ({"a": SET.astype(np.float32)}, None, "found float32 (40, 16, 16, 3)"),
        ({"a": SET.astype(np.int16)}, None, "found int16"),
        ({"a": SET.reshape(40, -1)}, None, "found uint8 (40, 768)"),
        ({"a": SET[None]}, None, "found uint8 (1, 40, 16, 16, 3)"),
        ({}, None, "found no array"),
        ({"images": SET}, "image", "--array image: no such array; did you mean images? Found: images: uint8"),
        ({"images": SET, "labels": np.arange(40)}, "labels", "--array labels: found int64 (40,)"),
        ({"a": MASKS.transpose(1, 2, 0)}, None, "found uint8 (16, 16, 40)"),
        ({"a": MASKS.transpose(1, 2, 0)}, None, "is it (H, W, N)? fix: save it as (N, H, W)"),
    ],
)
def test_what_is_no_set_of_images_is_refused(
    tmp_path: Path, arrays: dict[str, np.ndarray], asked: str | None, said: str
) -> None:
    with pytest.raises(DataError) as caught:
        read(tmp_path, arrays, asked)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("image", "said"),
    [
        (np.zeros((16, 16, 3), np.uint8), ["all images are black"]),
        (np.full((16, 16, 3), 255, np.uint8), ["all images are white"]),
        (np.full((16, 16, 3), 90, np.uint8), ["every image is of one colour"]),
        (np.full((16, 16, 3), [1, 2, 3], np.uint8), ["every image is of one colour"]),
        (SET[0] // 128, ["all values are 0 or 1, nearly black: images need 0 to 255"]),
        (SET[0] // 64, ["no value is above 3, nearly black: images need 0 to 255"]),
        (SET[0] // 64 + 252, ["no value is below 252, nearly white: images need 0 to 255"]),
        (
            (SET[0] / 127.5 - 1).astype(np.int8).astype(np.uint8),
            ["all values are 0, 1 or 255, as if -1 to 1 had been cast to bytes: images need 0 to 255"],
        ),
        (SET[0] * np.uint8([1, 0, 0]), ["green and blue have one value in all images: channels that were lost?"]),
        (SET[0] // 128 * 255, []),
        (SET[0], []),
    ],
)
def test_values_that_cannot_be_right_are_said(tmp_path: Path, image: np.ndarray, said: list[str]) -> None:
    assert read(tmp_path, {"a": np.stack([image] * 3)})[1][1:] == said


def test_images_of_one_colour_among_others_are_counted(tmp_path: Path) -> None:
    some = SET.copy()
    some[3:5] = 0  # what a safety filter leaves
    assert read(tmp_path, {"a": some})[1][1:] == ["2 of 40 images are of one colour"]


def test_a_file_that_is_no_array_is_passed_over(tmp_path: Path) -> None:
    np.savez(tmp_path / "a.npz", SET)
    with zipfile.ZipFile(tmp_path / "a.npz", "a") as archive:
        archive.writestr("README.txt", "x")
    with ImageFiles(tmp_path / "a.npz") as images:
        assert len(images) == 40
