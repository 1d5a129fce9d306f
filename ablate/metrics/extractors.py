"""The networks whose features are compared, and the extraction of features from a stream of images.

    name                  metrics                    input              features
    efficientnet-lite0    fd kd                      224 px bicubic     1280 (a Python package)
    inception-v3-compat   fid kid                    299 px bilinear    2048 (see `weights`)
    dinov2-vit-*-14       fd_dinov2_* kd_dinov2_*    224 px bilinear    384 to 1536 (see `weights`)

Bilinear is TensorFlow 1's. All take uint8 RGB and are registered with torch-fidelity under these
names. Features are float32, computed without TF32 or autocast.

Reference: Szegedy et al., arXiv 1512.00567 (Inception-v3); Oquab et al., arXiv 2304.07193 (DINOv2);
Stein et al., arXiv 2306.04675 (DINOv2 as an extractor).
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor, nn
from torch_fidelity.feature_extractor_base import FeatureExtractorBase
from torch_fidelity.feature_extractor_dinov2 import FeatureExtractorDinoV2
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY, register_feature_extractor

from ablate.base.errors import DataError, WeightsError
from ablate.metrics.downloads import offline
from ablate.metrics.efficientnet import FEATURES, RESIZE, EfficientNetLite0, efficientnet_lite0, full_precision
from ablate.metrics.weights import BACKBONE_OF, Search, find_weights, hub_folder
from ablate.study.metric_names import EMBEDDED, INCEPTION

BATCH = 32  # images
BATCH_PIXELS = 2**20  # of larger images, fewer are computed at once
DINOV2_COMMIT = "7764ea0f912e53c92e82eb78a2a1631e92725fc8"  # of the code; newest of the repository in 2025


def batch_size(height: int, width: int, most: int = BATCH) -> int:
    """Return how many images of a size are computed at once, so that memory does not grow with it."""
    return max(1, min(most, BATCH_PIXELS // (height * width)))


@dataclass(frozen=True)
class Extractor:
    """A network that maps uint8 images (B, 3, H, W) to features (B, D) float32.

    Attributes:
        name: As registered with torch-fidelity.
        network: The network, frozen, in evaluation mode.
        digest: Names the weights.
        transform: Names the preprocessing of the images.
    """

    name: str
    network: nn.Module
    digest: str
    transform: str

    def __call__(self, images: Tensor) -> Tensor:
        """Return features (B, D) float32 of uint8 images (B, 3, H, W), on the images' device."""
        with full_precision(images.device):
            features: Tensor | tuple[Tensor, ...] = self.network(images)
        return (features[0] if isinstance(features, tuple) else features).float()

    @property
    def device(self) -> torch.device:
        """Where the network computes."""
        return next(self.network.parameters()).device


def load_extractor(name: str, device: torch.device | str = "cpu", search: Search | None = None) -> Extractor:
    """Return an extractor.

    Args:
        name: A key of `EXTRACTORS`.
        device: Where it computes.
        search: Where its weights may come from; None: this machine only.

    Raises:
        WeightsError: Its weights are not available.
    """
    # Weights created in a caller's inference mode could not be used in a training loss later.
    with torch.inference_mode(False):
        return EXTRACTORS[name](torch.device(device), search or Search())


def extract(
    batches: Iterable[np.ndarray | Tensor], extractor: Extractor, on_batch: Callable[[int], None] = lambda n: None
) -> Iterator[Tensor]:
    """Yield the features of images, batch by batch. Memory does not depend on their number.

    Args:
        batches: (B, 3, H, W) uint8 each, B >= 1.
        extractor: The network.
        on_batch: Called after each batch with the number of its images.

    Yields:
        (B, D) float32 on the CPU.

    Raises:
        DataError: A batch has another dtype or shape.
    """
    device = extractor.device
    for batch in batches:
        images = torch.from_numpy(batch) if isinstance(batch, np.ndarray) else batch
        if images.dtype != torch.uint8 or images.ndim != 4 or images.shape[1] != 3 or not len(images):
            found = f"{str(images.dtype).removeprefix('torch.')} {tuple(images.shape)}"
            raise DataError(f"images to extract features from: found {found}, expected uint8 (B, 3, H, W) with B >= 1")
        with torch.inference_mode():
            features = extractor(images.to(device)).cpu()
        yield features
        on_batch(len(features))


def _efficientnet(device: torch.device, search: Search) -> Extractor:
    network = efficientnet_lite0(device)
    return Extractor(EMBEDDED, network, network.digest, f"bicubic{RESIZE} antialias-where-shrinking float32")


def _inception(device: torch.device, search: Search) -> Extractor:
    weights = find_weights("inception_v3", search)
    # torch-fidelity unpickles a file; it gets one written here from tensors that were read safely
    # and checked.
    file = io.BytesIO()
    torch.save(dict(weights.tensors), file)
    file.seek(0)
    layer = FeatureExtractorInceptionV3.get_default_feature_layer_for_metric("fid")
    network = FeatureExtractorInceptionV3(INCEPTION, [layer], feature_extractor_weights_path=file)
    network = network.to(device).to(memory_format=torch.channels_last)  # two thirds of the time on a CPU
    return Extractor(INCEPTION, network, weights.digest, "bilinear299 tensorflow1 float32")


class _DinoV2(FeatureExtractorDinoV2):  # type: ignore[misc]
    """torch-fidelity's extractor around a loaded network: its own constructor downloads one."""

    def __init__(self, name: str, model: nn.Module) -> None:
        FeatureExtractorBase.__init__(self, name, ["dinov2"])
        self.feature_extractor_internal_dtype = torch.float32
        self.model = model
        self.requires_grad_(False).eval()


def _dinov2(name: str, device: torch.device, search: Search) -> Extractor:
    """Load DINOv2: its authors' code at a pinned commit, and the published weights."""
    weights = find_weights(BACKBONE_OF[name], search)
    code = hub_folder() / f"facebookresearch_dinov2_{DINOV2_COMMIT}"
    try:
        if code.is_dir():
            network = torch.hub.load(str(code), BACKBONE_OF[name], source="local", pretrained=False, verbose=False)
        elif offline() or not search.download:
            raise WeightsError(f"no code for {name} in {code}; a download is not allowed")
        else:
            network = torch.hub.load(
                f"facebookresearch/dinov2:{DINOV2_COMMIT}",
                BACKBONE_OF[name],
                pretrained=False,
                trust_repo=True,
                skip_validation=True,
                verbose=False,
            )
        network.load_state_dict(weights.tensors)
    except WeightsError:
        raise
    except Exception as error:  # a damaged file, no network, or anything that the code raises
        reason = " ".join(f"{type(error).__name__}: {error}".split())
        raise WeightsError(f"{name}: {code} cannot be loaded ({reason}); fix: remove it") from error
    return Extractor(name, _DinoV2(name, network).to(device), weights.digest, "bilinear224 tensorflow1 float32")


EXTRACTORS: dict[str, Callable[[torch.device, Search], Extractor]] = {
    EMBEDDED: _efficientnet,
    INCEPTION: _inception,
    **{name: partial(_dinov2, name) for name in BACKBONE_OF if name.startswith("dinov2")},
}


class FidelityExtractor(FeatureExtractorBase):  # type: ignore[misc]
    """EfficientNet-Lite0 as a torch-fidelity feature extractor with one layer, `1280`."""

    def __init__(self, name: str, features_list: list[str], **kwargs: object) -> None:
        """Accept torch-fidelity's arguments; its other options have no effect."""
        super().__init__(name, features_list)
        self.network = EfficientNetLite0()

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        """Return the names of the layers."""
        return (str(FEATURES),)

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        """Return the layer for a metric; there is no classifier, so no inception score."""
        return {"fid": str(FEATURES), "kid": str(FEATURES), "prc": str(FEATURES)}[metric]

    @staticmethod
    def can_be_compiled() -> bool:
        """Return False: compilation would take minutes."""
        return False

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Return the features of uint8 images (B, 3, H, W), as the only entry of a tuple."""
        return (self.network(images),)


if EMBEDDED not in FEATURE_EXTRACTORS_REGISTRY:
    register_feature_extractor(EMBEDDED, FidelityExtractor)
