"""Weights: found, checked, downloaded once, resumed, and never taken for what they are not."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import command
import pytest
import torch
from publisher import Publisher, publisher
from safetensors.torch import save_file

from ablate.base.errors import WeightsError
from ablate.metrics import downloads
from ablate.metrics.weights import BACKBONES, Search, fetch, find_weights, obtainable
from ablate.models.weight_files import digest as tensors_digest

NAME = "alexnet_features"
TENSORS = {"features.0.weight": torch.ones(2, 3), "features.0.bias": torch.zeros(2), "classifier.weight": torch.ones(4)}
USED = {name: tensor for name, tensor in TENSORS.items() if name.startswith("features.")}
ASK = Search(download=True)


@pytest.fixture(scope="module")
def server() -> Iterator[Publisher]:
    with publisher() as server:
        yield server


@pytest.fixture(autouse=True)
def published(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, server: Publisher) -> Path:
    """A machine with nothing on it, and an AlexNet of three tensors that a server publishes. Return a folder with the file."""
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setenv("ABLATE_CACHE", str(tmp_path / "cache"))
    for name in ("ABLATE_WEIGHTS", "ABLATE_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    folder = tmp_path / "published"
    folder.mkdir()
    backbone = BACKBONES[NAME]
    path = folder / backbone.files[0]
    torch.save(TENSORS, path)
    vars(server).update(files={f"/{path.name}": path.read_bytes()}, ranges=True, cut_at=None, pause_s=0.0, silent=False)
    server.requests.clear()
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    small = replace(backbone, url=f"{server.url}/{path.name}", file_sha256=sha256, digest=tensors_digest(USED))
    monkeypatch.setitem(BACKBONES, NAME, small)
    return folder


@pytest.fixture
def target(tmp_path: Path) -> Path:
    """Where a download goes."""
    return tmp_path / "torch" / "hub" / "checkpoints" / BACKBONES[NAME].files[0]


@pytest.fixture
def part(target: Path) -> Path:
    """What an interrupted download leaves."""
    target.parent.mkdir(parents=True)
    return target.with_name(f"{target.name}.part")


def test_the_publishers_file_and_a_safetensors_file_are_the_same_weights(tmp_path: Path, published: Path) -> None:
    save_file(USED, tmp_path / "alexnet_features.safetensors")
    found = [find_weights(NAME, Search(folder)) for folder in (published, tmp_path)]
    assert [f.source.suffix for f in found] == [".pth", ".safetensors"]
    for f in found:
        assert f.digest == tensors_digest(USED)
        assert f.tensors.keys() == USED.keys()


def test_the_environment_names_the_folder(published: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ABLATE_WEIGHTS", str(published))
    assert find_weights(NAME, Search()).source.parent == published
    monkeypatch.setenv("ABLATE_WEIGHTS", str(tmp_path / "absent"))
    with pytest.raises(WeightsError, match="absent: no such folder of weights"):
        Search()


def test_a_file_is_downloaded_once_and_told(
    server: Publisher, target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(WeightsError, match=r"no weights for alexnet_features here.*ablate weights --fetch"):
        find_weights(NAME, Search())
    assert find_weights(NAME, ASK).source == target
    first, second = capsys.readouterr().err.splitlines()
    assert first == f"{NAME}: downloading 244 MB from {BACKBONES[NAME].url}"
    assert second.startswith(f"{NAME}: 0.0 MB in 0 s, saved as {target}")
    find_weights(NAME, ASK)
    find_weights(NAME, Search())
    assert len(server.requests) == 1
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_offline_never_downloads(server: Publisher, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ABLATE_OFFLINE", "1")
    with pytest.raises(WeightsError, match="ABLATE_OFFLINE forbids a download"):
        find_weights(NAME, ASK)
    assert not server.requests
    monkeypatch.setenv("ABLATE_OFFLINE", "0")
    find_weights(NAME, ASK)


def test_an_interrupted_download_goes_on(server: Publisher, published: Path, target: Path, part: Path) -> None:
    whole = (published / target.name).read_bytes()
    part.write_bytes(whole[:100])
    find_weights(NAME, ASK)
    assert server.requests == [(f"/{target.name}", "bytes=100-")]
    assert target.read_bytes() == whole
    # Nothing is left to send.
    target.unlink()
    part.write_bytes(whole)
    find_weights(NAME, ASK)
    # A server without ranges sends all.
    target.unlink()
    part.write_bytes(whole[:100])
    server.ranges = False
    find_weights(NAME, ASK)
    # A part of another file is thrown away.
    server.ranges = True
    target.unlink()
    part.write_bytes(b"another file")
    find_weights(NAME, ASK)
    assert target.read_bytes() == whole
    assert not part.exists()


def test_ctrl_c_keeps_the_part_and_remembers_no_failure(
    server: Publisher, published: Path, target: Path, tmp_path: Path
) -> None:
    server.pause_s = 0.001
    part = target.with_name(f"{target.name}.part")
    seen = command.when(lambda: part.is_file() and part.stat().st_size, lambda: os.kill(os.getpid(), signal.SIGINT))
    with seen, pytest.raises(KeyboardInterrupt):
        find_weights(NAME, ASK)
    assert part.is_file()
    server.pause_s = 0.0
    find_weights(NAME, ASK)
    assert len(server.requests) == 2
    assert target.read_bytes() == (published / target.name).read_bytes()
    assert not list((tmp_path / "cache" / "weights").glob("*.failed"))


def test_a_connection_that_breaks_is_resumed(server: Publisher, published: Path, target: Path) -> None:
    whole = (published / target.name).read_bytes()
    server.cut_at = len(whole) // 3
    find_weights(NAME, ASK)
    starts = [asked for _, asked in server.requests]
    assert starts[:2] == [None, f"bytes={server.cut_at}-"]
    assert target.read_bytes() == whole


Trouble = Callable[[Publisher], object]


@pytest.mark.parametrize(
    ("trouble", "why"),
    [
        (lambda s: s.files.clear(), "HTTP 404 Not Found"),
        (lambda s: vars(s).update(cut_at=7), r"cut the file off after 28 of [\d,]+ bytes"),
        (lambda s: vars(s).update(pause_s=0.02), r"is too slow: 0\.\d kB/s"),
        (lambda s: vars(s).update(silent=True), r"no network, or 127\.0\.0\.1:\d+ does not answer within 0.3 s"),
        (lambda s: s.files.update(dict.fromkeys(s.files, b"<html>Sign in</html>")), "sent another file: 20 bytes"),
    ],
    ids=["404", "cut off", "slow", "silent", "another file"],
)
def test_a_failed_download_is_one_line_and_not_tried_again(
    trouble: Trouble, why: str, server: Publisher, target: Path, monkeypatch: pytest.MonkeyPatch, published: Path
) -> None:
    monkeypatch.setattr(downloads, "ANSWER_S", 0.3)
    monkeypatch.setattr(downloads, "PACE_S", 0.2)
    trouble(server)
    assert obtainable(NAME, ASK)
    with pytest.raises(WeightsError, match=f"the download failed: .*{why}") as error:
        find_weights(NAME, ASK)
    assert "\n" not in str(error.value)
    assert not target.exists()
    assert not obtainable(NAME, ASK)
    tried = len(server.requests)
    with pytest.raises(WeightsError, match=rf"{why}.* \(0 min ago; not tried again within the hour"):
        find_weights(NAME, ASK)
    assert len(server.requests) == tried
    vars(server).update(cut_at=None, pause_s=0.0, silent=False)
    server.files[f"/{target.name}"] = (published / target.name).read_bytes()
    assert fetch([NAME], ASK, retry=True) == {}  # `ablate weights --fetch`
    find_weights(NAME, Search())


def test_a_failure_is_forgotten_after_an_hour(server: Publisher, tmp_path: Path, published: Path) -> None:
    files, server.files = server.files, {}
    with pytest.raises(WeightsError, match="404"):
        find_weights(NAME, ASK)
    assert find_weights(NAME, Search(published, download=True)).digest  # what is at hand needs no network
    server.files = files
    an_hour_ago = time.time() - downloads.RETRY_S - 1
    os.utime(tmp_path / "cache" / "weights" / f"{NAME}.failed", (an_hour_ago, an_hour_ago))
    find_weights(NAME, ASK)


def test_a_dead_network_costs_its_time_once_for_all_files(server: Publisher, monkeypatch: pytest.MonkeyPatch) -> None:
    assert downloads.ANSWER_S < 5
    monkeypatch.setattr(downloads, "ANSWER_S", 0.5)
    server.silent = True
    for name in BACKBONES:
        monkeypatch.setitem(BACKBONES, name, replace(BACKBONES[name], url=f"{server.url}/{name}"))
    start = time.monotonic()
    assert fetch(list(BACKBONES), ASK).keys() == BACKBONES.keys()
    assert time.monotonic() - start < 1
    monkeypatch.setitem(BACKBONES, NAME, replace(BACKBONES[NAME], url="http://absent.invalid/file"))
    assert "no network, or absent.invalid" in fetch([NAME], ASK, retry=True)[NAME]


def test_two_at_once_download_once(server: Publisher, target: Path) -> None:
    server.pause_s = 0.0002
    problems: list[dict[str, str]] = []
    threads = [threading.Thread(target=lambda: problems.append(fetch([NAME], ASK))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == [{}, {}, {}]
    assert len(server.requests) == 1
    assert target.is_file()


def test_the_command_lists_and_fetches(server: Publisher, target: Path, tmp_path: Path) -> None:
    listed = command.ablate("weights", cwd=tmp_path)
    assert listed.returncode == 0
    assert all(name in listed.stdout for name in BACKBONES)
    assert f"missing, from {server.url}" in listed.stdout
    done = command.ablate("weights", "--fetch", "lpips", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert target.is_file()
    assert str(target) in command.ablate("weights", "lpips", "--json", cwd=tmp_path).stdout
    target.unlink()
    server.files.clear()
    failed = command.ablate("weights", "--fetch", NAME, cwd=tmp_path)
    assert failed.returncode == 1
    assert "HTTP 404 Not Found" in failed.stderr.splitlines()[-1]
    unknown = command.ablate("weights", "lpip", cwd=tmp_path)
    assert "no such weights" in unknown.stderr


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
