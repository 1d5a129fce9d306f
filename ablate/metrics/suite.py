"""The networks that are at hand for a study, and what they measure of one set of pictures: the same for a run and for any two folders."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from ablate.base.errors import WeightsError
from ablate.metrics import weights
from ablate.metrics.efficientnet import efficientnet_lite0
from ablate.metrics.extractors import Extractor, load
from ablate.metrics.neighbours import Neighbours, diversity, embed, memorisation, nearest
from ablate.metrics.pair_distances import TRUNKS, Distance, PerceptualDistance, load_lpips
from ablate.metrics.set_distances import (
    NEIGHBOURHOOD,
    Estimate,
    Features,
    frechet_distance,
    frechet_infinity,
    kernel_distance,
    precision_recall,
)
from ablate.metrics.weights import Search
from ablate.study.metric_names import EMBEDDED, INCEPTION, PERCEPTUAL, SETS, Metric

QUERIES = 256  # samples, and real pictures beside them, whose nearest training picture is looked for
DIVERSE = 512  # samples whose diversity is measured
SMALLEST = {"frechet": 2, "infinity": 8, "kernel": 2, "precision": NEIGHBOURHOOD + 1, "recall": NEIGHBOURHOOD + 1}

_FILES = {INCEPTION: "inception_v3", **{f"lpips-{net}": trunk for net, trunk in TRUNKS.items()}}  # -> weights' name
_UNASKED = (INCEPTION, "lpips-alex")  # used where they are at hand, though nobody asked


@dataclass(frozen=True)
class Suite:
    """What pictures are measured with.

    Attributes:
        device: Where the networks compute.
        extractors: By name, for distances between sets; the embedded one first.
        distances: By metric name (`pd`, `lpips`), for distances between pictures; the embedded one first.
        missing: Network -> why it is not here, one line each.
    """

    device: torch.device
    extractors: dict[str, Extractor]
    distances: dict[str, Distance]
    missing: dict[str, str]


def assemble(asked: Collection[Metric], folder: Path | None, device: torch.device) -> Suite:
    """Load the networks: the embedded one, those asked for (downloading them if need be), and those whose weights are at hand.

    Args:
        asked: Metrics that were asked for by name.
        folder: A folder of weights; None: `ABLATE_WEIGHTS`.
        device: Where they compute.

    Raises:
        WeightsError: The folder does not exist, or a file in it is not what its name says.
    """
    asked_for = {metric.network for metric in asked if metric.network}
    suite = Suite(device, {}, {}, {})
    suite.extractors[EMBEDDED] = load(EMBEDDED, device)
    suite.distances["pd"] = PerceptualDistance(efficientnet_lite0(device))
    for network in (*_UNASKED, *sorted(asked_for - set(_UNASKED) - {EMBEDDED})):
        search = Search(folder, download=network in asked_for)
        try:
            _load(network, suite, search)
        except WeightsError as error:
            path = weights.at_hand(_FILES[network], search) if network in _FILES else None
            if path is not None and path.parent == search.folder:
                raise
            suite.missing[network] = str(error)
    return suite


def files_of(suite: Suite, folder: Path | None) -> list[Path]:
    """Return the files of weights that a suite was loaded from, with the folder that it was assembled with; the embedded ones excepted."""
    loaded = {*suite.extractors, *(PERCEPTUAL[name] for name in suite.distances)}
    paths = [weights.at_hand(_FILES[network], Search(folder)) for network in _FILES if network in loaded]
    return [path for path in paths if path is not None]


def only(suite: Suite, extractors: Collection[str], distances: Collection[str]) -> Suite:
    """Return a suite without networks that another one, of these extractors and distances, does not have."""
    kept = {name: network for name, network in suite.extractors.items() if name in extractors}
    return Suite(suite.device, kept, {n: d for n, d in suite.distances.items() if n in distances}, suite.missing)


def _load(network: str, suite: Suite, search: Search) -> None:
    if network.startswith("lpips-"):
        name = next(name for name, its in PERCEPTUAL.items() if its == network)
        with torch.inference_mode(False):
            suite.distances[name] = load_lpips(network.removeprefix("lpips-"), suite.device, search)
    else:
        suite.extractors[network] = load(network, suite.device, search)


def between(fake: Features, real: Features, kinds: Collection[str] = SETS, seed: int = 0) -> dict[str, Estimate]:
    """Return the distances between two sets by kind; a kind that needs more pictures than there are is left out.

    `seed` chooses the parts of the extrapolation.
    """
    smallest = min(len(fake.rows), len(real.rows))
    able = [kind for kind in SETS if kind in kinds and smallest >= SMALLEST[kind]]
    found: dict[str, Estimate] = {}
    if "frechet" in able:
        found["frechet"] = Estimate(frechet_distance(fake.statistics, real.statistics))
    if "infinity" in able:
        found["infinity"] = frechet_infinity(fake.rows, real.rows, seed)
    if "kernel" in able:
        found["kernel"] = kernel_distance(fake.rows, real.rows)
    if "precision" in able or "recall" in able:
        pair = precision_recall(fake.rows, real.rows)
        found |= {kind: Estimate(x) for kind, x in zip(("precision", "recall"), pair, strict=True) if kind in able}
    return found


def used(kind: str, features: Features) -> int:
    """Return how many pictures of a set enter a kind: all the Frechet distance, the rest no more than are kept."""
    return features.statistics.n if kind == "frechet" else len(features.rows)


def rank_warning(fake: Features, real: Features) -> str | None:
    """Say where there are fewer pictures than features, so that a covariance has no full rank."""
    d, n, m = len(real.statistics.mu), fake.statistics.n, real.statistics.n
    few = [
        f"N = {size:,}" if side == "fake" else f"reference N = {size:,}"
        for side, size in (("fake", n), ("real", m))
        if size <= d
    ]
    return f"{' and '.join(few)} below the {d:,} features: covariance of no full rank" if few else None


@dataclass(frozen=True)
class Looks:
    """What a perceptual distance says of samples, and beside it of real pictures that are not candidates: kind -> estimate."""

    samples: dict[str, Estimate]
    real: dict[str, Estimate]
    counts: dict[str, int]  # kind -> pictures used of the samples
    real_counts: dict[str, int]
    memorised: bool
    neighbours: Neighbours  # of the samples


def look(
    samples: np.ndarray,
    real: np.ndarray,
    candidates: Callable[[], Iterable[np.ndarray]],
    distance: Distance,
    device: torch.device,
    *,
    within: bool = False,
    on_batch: Callable[[int], None] = lambda n: None,
) -> Looks:
    """Measure samples' diversity and their distance to training pictures.

    Args:
        samples: (N, 3, H, W) uint8; the first 512 are used for diversity, the first 256 for neighbours.
        real: (M, 3, H, W) uint8, pictures of the same kind; as many of them are used.
        candidates: Starts a stream of the training pictures: (B, 3, H, W) uint8.
        distance: A perceptual distance.
        device: Where it computes.
        within: Whether the real pictures are candidates too; then neither they nor copies of them are their own neighbours.
        on_batch: Called with the number of candidates done.
    """
    with torch.inference_mode():
        of_samples, of_real = (embed(x[:DIVERSE], distance, device) for x in (samples, real))
        spread = [Estimate(diversity(e)) for e in (of_samples, of_real)]
        queries = torch.cat([of_samples[:QUERIES], of_real[:QUERIES]])
        count = min(len(of_samples), QUERIES)
        skip: dict[bytes, list[int]] = {}
        for i, picture in enumerate(real[:QUERIES] if within else ()):
            skip.setdefault(picture.tobytes(), []).append(count + i)
        found = nearest(queries, candidates(), distance, skip=skip, on_batch=on_batch)
    near, held = found.distance[:count], found.distance[count:]
    said = memorisation(near, held)
    medians = [Estimate(float(x.median())) for x in (near, held)]
    return Looks(
        samples={"diversity": spread[0], "nearest": medians[0], "memorised": said.share},
        real={"diversity": spread[1], "nearest": medians[1]},
        counts={"diversity": len(of_samples), "nearest": count, "memorised": count},
        real_counts={"diversity": len(of_real), "nearest": len(held)},
        memorised=said.flag,
        neighbours=Neighbours(near, found.index[:count]),
    )
