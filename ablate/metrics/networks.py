"""The networks of the metrics: the embedded ones, and those whose weights are on this machine or fetched."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path

import torch

from ablate.base.errors import WeightsError
from ablate.base.progress import Progress
from ablate.metrics.efficientnet import efficientnet_lite0
from ablate.metrics.extractors import Extractor, load_extractor
from ablate.metrics.pair_distances import SMALLEST_SIDE, Distance, PerceptualDistance, load_lpips
from ablate.metrics.weights import BACKBONE_OF, Search, fetch, local_file
from ablate.study.metric_names import EMBEDDED, PERCEPTUAL


@dataclass(frozen=True)
class MetricNetworks:
    """The loaded networks of a study's metrics.

    Attributes:
        device: Where the networks compute.
        extractors: By name, for distances between sets; the embedded one first.
        distances: By metric name (`pd`, `lpips`), for distances between images; the embedded one
            first.
        missing: Network -> why it could not be loaded, one line each.
        search: Where weights may come from.
    """

    device: torch.device
    extractors: dict[str, Extractor]
    distances: dict[str, Distance]
    missing: dict[str, str]
    search: Search = field(default_factory=Search)

    @property
    def loaded(self) -> tuple[str, ...]:
        """The loaded networks, without the embedded ones."""
        loaded = {*self.extractors, *(PERCEPTUAL[name] for name in self.distances)}
        return tuple(network for network in BACKBONE_OF if network in loaded)


def load_networks(
    wanted: Collection[str],
    folder: Path | None,
    device: torch.device,
    *,
    offline: bool = False,
    smallest_side: int | None = None,
    progress: Progress | None = None,
) -> MetricNetworks:
    """Load the embedded networks and those that are wanted, downloading their weights if need be.

    Args:
        wanted: Networks, as `networks_of` returns them.
        folder: A folder of weights; None: `ABLATE_WEIGHTS`.
        device: Where the networks compute.
        offline: Download nothing.
        smallest_side: The shorter side of the images, in pixels; None: unknown. Networks that need
            larger images are missing.
        progress: Shows downloads; None: lines on stderr.

    Raises:
        WeightsError: The folder does not exist, or a file in it does not hold the weights that its
            name promises.
    """
    search = Search(folder, download=not offline)
    networks = MetricNetworks(
        device,
        extractors={EMBEDDED: load_extractor(EMBEDDED, device)},
        distances={"pd": PerceptualDistance(efficientnet_lite0(device))},
        missing={},
        search=search,
    )
    if smallest_side is not None:
        networks.missing.update(too_large(wanted, smallest_side, smallest_side))
    loadable = [network for network in wanted if network not in networks.missing]
    problems = fetch([BACKBONE_OF[network] for network in loadable], search, progress)
    for network in loadable:
        backbone = BACKBONE_OF[network]
        if backbone in problems:
            networks.missing[network] = problems[backbone]
            continue
        try:
            _load(network, networks, search)
        except WeightsError as error:
            path = local_file(backbone, search)
            if path is not None and path.parent == search.folder:  # the user put it there: it must be right
                raise
            networks.missing[network] = str(error)
    return networks


def weight_paths(networks: MetricNetworks, folder: Path | None) -> list[Path]:
    """Return the weight files of loaded networks, without the embedded ones."""
    paths = [local_file(BACKBONE_OF[network], Search(folder)) for network in networks.loaded]
    return [path for path in paths if path is not None]


def too_large(networks: Collection[str], width: int, height: int) -> dict[str, str]:
    """Return which of these networks need larger images than of width x height pixels, and why."""
    needed = {f"lpips-{net}": smallest for net, smallest in SMALLEST_SIDE.items()}
    return {
        network: f"images of {width} x {height} pixels; {network} needs sides of at least {needed[network]}"
        for network in networks
        if min(width, height) < needed.get(network, 0)
    }


def _load(network: str, networks: MetricNetworks, search: Search) -> None:
    if network.startswith("lpips-"):
        name = next(metric for metric, its_network in PERCEPTUAL.items() if its_network == network)
        with torch.inference_mode(False):
            networks.distances[name] = load_lpips(network.removeprefix("lpips-"), networks.device, search)
    else:
        networks.extractors[network] = load_extractor(network, networks.device, search)
