"""The networks of the metrics: the embedded ones, those asked for, and those with local weights."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from ablate.base.errors import WeightsError
from ablate.metrics.efficientnet import efficientnet_lite0
from ablate.metrics.extractors import Extractor, load_extractor
from ablate.metrics.pair_distances import TRUNKS, Distance, PerceptualDistance, load_lpips
from ablate.metrics.weights import Search, local_file
from ablate.study.metric_names import EMBEDDED, INCEPTION, PERCEPTUAL, Metric

_BACKBONES = {INCEPTION: "inception_v3", **{f"lpips-{net}": trunk for net, trunk in TRUNKS.items()}}  # by network
_OPTIONAL = (INCEPTION, "lpips-alex")  # loaded where their weights are on this machine, even if nobody asked


@dataclass(frozen=True)
class MetricNetworks:
    """The loaded networks of a study's metrics.

    Attributes:
        device: Where the networks compute.
        extractors: By name, for distances between sets; the embedded one first.
        distances: By metric name (`pd`, `lpips`), for distances between images; the embedded one
            first.
        missing: Network -> why it could not be loaded, one line each.
    """

    device: torch.device
    extractors: dict[str, Extractor]
    distances: dict[str, Distance]
    missing: dict[str, str]

    def restricted_to(self, extractors: Collection[str], distances: Collection[str]) -> MetricNetworks:
        """Return these networks without extractors and distances that are not named."""
        return replace(
            self,
            extractors={name: network for name, network in self.extractors.items() if name in extractors},
            distances={name: distance for name, distance in self.distances.items() if name in distances},
        )


def load_networks(asked: Collection[Metric], folder: Path | None, device: torch.device) -> MetricNetworks:
    """Load the embedded networks, those asked for (with a download), those with local weights.

    Args:
        asked: Metrics that the user named.
        folder: A folder of weights; None: `ABLATE_WEIGHTS`.
        device: Where the networks compute.

    Raises:
        WeightsError: The folder does not exist, or a file in it does not hold the weights that its
            name promises.
    """
    asked_for = {metric.network for metric in asked if metric.network}
    networks = MetricNetworks(
        device,
        extractors={EMBEDDED: load_extractor(EMBEDDED, device)},
        distances={"pd": PerceptualDistance(efficientnet_lite0(device))},
        missing={},
    )
    for network in (*_OPTIONAL, *sorted(asked_for - set(_OPTIONAL) - {EMBEDDED})):
        search = Search(folder, download=network in asked_for)
        try:
            _load(network, networks, search)
        except WeightsError as error:
            path = local_file(_BACKBONES[network], search) if network in _BACKBONES else None
            if path is not None and path.parent == search.folder:  # the user put it there: it must be right
                raise
            networks.missing[network] = str(error)
    return networks


def weight_paths(networks: MetricNetworks, folder: Path | None) -> list[Path]:
    """Return the weight files of loaded networks, without the embedded ones."""
    loaded = {*networks.extractors, *(PERCEPTUAL[name] for name in networks.distances)}
    paths = [local_file(backbone, Search(folder)) for network, backbone in _BACKBONES.items() if network in loaded]
    return [path for path in paths if path is not None]


def _load(network: str, networks: MetricNetworks, search: Search) -> None:
    if network.startswith("lpips-"):
        name = next(metric for metric, its_network in PERCEPTUAL.items() if its_network == network)
        with torch.inference_mode(False):
            networks.distances[name] = load_lpips(network.removeprefix("lpips-"), networks.device, search)
    else:
        networks.extractors[network] = load_extractor(network, networks.device, search)
