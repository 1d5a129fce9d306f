"""`ablate measure` and `ablate doctor` as a user meets them: two sets, one set, pairs, bad input, weights that are not there."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch_fidelity
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from ablate.cli import main
from ablate.metrics.pair_distances import load_lpips
from ablate.metrics.weights import Search
from ablate.study.metric_names import EMBEDDED, METRICS

SHARED = Path(__file__).parents[3] / "shared"
SETS = ("fd", "fd_inf", "kd", "precision", "recall", "diversity_pd", "nearest_pd", "memorised_pd")


@dataclass(frozen=True)
class Done:
    """What a command left: its exit code and what it printed."""

    returncode: int
    stdout: str
    stderr: str


Run = Callable[..., Done]


@pytest.fixture
def ablate(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """The command line in this process: starting one that imports torch takes seconds."""

    def run(*words: str, cwd: Path, **environment: str) -> Done:
        with monkeypatch.context() as changed:
            changed.chdir(cwd)
            changed.setattr(sys, "argv", ["ablate", *words])
            for name, value in {"COLUMNS": "100", **environment}.items():
                changed.setenv(name, value)
            capsys.readouterr()
            with pytest.raises(SystemExit) as exited:
                main()
        said = capsys.readouterr()
        code = exited.value.code
        return Done(code if isinstance(code, int) else 0, said.out, said.err)

    return run


Measure = Callable[..., dict[str, dict[str, Any]]]


@pytest.fixture
def measure(ablate: Run) -> Measure:
    """The JSON of `ablate measure`."""

    def run(*words: str, cwd: Path, **environment: str) -> dict[str, dict[str, Any]]:
        done = ablate("measure", *words, "--json", cwd=cwd, **environment)
        assert done.returncode == 0, done.stderr
        found: dict[str, dict[str, Any]] = json.loads(done.stdout, parse_constant=pytest.fail)
        return found

    return run


def blobs(n: int, seed: int) -> np.ndarray:
    """Images (n, 64, 64, 3) of a few colours; those of seed 1 are darker."""
    colours = np.random.default_rng(seed).integers(0, 256, (n, 4, 4, 3), np.uint8) // (2 if seed == 1 else 1)
    return colours.repeat(16, 1).repeat(16, 2)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working folder with sets of images, its own cache, no weights and no network."""
    path = tmp_path_factory.mktemp("sets")
    for name, n, seed in (("real", 40, 0), ("fake", 24, 1)):
        (path / name).mkdir()
        for i, image in enumerate(blobs(n, seed)):
            Image.fromarray(image).save(path / name / f"{i:03}.png")
    np.savez(path / "fake.npz", images=blobs(24, 1))
    np.savez(path / "better.npz", images=blobs(24, 2))
    os.environ.update(ABLATE_CACHE=str(path / "cache"), TORCH_HOME=str(path / "torch"))
    os.environ.pop("ABLATE_WEIGHTS", None)
    yield path
    for name in ("ABLATE_CACHE", "TORCH_HOME"):
        del os.environ[name]


@pytest.mark.slow
def test_two_sets(folder: Path, ablate: Run, measure: Measure) -> None:
    found = measure("real", "fake", cwd=folder)
    assert tuple(found) == SETS
    for name in SETS:
        assert (found[name]["n"], found[name]["ref_n"]) == (24, 40)
        assert len(found[name]["weights_digest"]) == 64
    assert "floor" not in found["fd"]
    assert found["fd"]["note"] == (
        "N = 24 and reference N = 40 below the 1,280 features: covariance of no full rank; "
        "no real/real: N = 24 needs 48 different real images, found 40; --n 20 has one"
    )
    assert found["fd_inf"]["error"] > 0
    assert found["fd_inf"]["low"] < found["fd_inf"]["value"] < found["fd_inf"]["high"]
    assert found["memorised_pd"]["low"] == 0
    assert 0 < found["nearest_pd"]["value"] < found["diversity_pd"]["value"]
    # The same images in another form, and the second time from the cache.
    again = measure("real", "fake.npz", cwd=folder)
    assert again["fd"]["value"] == pytest.approx(found["fd"]["value"], rel=1e-6)
    shown = ablate("measure", "real", "fake", "--metric", "fd", cwd=folder)
    assert f"{found['fd']['value']:.2f}" in shown.stdout


@pytest.mark.slow
def test_the_floor_is_at_the_size_of_the_distance(folder: Path, ablate: Run, measure: Measure) -> None:
    found = measure("real", "fake", "--n", "12", "-m", "fd", "-m", "kd", cwd=folder)
    for name in ("fd", "kd"):
        assert (found[name]["n"], found[name]["floor_n"], found[name]["floor_ref_n"]) == (12, 12, 28)
    assert 0 < found["fd"]["floor"] < found["fd"]["value"]
    shown = ablate("measure", "real", "fake", "--metric", "fd", cwd=folder)
    assert "N = 24 needs 48 different real images, found 40; --n 20 has one" in " ".join(shown.stdout.split())


@pytest.mark.slow
def test_copies_are_said_and_stay_in_one_half(folder: Path, ablate: Run, tmp_path: Path) -> None:
    real = blobs(40, 0)
    np.savez(tmp_path / "twice.npz", np.concatenate([real[:20], real[:20]]))
    np.savez(tmp_path / "different.npz", real)
    floors = []
    for name in ("twice", "different"):
        done = ablate("measure", str(tmp_path / f"{name}.npz"), "-m", "fd", "--json", cwd=folder)
        found = json.loads(done.stdout)["fd"]
        floors.append(found["value"])
        assert (found["n"], found["ref_n"]) == (20, 20)
        assert ("20 of 40 images are exact copies of others" in done.stderr) is (name == "twice")
        assert f"N = {10 if name == 'twice' else 20} and reference" in found["note"]  # different images only
    assert floors[0] > 0.9 * floors[1]


def test_copies_of_one_image_have_no_halves(folder: Path, ablate: Run, tmp_path: Path) -> None:
    np.savez(tmp_path / "one.npz", np.concatenate([blobs(1, 0)] * 8))
    done = ablate("measure", str(tmp_path / "one.npz"), "-m", "fd", cwd=folder)
    assert done.returncode == 1
    assert "7 of 8 images are exact copies of others, which stay in one half; found 0" in done.stderr
    np.savez(tmp_path / "most.npz", np.concatenate([blobs(1, 0)] * 30 + [blobs(9, 1)]))
    most = ablate("measure", str(tmp_path / "most.npz"), "-m", "fd", cwd=folder)
    assert most.returncode == 1
    assert "29 of 39 images are exact copies of others, which stay in one half" in most.stderr


def test_images_that_are_in_the_reference_are_counted(ablate: Run, tmp_path: Path) -> None:
    np.savez(tmp_path / "real.npz", blobs(8, 0))
    np.savez(tmp_path / "fake.npz", np.concatenate([blobs(8, 0)[:3], blobs(5, 1)]))
    done = ablate("measure", "real.npz", "fake.npz", "-m", "fd", cwd=tmp_path)
    assert "note: fake.npz: 3 of 8 images are exact copies of images in real.npz" in done.stderr


@pytest.mark.slow
def test_images_are_paired_by_their_names(folder: Path, ablate: Run, measure: Measure, tmp_path: Path) -> None:
    images = blobs(11, 1)  # the fewest whose numbers have one and two digits
    np.savez(tmp_path / "mine.npz", images=images)
    for name, form in (("plain", "sample_{}.png"), ("padded", "{:05}.png"), ("letters", "{}.png")):
        (tmp_path / name).mkdir()
        for i, image in enumerate(images):
            Image.fromarray(image).save(tmp_path / name / form.format(i if name != "letters" else chr(97 + i)))
    for words in (("mine.npz", "plain"), ("plain", "mine.npz"), ("plain", "padded")):
        paths = [str(tmp_path / word) for word in words]
        assert measure(*paths, "-m", "pd", cwd=folder)["pd"]["value"] == pytest.approx(0, abs=1e-6)
        with_baseline = measure("real", paths[0], "--baseline", paths[1], "-m", "fd", cwd=folder)
        assert with_baseline["fd_difference"]["error"] == pytest.approx(0, abs=1e-3)
    mine, letters = str(tmp_path / "mine.npz"), str(tmp_path / "letters")
    for words in ((mine, letters, "-m", "pd"), ("real", mine, "--baseline", letters, "-m", "fd")):
        refused = ablate("measure", *words, cwd=folder)
        assert refused.returncode == 1
        assert "has no partner in" in refused.stderr
    alone = ablate("measure", "fake.npz", "-m", "pd", cwd=folder)
    assert "--metric pd: images are compared in pairs; fix: name a second set" in alone.stderr
    assert "numbers in their names" in " ".join(ablate("measure", "--help", cwd=folder).stdout.split())


@pytest.mark.slow
def test_one_array_of_several_is_chosen(folder: Path, ablate: Run, tmp_path: Path) -> None:
    np.savez(tmp_path / "both.npz", train_images=blobs(24, 1), val_images=blobs(24, 2))
    words = ("measure", str(tmp_path / "both.npz"), str(tmp_path / "both.npz"), "-m", "fd", "--json")
    assert (
        "2 arrays can be images: train_images: uint8 (24, 64, 64, 3), val_images" in ablate(*words, cwd=folder).stderr
    )
    done = ablate(*words, "--array", "val_images", cwd=folder)
    assert json.loads(done.stdout)["fd"]["n"] == 24
    assert done.stderr.count("array val_images of shape (24, 64, 64, 3) read as (N, H, W, C)") == 1


@pytest.mark.slow
def test_one_set_is_its_own_floor(folder: Path, measure: Measure) -> None:
    found = measure("real", "--metric", "fd", "--metric", "kd", "--seed", "3", cwd=folder)
    assert list(found) == ["fd", "kd"]
    assert (found["fd"]["n"], found["fd"]["ref_n"]) == (20, 20)
    assert "floor" not in found["fd"]
    assert found["fd"]["value"] > 1  # the halves have no image in common
    other = measure("real", "--metric", "fd", "--seed", "4", cwd=folder)
    assert other["fd"]["value"] != found["fd"]["value"]
    assert measure("real", "--metric", "fd", "--n", "8", cwd=folder)["fd"]["n"] == 8


@pytest.mark.slow
def test_a_part_and_a_paired_difference(folder: Path, measure: Measure) -> None:
    found = measure("real", "fake.npz", "--baseline", "better.npz", "--n", "20", "--metric", "fd", cwd=folder)
    assert list(found) == ["fd", "fd_difference"]
    assert found["fd"]["n"] == 20
    difference = found["fd_difference"]
    assert 0 < difference["low"] < difference["value"] < difference["high"]


@pytest.mark.slow
def test_pairs(folder: Path, measure: Measure) -> None:
    found = measure("fake", "fake.npz", "--metric", "psnr_db", "--metric", "pd", cwd=folder)
    assert found["pd"]["value"] == pytest.approx(0, abs=1e-6)
    assert found["psnr_db"]["value"] is None  # equal images: not a number that JSON has
    assert "equal" in found["psnr_db"]["note"]
    found = measure("fake.npz", "better.npz", "--metric", "psnr_db", cwd=folder)
    a, b = (np.load(folder / f"{name}.npz")["images"].astype(float) for name in ("fake", "better"))
    expected = np.mean([10 * np.log10(255**2 / ((x - y) ** 2).mean()) for x, y in zip(a, b, strict=True)])
    assert found["psnr_db"]["value"] == pytest.approx(expected, rel=1e-5)
    found = measure("real", "real", "--metric", "fd", cwd=folder)
    assert abs(found["fd"]["value"]) < 1e-2


def test_without_weights_a_metric_is_null_and_says_why(folder: Path, measure: Measure) -> None:
    found = measure(
        "real",
        "fake",
        "--metric",
        "fid",
        "--metric",
        "diversity_lpips",
        "--metric",
        "fd_dinov2_s",
        "--metric",
        "kd",
        cwd=folder,
    )
    for name in ("fid", "fd_dinov2_s", "diversity_lpips"):
        assert found[name]["value"] is None
        assert "ABLATE_OFFLINE forbids a download" in found[name]["note"]
    assert found["kd"]["value"] is not None


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"needs the real AlexNet weights in {SHARED}")
@pytest.mark.slow
def test_weights_at_hand_are_used_unasked(folder: Path, measure: Measure) -> None:
    found = measure("real", "fake", "--weights", str(SHARED / "weights"), cwd=folder)
    assert {"diversity_lpips", "nearest_lpips", "memorised_lpips"} < set(found)
    named = measure("fake", "fake.npz", "--metric", "lpips_vgg", cwd=folder, ABLATE_WEIGHTS=str(SHARED / "weights"))
    assert named["lpips_vgg"]["value"] == pytest.approx(0, abs=1e-6)


@pytest.mark.skipif(not SHARED.is_dir(), reason=f"needs the real AlexNet weights in {SHARED}")
@pytest.mark.parametrize("size", ["30", "31"])
@pytest.mark.slow
def test_lpips_of_images_too_small_for_its_network_is_null(folder: Path, measure: Measure, size: str) -> None:
    names = ("lpips", "diversity_lpips", "kd")
    asked = [word for name in names for word in ("--metric", name)]
    words = ("fake", "fake.npz", "--size", size, "--weights", str(SHARED / "weights"))
    found = measure(*words, *asked, cwd=folder)
    assert found["kd"]["value"] is not None
    for name in ("lpips", "diversity_lpips"):
        if size == "31":
            assert found[name]["value"] is not None
        else:
            assert found[name]["value"] is None
            assert "images of 30 x 30 pixels; lpips-alex needs sides of at least 31" in found[name]["note"]


def test_images_of_one_colour_are_numbers_all_the_same(folder: Path, measure: Measure, tmp_path: Path) -> None:
    np.savez(tmp_path / "flat.npz", np.full((12, 64, 64, 3), 200, np.uint8))
    found = measure(str(tmp_path / "flat.npz"), str(tmp_path / "flat.npz"), cwd=folder)
    assert found["fd_inf"]["value"] == pytest.approx(0, abs=1e-6)
    assert "error" not in found["fd_inf"]


def test_copies_are_found_among_real_images_with_copies_of_their_own(
    folder: Path, measure: Measure, tmp_path: Path
) -> None:
    real = blobs(40, 0)
    np.savez(tmp_path / "twice.npz", np.concatenate([real, real[:20]]))
    np.savez(tmp_path / "copies.npz", real[:30])
    found = measure(str(tmp_path / "twice.npz"), str(tmp_path / "copies.npz"), "-m", "memorised_pd", cwd=folder)
    assert found["memorised_pd"]["value"] == 1
    assert "copies?" in found["memorised_pd"]["note"]


@pytest.mark.slow
def test_the_seed_chooses_the_parts_of_the_extrapolation(folder: Path, measure: Measure) -> None:
    found = [measure("real", "fake", "-m", "fd", "-m", "fd_inf", "--seed", s, cwd=folder) for s in ("0", "1", "0")]
    assert found[0] == found[2]
    assert found[0]["fd"]["value"] == found[1]["fd"]["value"]
    assert found[0]["fd_inf"]["value"] != found[1]["fd_inf"]["value"]


@pytest.fixture
def bad(folder: Path, tmp_path: Path) -> Path:
    """A folder with what users get wrong."""
    for name in ("one", "few", "sizes", "modes", "weights", "vgg"):
        (tmp_path / name).mkdir()
    image = Image.fromarray(blobs(1, 0)[0])
    image.save(tmp_path / "one" / "a.png")
    for i in range(3):
        image.save(tmp_path / "few" / f"{i}.png")
    image.save(tmp_path / "sizes" / "a.png")
    image.resize((32, 48)).save(tmp_path / "sizes" / "b.png")
    for i, mode in enumerate(("L", "LA", "RGBA", "RGB")):
        image = Image.fromarray(blobs(4, 5)[i]).convert(mode)
        if "A" in mode:
            image.putalpha(128)
        image.save(tmp_path / "modes" / f"{i}.png")
    np.savez(tmp_path / "small.npz", blobs(24, 0)[:, ::2, ::2])
    (tmp_path / "weights" / "alexnet_features.safetensors").write_bytes(b"no weights")
    (tmp_path / "vgg" / "vgg16_features.safetensors").write_bytes(b"no weights")
    for name in ("real", "fake"):
        shutil.copytree(folder / name, tmp_path / name)
    return tmp_path


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["real", "one"], "one: found 1 image; a distance between sets needs at least 2 in each"),
        (["one"], "one: found 1 image; two halves need at least 4"),
        (["few"], "few: found 3 images; two halves need at least 4"),
        (
            ["real", "fake", "--baseline", "fake", "-m", "kd"],
            "--baseline: only a Frechet distance has a paired difference",
        ),
        (
            ["sizes", "real"],
            "sizes/b.png: 32 x 48 pixels, where sizes/a.png has 64 x 64; fix: --size crops and resizes all",
        ),
        (
            ["real", "small.npz"],
            "real has images of 64 x 64 pixels, small.npz has images of 32 x 32 pixels: the sizes differ",
        ),
        (["real", "fake", "--n", "25"], "--n 25: fake has 24 images; allowed: 2 to 24"),
        (["real", "--n", "21"], "--n 21: real has 40 images; allowed: 2 to 20 in each half"),
        (["real", "fake", "--n", "1"], "--n 1: fake has 24 images; allowed: 2 to 24"),
        (["real", "absent"], "absent: no such file or folder"),
        (["real", "fake", "--size", "0"], "real: size 0 asked for"),
        (["real", "fake", "--metric", "pd,fdi"], "--metric fdi: no such metric; did you mean fd? Allowed: fd, "),
        (["real", "fake", "--metric", "fdi"], "--metric fdi: no such metric; did you mean fd? Allowed: fd, "),
        (
            ["real", "fake", "--metric", "pd"],
            "fake: 24 images, real: 40; images are compared in pairs; fix: give as many in both",
        ),
        (
            ["real", "fake", "--baseline", "real"],
            "fake: 24 images, real: 40; images are compared in pairs; fix: give as many in both",
        ),
        (["real", "fake", "--weights", "absent"], "absent: no such folder of weights"),
        (["real", "fake", "--weights", "weights"], "alexnet_features.safetensors: damaged, or not a weight file"),
        (
            ["real", "real", "-m", "lpips_vgg", "--weights", "vgg"],
            "vgg16_features.safetensors: damaged, or not a weight file",
        ),
        (["real", "fake", "--device", "tpu"], "--device tpu: unknown device"),
    ],
)
def test_bad_input_is_one_clear_line(bad: Path, words: list[str], message: str, ablate: Run) -> None:
    done = ablate("measure", *words, cwd=bad)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.strip().splitlines()
    assert line.startswith("error: ")
    assert message in line


def test_greyscale_and_transparent_images_are_read_and_said(bad: Path, ablate: Run) -> None:
    done = ablate("measure", "real", "modes", "--metric", "fd", "--json", cwd=bad)
    assert done.returncode == 0, done.stderr
    assert "note: modes: greyscale images read as RGB" in done.stderr
    assert "note: modes: transparent images laid on white" in done.stderr
    assert json.loads(done.stdout)["fd"]["value"] > 0
    resized = ablate("measure", "sizes", "small.npz", "--size", "32", "--metric", "kd", "--json", cwd=bad)
    assert resized.returncode == 0, resized.stderr


@pytest.mark.slow
def test_doctor_shows_and_clears_the_cache(folder: Path, tmp_path: Path, ablate: Run, measure: Measure) -> None:
    cache = tmp_path / "cache"
    measure("real", "fake", "--metric", "fd", cwd=folder, ABLATE_CACHE=str(cache))
    (cache / "mine.txt").touch()
    (cache / "statistics" / "folder").mkdir()
    done = ablate("doctor", "--json", cwd=folder, ABLATE_CACHE=str(cache))
    found = json.loads(done.stdout)
    assert found["cache"]["folder"] == str(cache)
    assert found["cache"]["kinds"]["statistics"]["files"] == 1
    assert found["cache"]["kinds"]["statistics"]["bytes"] > 1e6
    assert found["offline"] is True
    assert found["weights"]["inception_v3"]["problem"].startswith("no weights for inception_v3 here")
    assert found["weights"]["efficientnet_lite0"]["problem"] is None
    shown = ablate("doctor", cwd=folder, ABLATE_CACHE=str(cache))
    assert "features of reference images" in shown.stdout
    cleared = ablate("doctor", "--clear", "statistics", cwd=folder, ABLATE_CACHE=str(cache))
    assert cleared.stdout.startswith("1 files deleted, ")
    assert sorted(path.name for path in cache.rglob("*")) == ["folder", "mine.txt", "statistics"]
    wrong = ablate("doctor", "--clear", "statistic", cwd=folder, ABLATE_CACHE=str(cache))
    assert wrong.returncode == 1
    assert "no such part of the cache; did you mean statistics?" in wrong.stderr


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (MemoryError(), "error: out of memory: this machine has no more; fix: use fewer or smaller images"),
        (MemoryError("Unable to allocate\n9 GiB"), "error: out of memory: Unable to allocate 9 GiB; fix:"),
        (RuntimeError("alloc_cpu: can't allocate memory: 9 bytes"), "can't allocate memory: 9 bytes; fix:"),
        (RuntimeError("CUDA out of memory. Tried to allocate 9 GiB"), "error: out of memory: CUDA out of memory."),
    ],
)
def test_running_out_of_memory_is_one_line(
    folder: Path, ablate: Run, monkeypatch: pytest.MonkeyPatch, error: Exception, said: str
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr(np, "stack", fail)
    done = ablate("measure", "real", "fake", "-m", "kd", cwd=folder)
    assert done.returncode == 1
    (line,) = done.stderr.strip().splitlines()
    assert said in line


def test_names_are_strict() -> None:
    assert {name for name, metric in METRICS.items() if metric.network == "inception-v3-compat"} == {
        *("fid", "fid_inf", "kid", "precision_inception", "recall_inception")
    }
    assert {name for name, metric in METRICS.items() if "lpips" in name} == {
        name for name, metric in METRICS.items() if (metric.network or "").startswith("lpips-")
    }


class Images(Dataset[Tensor]):
    """The form in which torch-fidelity takes images in memory."""

    def __init__(self, images: Tensor) -> None:
        self.images = images

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, i: int) -> Tensor:
        return self.images[i]


def write_as(kind: str, image: np.ndarray, path: Path) -> np.ndarray:
    """Write an image as a file of a kind; return the pixels (H, W, 3) that a viewer shows, found in another way."""
    plain = Image.fromarray(image)
    if kind == "JPEG":
        plain.save(path.with_suffix(".jpg"), quality=90)
        return np.asarray(Image.open(path.with_suffix(".jpg")).convert("RGB"))
    if kind == "palette":
        indices = (image[..., 0] // 64).astype(np.uint8)
        colours = np.array([[9, 8, 7], [250, 0, 100], [3, 200, 30], [90, 91, 92]], np.uint8)
        coded = Image.fromarray(indices, "P")
        coded.putpalette(colours.ravel().tolist())
        coded.save(path)
        return colours[indices]
    if kind == "greyscale":
        Image.fromarray(image[..., 0]).save(path)
        return image[..., :1].repeat(3, 2)
    if kind == "16-bit":
        Image.fromarray(image[..., 0].astype(np.uint16) * 257).save(path)
        return image[..., :1].repeat(3, 2)
    if kind == "rotated":
        exif = Image.Exif()
        exif[0x0112] = 3
        plain.save(path, exif=exif)
        return image[::-1, ::-1]
    if kind == "CMYK":
        ink = np.concatenate([image, image[..., :1] // 2], -1)
        Image.frombytes("CMYK", (64, 64), ink.tobytes()).save(path.with_suffix(".tif"))
        left = (255 - ink.astype(float)) / 255
        return np.rint(255 * left[..., :3] * left[..., 3:]).astype(np.uint8)
    plain.save(path)
    return image


@pytest.mark.slow
def test_files_of_every_kind_measure_as_their_pixels_do(folder: Path, measure: Measure, tmp_path: Path) -> None:
    """Equal to torch-fidelity, numpy and the `lpips` package on the pixels, to 1e-5."""
    kinds = ("PNG", "JPEG", "greyscale", "palette", "16-bit", "rotated", "CMYK")
    sets = {}
    for name, seed in (("one", 0), ("two", 2)):
        (tmp_path / name).mkdir()
        images = blobs(21, seed)
        sets[name] = np.stack(
            [write_as(kinds[i % 7], image, tmp_path / name / f"{i}.png") for i, image in enumerate(images)]
        )
    weights = ["--weights", str(SHARED / "weights"), "-m", "lpips"] if SHARED.is_dir() else []
    words = (str(tmp_path / "one"), str(tmp_path / "two"), "-m", "fd", "-m", "psnr_db", *weights)
    found = {name: entry["value"] for name, entry in measure(*words, cwd=folder).items()}
    x, y = (torch.from_numpy(sets[name].transpose(0, 3, 1, 2).copy()) for name in ("one", "two"))
    score = torch_fidelity.calculate_metrics(
        input1=Images(y), input2=Images(x), fid=True, feature_extractor=EMBEDDED, cuda=False,
        cache=False, verbose=False, save_cpu_ram=True,
    )  # fmt: skip
    assert found["fd"] == pytest.approx(score["frechet_inception_distance"], rel=1e-5)
    mse = ((x.double() - y.double()) ** 2).mean((1, 2, 3))
    assert found["psnr_db"] == pytest.approx(float((10 * torch.log10(255**2 / mse)).mean()), rel=1e-5)
    if weights:
        network = load_lpips("alex", search=Search(SHARED / "weights"))
        expected = float(network.model(y / 127.5 - 1, x / 127.5 - 1).mean())
        assert found["lpips"] == pytest.approx(expected, rel=1e-5)
