"""Which images of two sets are compared with each other, and when that cannot be known."""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from image_bytes import encode, noise

from ablate.base.errors import DataError
from ablate.data.image_files import ImageFiles
from ablate.data.pairing import match_by_name


def named(root: Path, names: Sequence[str]) -> Path:
    """Return a folder of images of these names, each of its own colour."""
    for i, name in enumerate(names):
        path = root / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(np.full((4, 4, 3), i, np.uint8)))
    return root


def rows(path: Path, count: int) -> Path:
    np.savez(path, noise(count, 4))
    return path


def partners(a: Path, b: Path) -> list[str]:
    """Return the name of the partner of each image of the first set, in its order."""
    with ImageFiles(a) as one, ImageFiles(b) as two:
        places = match_by_name(one, two)
        return [str(i) if two.names is None else two.names[i] for i in places]


TWELVE = range(12)


@pytest.mark.parametrize(
    ("a", "b"),
    [
        ([f"{i}" for i in TWELVE], [f"{i:05}" for i in TWELVE]),
        ([f"sample_{i}" for i in TWELVE], [f"{i}" for i in TWELVE]),
        ([f"step9_{i}" for i in TWELVE], [f"step10_{i}" for i in TWELVE]),
        ([f"real-{i}-64x64" for i in TWELVE], [f"{i}_fake" for i in TWELVE]),
        ([f"a/{i}" for i in TWELVE], [f"b/c/{i:03}" for i in TWELVE]),
        ([f"{i // 4}/{i % 4}" for i in TWELVE], [f"{i // 4}_{i % 4:02}" for i in TWELVE]),
        ([f"{i}" for i in range(3, 15)], [f"x{i}" for i in range(3, 15)]),
    ],
)
def test_numbers_in_names_make_pairs(tmp_path: Path, a: list[str], b: list[str]) -> None:
    order = sorted(range(12), key=a.__getitem__)
    assert partners(named(tmp_path / "one", a), named(tmp_path / "two", b)) == [b[i] for i in order]


@pytest.mark.parametrize(
    ("a", "b", "expected"),  # names, in text order; the partners of those in `a`
    [
        (["alice", "bob 2", "eve"], ["eve", "bob 2", "alice"], ["alice", "bob 2", "eve"]),
        (["x/1", "y/1"], ["y/1", "x/1"], ["x/1", "y/1"]),
        (["x/7a", "y/9"], ["9", "7a"], ["7a", "9"]),
        (["only"], ["other"], ["other"]),
        (
            ["s0_i0", "s0_i1", "s1_i0", "s1_i1"],
            ["i0_s0", "i0_s1", "i1_s0", "i1_s1"],
            ["i0_s0", "i1_s0", "i0_s1", "i1_s1"],
        ),
        (["s0_i0", "s0_i1", "s1_i0", "s1_i1"], ["0-0", "0-1", "1-0", "1-1"], ["0-0", "0-1", "1-0", "1-1"]),
    ],
)
def test_equal_names_make_pairs(tmp_path: Path, a: list[str], b: list[str], expected: list[str]) -> None:
    assert partners(named(tmp_path / "one", a), named(tmp_path / "two", b)) == expected


def test_numbers_too_long_for_python_are_read(tmp_path: Path) -> None:
    for name, form in (("one", "{}_{}.png"), ("two", "x{}_{:02}.png")):
        with zipfile.ZipFile(tmp_path / f"{name}.zip", "w") as archive:
            for i in TWELVE:
                archive.writestr(form.format("7" * 5000, i), encode(noise(1)[0]))
    names = partners(tmp_path / "one.zip", tmp_path / "two.zip")
    assert [int(name[-2:]) for name in names] == sorted(TWELVE, key=str)


def test_suffixes_do_not_count(tmp_path: Path) -> None:
    one = named(tmp_path / "one", ["a.b", "c"])
    (one / "c.png").rename(one / "c.bmp")
    assert partners(one, named(tmp_path / "two", ["c", "a.b"])) == ["a.b", "c"]


@pytest.mark.parametrize("first", [0, 1])
def test_rows_pair_with_files_numbered_from_0_or_1(tmp_path: Path, first: int) -> None:
    names = [f"sample_{i + first}" for i in TWELVE]
    folder, array = named(tmp_path / "files", names), rows(tmp_path / "rows.npz", 12)
    assert partners(array, folder) == names
    assert partners(folder, array) == [str(names.index(name)) for name in sorted(names)]
    assert partners(array, array) == [str(i) for i in TWELVE]


@pytest.mark.parametrize(
    ("a", "b", "said"),
    [
        (["alice", "bob"], ["alice", "eve"], "one: bob has no partner in two (alice, ...)"),
        (["a1", "a2", "a3"], ["b2", "b3", "b4"], "one: a1 has no partner in two (b2, ...)"),
        (["1a", "1b", "2"], ["1", "2", "3"], "one: 1a has more than one possible partner in two (1, ...)"),
        (["cat1", "cat2"], ["cat1", "cat"], "no partner"),
        (["1_1", "1_2", "2_1"], ["1", "2", "3"], "no partner"),
        (["1", "2"], ["1", "2", "3"], "one: 2 images, two: 3; images are compared in pairs"),
        (["x/1", "y/1"], ["1", "2"], "no partner"),
        (["1", "01"], ["1", "2"], "no partner"),
        (["5", "7"], None, "no partner"),
        (["alice", "bob"], None, "no partner"),
    ],
)
def test_names_that_do_not_match_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, a: list[str], b: list[str] | None, said: str
) -> None:
    monkeypatch.chdir(tmp_path)
    one = named(Path("one"), a)
    two = rows(Path("two.npz"), 2) if b is None else named(Path("two"), b)
    with pytest.raises(DataError) as caught:
        partners(one, two)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
