"""Weights of networks that others trained: found on this machine, checked against a pinned digest, downloaded only when asked.

A backbone is looked for in this order; what is found must be the published file, or hold its tensors:
1. `--weights DIR`, else the folder in `ABLATE_WEIGHTS`: `<name>.safetensors`, or the file that its publisher hands out;
2. the libraries' own downloads (`torch.hub.get_dir()/checkpoints`);
3. the publisher's address, where the caller allows a download and `ABLATE_OFFLINE` is not set. A download that failed is not tried again
   for an hour (`ablate doctor --clear weights` forgets that).

Reference: AlexNet and VGG16 of torchvision (ImageNet), without their classifiers, for LPIPS; the Inception-v3 of the original FID,
converted from TensorFlow (Heusel et al., arXiv 1706.08500).
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
TIMEOUT_S = 20.0  # without a byte from the network


@dataclass(frozen=True)
class Backbone:
    """A published file of weights and what is taken from it."""

    name: str
    url: str
    files: tuple[str, ...]  # its names: the publisher's, and others under which the same bytes are handed out
    prefix: str  # the tensors that are used; "" for all
    file_sha256: str  # of the publisher's file; for torchvision's the first digits, which stand in the file's name
    digest: str | None  # of the tensors used; None: not known, so only the publisher's file is accepted
    megabytes: int  # of the download


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
            url="https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/weights-inception-2015-12-05-6726825d.pth",
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
    """Tensors of a backbone, the digest that names them, and where they were found."""

    tensors: Mapping[str, Tensor]
    digest: str
    source: Path


@dataclass(frozen=True)
class Search:
    """Where weights may come from.

    Attributes:
        folder: A folder of weights; None: the one in `ABLATE_WEIGHTS`, where that is set.
        download: Whether the network may be asked; never where `ABLATE_OFFLINE` is set.
    """

    folder: Path | None = None
    download: bool = False

    def __post_init__(self) -> None:
        """Take the folder from the environment.

        Raises:
            WeightsError: The folder does not exist.
        """
        if self.folder is None and os.environ.get("ABLATE_WEIGHTS"):
            object.__setattr__(self, "folder", Path(os.environ["ABLATE_WEIGHTS"]))
        if self.folder is not None and not self.folder.is_dir():
            raise WeightsError(
                f"{self.folder}: no such folder of weights; give another one with --weights or ABLATE_WEIGHTS"
            )


def offline() -> bool:
    """Return whether `ABLATE_OFFLINE` forbids the network."""
    return os.environ.get("ABLATE_OFFLINE", "") not in ("", "0")


def find(name: str, search: Search) -> Weights:
    """Return the weights of a backbone.

    Args:
        name: A key of `BACKBONES`.
        search: Where they may come from.

    Raises:
        WeightsError: They are not on this machine and may not or could not be downloaded; or a file has another digest.
    """
    backbone = BACKBONES[name]
    path = at_hand(name, search)
    if path is None:
        path = _download(backbone, search)
    return _read(backbone, path)


def at_hand(name: str, search: Search) -> Path | None:
    """Return the file of a backbone on this machine, not checked yet, or None."""
    backbone = BACKBONES[name]
    places = [hub_folder() / "checkpoints" / file for file in backbone.files]
    if search.folder is not None:
        places = [*(search.folder / file for file in (f"{name}.safetensors", *backbone.files)), *places]
    return next((path for path in places if path.is_file()), None)


def hub_folder() -> Path:
    """Return where the libraries keep what they download: `TORCH_HOME`/hub, or the user's cache folder's."""
    return Path(torch.hub.get_dir())


def _read(backbone: Backbone, path: Path) -> Weights:
    """Read a file and check that it is the published one, or holds the same tensors."""
    mend = f"expected {backbone.name}, as published at {backbone.url}; mend: replace or remove it"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise WeightsError(f"{path}: cannot be read ({error.strerror}); {mend}") from error
    published = hashlib.sha256(content).hexdigest().startswith(backbone.file_sha256)
    try:
        state = load(content) if path.suffix == ".safetensors" else _unpack(content)
        tensors = {key: value for key, value in state.items() if key.startswith(backbone.prefix)}
        found = digest(tensors)
    # Readers meet damage with whatever its bytes lead to: SafetensorError, UnpicklingError, EOFError, AttributeError...
    except Exception as error:
        raise WeightsError(f"{path}: damaged, or not a file of weights ({type(error).__name__}); {mend}") from error
    if not published and found != backbone.digest:
        raise WeightsError(f"{path}: other weights (digest {found[:12]}...); {mend}")
    return Weights(tensors, found, path)


def _unpack(content: bytes) -> dict[str, Tensor]:
    """Read PyTorch's own format without running code from it."""
    state: dict[str, Tensor] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return state


def _download(backbone: Backbone, search: Search) -> Path:
    """Fetch the publisher's file to where the libraries keep theirs."""
    target = hub_folder() / "checkpoints" / backbone.files[0]

    def action() -> Path:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Checked before it takes its place: other programs look for it there too.
        torch.hub.download_url_to_file(backbone.url, str(target), hash_prefix=backbone.file_sha256, progress=False)
        return target

    missing = f"no weights for {backbone.name} here (put {backbone.name}.safetensors or {backbone.files[0]} into --weights DIR)"
    if backbone.digest is None:
        missing = f"no weights for {backbone.name} here (put {backbone.files[0]} into --weights DIR)"
    return fetch(backbone.name, missing, backbone.megabytes, backbone.url, action, search)


def fetch(name: str, missing: str, megabytes: int, address: str, action: Callable[[], T], search: Search) -> T:
    """Do what needs the network, where that is allowed and has not just failed.

    Args:
        name: Names the marker of a failure.
        missing: What is not on this machine; the head of every message.
        megabytes: How much is downloaded.
        address: From where.
        action: The download.
        search: Whether it is allowed.

    Raises:
        WeightsError: It is not allowed, or it failed, now or within the last hour.
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
    except Exception as error:  # URLError, HTTPError, timeouts, a full disk: none of them may end a study
        reason = " ".join(str(error).split()) or type(error).__name__
        with suppress(OSError), replacing(marker) as temporary:
            temporary.write_text(reason, encoding="utf-8")
        raise WeightsError(f"{missing}; downloading {address} failed: {reason}") from error
    finally:
        socket.setdefaulttimeout(timeout)
