"""Pretrained weights of published networks: where they are found, and how they are checked.

The places, in order. A file must be the published one or hold its tensors:

1. `--weights DIR`, else the folder in `ABLATE_WEIGHTS`: `<name>.safetensors`, or the publisher's
   file;
2. the libraries' own downloads (`torch.hub.get_dir()/checkpoints`);
3. the publisher's address, unless `ABLATE_OFFLINE` is set or the caller forbids it. The file goes
   to the folder of 2.

Reference: AlexNet and VGG16 of torchvision (ImageNet), without their classifiers, for LPIPS; the
Inception-v3 of the original FID, converted from TensorFlow (Heusel et al., arXiv 1706.08500);
DINOv2 (Oquab et al., arXiv 2304.07193).
"""

from __future__ import annotations

import hashlib
import io
import os
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import load
from torch import Tensor

from ablate.base.errors import WeightsError
from ablate.base.progress import Progress
from ablate.metrics.downloads import Download, download, offline, recently_failed
from ablate.models.weight_files import digest
from ablate.study.config import TrainConfig
from ablate.study.metric_names import EMBEDDED, INCEPTION, Metric


@dataclass(frozen=True)
class Backbone:
    """A published weight file, and which of its tensors are used."""

    name: str
    url: str
    files: tuple[str, ...]  # the publisher's name, then other names of the same file
    prefix: str  # of the tensors that are used; "" for all
    file_sha256: str  # of the publisher's file
    digest: str | None  # of the tensors used; None: unknown, so only the publisher's file is accepted
    megabytes: int  # size of the download


def _dinov2(model: str, sha256: str, megabytes: int) -> Backbone:
    file = f"{model}_pretrain.pth"
    return Backbone(
        model, f"https://dl.fbaipublicfiles.com/dinov2/{model}/{file}", (file,), "", sha256, None, megabytes
    )


BACKBONES = {
    backbone.name: backbone
    for backbone in (
        Backbone(
            name="inception_v3",
            url="https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/"
            "weights-inception-2015-12-05-6726825d.pth",
            files=("weights-inception-2015-12-05-6726825d.pth", "pt_inception-2015-12-05-6726825d.pth"),
            prefix="",
            file_sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
            digest=None,
            megabytes=96,
        ),
        Backbone(
            name="alexnet_features",
            url="https://download.pytorch.org/models/alexnet-owt-7be5be79.pth",
            files=("alexnet-owt-7be5be79.pth",),
            prefix="features.",
            file_sha256="7be5be791159472b1fbf3c69796f7cb30dca7ad8466c2df70058c37116cdee02",
            digest="276812cc7430109e87ad2847e4409809bf867956c8a5e9621ae88a1bfcb08e76",
            megabytes=244,
        ),
        Backbone(
            name="vgg16_features",
            url="https://download.pytorch.org/models/vgg16-397923af.pth",
            files=("vgg16-397923af.pth",),
            prefix="features.",
            file_sha256="397923af8e79cdbb6a7127f12361acd7a2f83e06b05044ddf496e83de57a5bf0",
            digest="d649de3c8126095cbd4ddf98051ee4c6eb54127548e4623473d5a202c46418fe",
            megabytes=553,
        ),
        _dinov2("dinov2_vits14", "b938bf1bc15cd2ec0feacfe3a1bb553fe8ea9ca46a7e1d8d00217f29aef60cd9", 88),
        _dinov2("dinov2_vitb14", "0b8b82f85de91b424aded121c7e1dcc2b7bc6d0adeea651bf73a13307fad8c73", 346),
        _dinov2("dinov2_vitl14", "d5383ea8f4877b2472eb973e0fd72d557c7da5d3611bd527ceeb1d7162cbf428", 1218),
        _dinov2("dinov2_vitg14", "baf8467e50af277596bbbafa06887c177ee899ab46033649c383577d7e9309d3", 4546),
    )
}


DEFAULT = (INCEPTION, "lpips-alex")  # the networks that are measured with unless metrics are named
BACKBONE_OF = {
    INCEPTION: "inception_v3",
    "lpips-alex": "alexnet_features",
    "lpips-vgg": "vgg16_features",
    **{f"dinov2-vit-{size}-14": f"dinov2_vit{size}14" for size in "sblg"},
}  # network -> name of its weights


def networks_of(metrics: Collection[Metric]) -> list[str]:
    """Return the networks with weights of their own that metrics need; without metrics those of `fid` and `lpips`."""
    named = {metric.network for metric in metrics if metric.network}
    return sorted(named - {EMBEDDED}) if metrics else list(DEFAULT)


def loss_weights(config: TrainConfig) -> str | None:
    """Return the name of the weights to download for a training loss, or None."""
    return BACKBONE_OF["lpips-vgg"] if config.perceptual == "lpips_vgg" else None


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


def find_weights(name: str, search: Search) -> Weights:
    """Return the weights of a backbone.

    Args:
        name: A key of `BACKBONES`.
        search: Where they may come from.

    Raises:
        WeightsError: They are not on this machine and were not downloaded, or a file has another
            digest.
    """
    if local_file(name, search) is None and (problems := fetch([name], search)):
        raise WeightsError(problems[name])
    path = local_file(name, search)
    assert path is not None
    return _read(BACKBONES[name], path)


def fetch(
    names: Collection[str], search: Search, progress: Progress | None = None, *, retry: bool = False
) -> dict[str, str]:
    """Download the weights that are not on this machine, all at once.

    Args:
        names: Keys of `BACKBONES`.
        search: Where they may come from.
        progress: Shows size and source; None: lines on stderr.
        retry: Also try what failed within the last hour.

    Returns:
        Name -> why its weights are not here, in one line. Nothing for those that are here.
    """
    absent = [BACKBONES[name] for name in names if local_file(name, search) is None]
    if not absent:
        return {}
    if offline():
        failed = {backbone.name: "ABLATE_OFFLINE forbids a download" for backbone in absent}
    elif not search.download:
        how = "ablate weights --fetch {} downloads them ({} MB)"
        failed = {backbone.name: how.format(backbone.name, backbone.megabytes) for backbone in absent}
    else:
        files = [
            Download(one.name, one.url, hub_folder() / "checkpoints" / one.files[0], one.file_sha256, one.megabytes)
            for one in absent
        ]
        failed = download(files, progress or Progress(enabled=False), retry=retry)
        failed = {name: f"the download failed: {why}" for name, why in failed.items()}
    return {
        one.name: f"no weights for {one.name} here (put {_file_names(one)} into --weights DIR); {failed[one.name]}"
        for one in absent
        if one.name in failed
    }


def obtainable(name: str, search: Search) -> bool:
    """Return whether weights are on this machine, or a download of them may be tried now."""
    if local_file(name, search) is not None:
        return True
    return search.download and not offline() and not recently_failed(name)


def _file_names(backbone: Backbone) -> str:
    return f"{backbone.name}.safetensors or {backbone.files[0]}" if backbone.digest else backbone.files[0]


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
    published = hashlib.sha256(content).hexdigest() == backbone.file_sha256
    try:
        state = load(content) if path.suffix == ".safetensors" else _unpack(content)
        tensors = {key: value for key, value in state.items() if key.startswith(backbone.prefix)}
        tensors_digest = digest(tensors)
    # A damaged file can raise anything: SafetensorError, UnpicklingError, EOFError,
    # AttributeError...
    except Exception as error:
        raise WeightsError(f"{path}: damaged, or not a weight file ({type(error).__name__}); {fix}") from error
    if not published and tensors_digest != backbone.digest:
        raise WeightsError(f"{path}: other weights (digest {tensors_digest[:12]}...); {fix}")
    return Weights(tensors, tensors_digest, path)


def _unpack(content: bytes) -> dict[str, Tensor]:
    """Read PyTorch's format without running code from it."""
    state: dict[str, Tensor] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    return state
