"""Pretrained weights of published networks, with pinned digests, downloaded only when asked for.

The places, in order. A file must be the published one or hold its tensors:

1. `--weights DIR`, else the folder in `ABLATE_WEIGHTS`: `<name>.safetensors`, or the publisher's
   file;
2. the libraries' own downloads (`torch.hub.get_dir()/checkpoints`);
3. the publisher's address, if the caller allows a download and `ABLATE_OFFLINE` is not set. A
   failed download is not repeated within an hour (`ablate doctor --clear weights` allows it at
   once).

Reference: AlexNet and VGG16 of torchvision (ImageNet), without their classifiers, for LPIPS; the
Inception-v3 of the original FID, converted from TensorFlow (Heusel et al., arXiv 1706.08500).
"""

from __future__ import annotations

import hashlib
import io
import os
import socket
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
from safetensors.torch import load
from torch import Tensor

from ablate.base.errors import WeightsError
from ablate.models.weight_files import digest
from ablate.store.atomic_files import replacing
from ablate.store.cache import cache_folder

T = TypeVar("T")
RETRY_S = 3600.0  # after a failed download
TIMEOUT_S = 20.0  # of a network read


@dataclass(frozen=True)
class Backbone:
    """A published weight file, and which of its tensors are used."""

    name: str
    url: str
    files: tuple[str, ...]  # the publisher's name, then other names of the same file
    prefix: str  # of the tensors that are used; "" for all
    file_sha256: str  # of the publisher's file, or its first digits, which torchvision puts into the name
    digest: str | None  # of the tensors used; None: unknown, so only the publisher's file is accepted
    megabytes: int  # size of the download


BACKBONES = {
    backbone.name: backbone
    for backbone in (
        Backbone(
            name="alexnet_features",
            url="https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
            files=("alexnet-owt-7be5be79.pth",),
            prefix="features.",
            file_sha256="7be5be79",
            digest="276812cc7430109e87ad2847e4409809bf867956c8a5e9621ae88a1bfcb08e76",
            megabytes=233,
        ),
        Backbone(
            name="vgg16_features",
            url="https://download.pytorch.org/models/vgg16-397923af.pth",
            files=("vgg16-397923af.pth",),
            prefix="features.",
            file_sha256="397923af",
            digest="d649de3c8126095cbd4ddf98051ee4c6eb54127548e4623473d5a202c46418fe",
            megabytes=528,
        ),
        Backbone(
            name="inception_v3",
            url="https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
            "weights-inception-2015-12-05-6726825d.pth",
            files=("weights-inception-2015-12-05-6726825d.pth", "pt_inception-2015-12-05-6726825d.pth"),
            prefix="",
            file_sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
            digest=None,
            megabytes=91,
        ),
    )
}


@dataclass(frozen=True)
class Weights:
    """Tensors of a backbone, their digest, and the file that they come from."""

    tensors: Mapping[str, Tensor]
    digest: str
    source: Path


@dataclass(frozen=True)
class Search:
    """Where weights may come from.

    Attributes:
        folder: A folder of weights; None: the one in `ABLATE_WEIGHTS`, where that is set.
        download: Whether a download is allowed. `ABLATE_OFFLINE` forbids it in any case.
    """

    folder: Path | None = None
    download: bool = False

    def __post_init__(self) -> None:
        """Default the folder to the one in the environment.

        Raises:
            WeightsError: The folder does not exist.
        """
        if self.folder is None and os.environ.get("ABLATE_WEIGHTS"):
            object.__setattr__(self, "folder", Path(os.environ["ABLATE_WEIGHTS"]))
        if self.folder is not None and not self.folder.is_dir():
            raise WeightsError(
                f"{self.folder}: no such folder of weights; fix: give another one with --weights or ABLATE_WEIGHTS"
            )


def offline() -> bool:
    """Return whether `ABLATE_OFFLINE` forbids the network."""
    return os.environ.get("ABLATE_OFFLINE", "") not in ("", "0")


def find_weights(name: str, search: Search) -> Weights:
    """Return the weights of a backbone.

    Args:
        name: A key of `BACKBONES`.
        search: Where they may come from.

    Raises:
        WeightsError: They are not on this machine and were not downloaded, or a file has another
            digest.
    """
    backbone = BACKBONES[name]
    return _read(backbone, local_file(name, search) or _download(backbone, search))


def local_file(name: str, search: Search) -> Path | None:
    """Return the file of a backbone on this machine, unchecked, or None."""
    backbone = BACKBONES[name]
    places = [hub_folder() / "checkpoints" / file for file in backbone.files]
    if search.folder is not None:
        places = [*(search.folder / file for file in (f"{name}.safetensors", *backbone.files)), *places]
    return next((path for path in places if path.is_file()), None)


def hub_folder() -> Path:
    """Return the folder of torch.hub's downloads: `TORCH_HOME`/hub, or one in the user's cache."""
    return Path(torch.hub.get_dir())


def _read(backbone: Backbone, path: Path) -> Weights:
    """Read a file and check that it is the published one, or holds the same tensors."""
    fix = f"expected {backbone.name}, as published at {backbone.url}; fix: replace or remove it"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror}); {fix}") from error
    published = hashlib.sha256(content).hexdigest().startswith(backbone.file_sha256)
    try:
        state = load(content) if path.suffix == ".safetensors" else _unpack(content)
        tensors = {key: value for key, value in state.items() if key.startswith(backbone.prefix)}
        found = digest(tensors)
    # A damaged file can raise anything: SafetensorError, UnpicklingError, EOFError,
    # AttributeError...
    except Exception as error:
        raise WeightsError(f"{path}: damaged, or not a weight file ({type(error).__name__}); {fix}") from error
    if not published and found != backbone.digest:
        raise WeightsError(f"{path}: other weights (digest {found[:12]}...); {fix}")
    return Weights(tensors, found, path)


def _unpack(content: bytes) -> dict[str, Tensor]:
    """Read PyTorch's format without running code from it."""
    state: dict[str, Tensor] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return state


def _download(backbone: Backbone, search: Search) -> Path:
    """Download the publisher's file into torch.hub's folder."""
    target = hub_folder() / "checkpoints" / backbone.files[0]

    def action() -> Path:
        target.parent.mkdir(parents=True, exist_ok=True)
        # torch.hub checks the digest before it renames the file: other programs read it there too.
        torch.hub.download_url_to_file(backbone.url, str(target), hash_prefix=backbone.file_sha256, progress=False)
        return target

    names = f"{backbone.name}.safetensors or {backbone.files[0]}" if backbone.digest else backbone.files[0]
    missing = f"no weights for {backbone.name} here (put {names} into --weights DIR)"
    return fetch(backbone.name, missing, backbone.megabytes, backbone.url, action, search)


def fetch(name: str, missing: str, megabytes: int, address: str, action: Callable[[], T], search: Search) -> T:
    """Run a download if it is allowed and has not just failed.

    Args:
        name: Names the file that records a failure.
        missing: What is not on this machine; the start of every message.
        megabytes: Size of the download.
        address: The source, for messages.
        action: The download.
        search: Says whether a download is allowed.

    Raises:
        WeightsError: The download is not allowed, or it failed now or within the last hour.
    """
    if offline():
        raise WeightsError(f"{missing}; ABLATE_OFFLINE forbids a download")
    if not search.download:
        raise WeightsError(f"{missing}; a --metric asked for by name downloads them ({megabytes} MB)")
    marker = cache_folder() / "weights" / f"{name}.failed"
    with suppress(OSError, ValueError):
        age_s = time.time() - marker.stat().st_mtime
        if 0 <= age_s < RETRY_S:
            reason = marker.read_text(encoding="utf-8")
            raise WeightsError(
                f"{missing}; the download failed {age_s / 60:.0f} min ago ({reason}) and is not tried again within the "
                "hour; ablate doctor --clear weights retries at once"
            )
    timeout = socket.getdefaulttimeout()
    socket.setdefaulttimeout(TIMEOUT_S)
    try:
        return action()
    except Exception as error:  # URLError, HTTPError, a timeout, a full disk: none may end a study
        reason = " ".join(str(error).split()) or type(error).__name__
        with suppress(OSError), replacing(marker) as temporary:
            temporary.write_text(reason, encoding="utf-8")
        raise WeightsError(f"{missing}; downloading {address} failed: {reason}") from error
    finally:
        socket.setdefaulttimeout(timeout)
