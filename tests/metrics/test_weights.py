"""Weights: found, checked, never taken for what they are not, downloaded only when asked, and not again right after a failure."""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from ablate.base.errors import WeightsError
from ablate.metrics import weights
from ablate.metrics.weights import BACKBONES, Search, find_weights
from ablate.models.weight_files import digest as tensors_digest

TENSORS = {"features.0.weight": torch.ones(2, 3), "features.0.bias": torch.zeros(2), "classifier.weight": torch.ones(4)}
USED = {name: tensor for name, tensor in TENSORS.items() if name.startswith("features.")}


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A machine with nothing on it, and an AlexNet of three tensors, published as a file."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("ABLATE_CACHE", str(tmp_path / "cache"))
    for name in ("ABLATE_WEIGHTS", "ABLATE_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "published"
    folder.mkdir()
    published = BACKBONES["alexnet_features"]
    path = folder / published.files[0]
    torch.save(TENSORS, path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    small = replace(published, url=path.as_uri(), file_sha256=digest[:8], digest=tensors_digest(USED))
    monkeypatch.setitem(BACKBONES, "alexnet_features", small)
    return folder


def test_the_publishers_file_and_a_safetensors_file_are_the_same_weights(tmp_path: Path, elsewhere: Path) -> None:
    save_file(USED, tmp_path / "alexnet_features.safetensors")
    found = [find_weights("alexnet_features", Search(folder)) for folder in (elsewhere, tmp_path)]
    assert [f.source.suffix for f in found] == [".pth", ".safetensors"]
    for f in found:
        assert f.digest == tensors_digest(USED)
        assert f.tensors.keys() == USED.keys()


def test_the_environment_names_the_folder(elsewhere: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ABLATE_WEIGHTS", str(elsewhere))
    assert find_weights("alexnet_features", Search()).source.parent == elsewhere
    monkeypatch.setenv("ABLATE_WEIGHTS", str(tmp_path / "absent"))
    with pytest.raises(WeightsError, match="absent: no such folder of weights"):
        Search()


def test_a_download_happens_once_and_only_when_asked(elsewhere: Path) -> None:
    with pytest.raises(WeightsError, match=r"no weights for alexnet_features here.*asked for by name downloads them"):
        find_weights("alexnet_features", Search())
    first = find_weights("alexnet_features", Search(download=True))
    (elsewhere / first.source.name).unlink()
    assert find_weights("alexnet_features", Search()).source == first.source


def test_a_download_of_something_else_is_not_kept(elsewhere: Path, tmp_path: Path) -> None:
    (elsewhere / BACKBONES["alexnet_features"].files[0]).write_text("<html>Sign in to this network</html>")
    with pytest.raises(WeightsError, match="failed: invalid hash value"):
        find_weights("alexnet_features", Search(download=True))
    assert not list((tmp_path / "torch").rglob("*.pth"))


def test_offline_never_downloads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABLATE_OFFLINE", "1")
    with pytest.raises(WeightsError, match="ABLATE_OFFLINE forbids a download"):
        find_weights("alexnet_features", Search(download=True))
    monkeypatch.setenv("ABLATE_OFFLINE", "0")
    find_weights("alexnet_features", Search(download=True))


def test_a_failed_download_is_one_line_and_not_tried_again(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, elsewhere: Path
) -> None:
    tried: list[str] = []

    def fail(url: str, *_: object, **__: object) -> None:
        tried.append(url)
        raise OSError("network\nunreachable")

    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    ask = Search(download=True)
    with pytest.raises(WeightsError, match="failed: network unreachable") as error:
        find_weights("alexnet_features", ask)
    assert "\n" not in str(error.value)
    with pytest.raises(WeightsError, match=r"failed 0 min ago \(network unreachable\) and is not tried again"):
        find_weights("alexnet_features", ask)
    assert len(tried) == 1
    (marker,) = (tmp_path / "cache" / "weights").iterdir()
    an_hour_ago = time.time() - weights.RETRY_S - 1
    os.utime(marker, (an_hour_ago, an_hour_ago))
    with pytest.raises(WeightsError):
        find_weights("alexnet_features", ask)
    assert len(tried) == 2
    assert find_weights("alexnet_features", Search(elsewhere, download=True)).digest  # what is at hand needs no network


Damage = Callable[[Path], object]


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"no weights"),
        lambda path: path.write_bytes(path.read_bytes()[:-9]),
        lambda path: save_file({**USED, "features.0.bias": torch.ones(2)}, path),
        lambda path: save_file({"features.0.bias": torch.zeros(2)}, path),
    ],
    ids=["empty", "text", "cut", "another value", "a tensor less"],
)
def test_other_weights_are_refused(tmp_path: Path, damage: Damage) -> None:
    path = tmp_path / "alexnet_features.safetensors"
    save_file(USED, path)
    damage(path)
    with pytest.raises(WeightsError, match=r"alexnet_features\.safetensors: (damaged|other weights).*fix: replace"):
        find_weights("alexnet_features", Search(tmp_path))


def test_a_file_that_runs_code_is_refused(tmp_path: Path) -> None:
    class Call:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return (os.mkdir, (str(tmp_path / "ran"),))

    torch.save({"features.0.weight": Call()}, tmp_path / BACKBONES["vgg16_features"].files[0])
    with pytest.raises(WeightsError, match=r"damaged, or not a weight file \(UnpicklingError\)"):
        find_weights("vgg16_features", Search(tmp_path))
    assert not (tmp_path / "ran").exists()


def test_inception_is_the_published_file_and_nothing_else(tmp_path: Path) -> None:
    torch.save(TENSORS, tmp_path / BACKBONES["inception_v3"].files[0])
    with pytest.raises(WeightsError, match="other weights"):
        find_weights("inception_v3", Search(tmp_path))
    (tmp_path / BACKBONES["inception_v3"].files[0]).unlink()
    save_file(TENSORS, tmp_path / "inception_v3.safetensors")
    with pytest.raises(WeightsError, match="other weights"):
        find_weights("inception_v3", Search(tmp_path))
