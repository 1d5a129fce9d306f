"""Any two sets of images, measured as a run's samples are: the computation of `ablate measure`."""

from __future__ import annotations

import math
from collections.abc import Collection, Hashable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ablate.base import rng
from ablate.base.errors import DataError
from ablate.base.progress import Progress
from ablate.data.image_files import ImageFiles
from ablate.data.pairing import match_by_name
from ablate.metrics.extractors import Extractor, batch_size
from ablate.metrics.neighbours import DIVERSITY_IMAGES, sample_metrics, to_float
from ablate.metrics.networks import MetricNetworks, too_large
from ablate.metrics.pair_distances import pair_scores
from ablate.metrics.reference_cache import cached_features
from ablate.metrics.set_distances import (
    SMALLEST,
    Estimate,
    Features,
    bootstrap_difference,
    collect_features,
    feature_statistics,
    images_used,
    kept_rows,
    rank_warning,
    set_metrics,
)
from ablate.study.metric_names import METRICS, PAIRS, PERCEPTUAL, SAMPLES, SETS, Metric, name_of

Measurement = dict[str, Any]


@dataclass(frozen=True)
class ImageSubset:
    """Some of the images of a source."""

    images: ImageFiles
    indices: list[int]

    def __len__(self) -> int:
        return len(self.indices)

    def copies(self) -> int:
        """Return how many of the images have the pixels of an earlier one."""
        digests = self.images.digests()
        return len(self) - len({digests[i] for i in self.indices})

    def batches(self) -> Iterator[np.ndarray]:
        """Start a stream of batches (B, 3, H, W) uint8."""
        _, height, width = next(self.images.read(self.indices[:1])).shape
        return self.images.batches(self.indices, batch_size(height, width))

    def random_images(self, n: int, seed: int) -> np.ndarray:
        """Return at most n images (N, 3, H, W) uint8, chosen at random."""
        places = rng.permutation(seed, "some", 0, len(self))[:n]
        return np.stack(list(self.images.read(self.indices[i] for i in places.tolist())))


def default_metrics(networks: MetricNetworks) -> list[Metric]:
    """Return the metrics of two sets that the loaded networks allow: the default."""
    return [
        metric
        for metric in METRICS.values()
        if (metric.kind in SETS and metric.network in networks.extractors)
        or (metric.kind in SAMPLES and metric.distance in networks.distances)
    ]


def choose_subsets(
    real: ImageFiles, fake: ImageFiles | None, n: int | None, seed: int
) -> tuple[ImageSubset, ImageSubset]:
    """Choose the reference and the images that are judged.

    With fake images: all real images, and all fake ones or n of them at random. Without: two random
    halves of the real images. Exact copies of an image are in one half.

    Raises:
        DataError: There are fewer than n images, too few for a distance, or the sources' sizes
            differ.
    """
    if fake is None and len(real) < 4:
        found = f"{len(real)} image{'' if len(real) == 1 else 's'}"
        raise DataError(f"{real.where}: found {found}; two halves need at least 4")
    for images in (real, fake):
        if images is not None and len(images) < 2:
            raise DataError(f"{images.where}: found 1 image; a distance between sets needs at least 2 in each")
    most = len(real) // 2 if fake is None else len(fake)
    if n is not None and not 2 <= n <= most:
        where, half = (real.where, " in each half") if fake is None else (fake.where, "")
        raise DataError(f"--n {n}: {where} has {len(fake or real):,} images; allowed: 2 to {most:,}{half}")
    count = n or most
    if fake is None:
        halves = _disjoint(real.digests(), count, rng.permutation(seed, "halves", 0, len(real)).tolist())
        size = min(map(len, halves))
        distinct = min(len({real.digests()[i] for i in half[:size]}) for half in halves)
        if distinct < 2 or (n is not None and size < n):
            raise DataError(
                f"{real.where}: {real.copies():,} of {len(real):,} images are exact copies of others, which stay in "
                f"one half; found {size} for the other half, asked for {count if n else 'at least 2'} (2 different); "
                "fix: remove the copies"
            )
        first, second = (ImageSubset(real, sorted(half[:size])) for half in halves)
        return first, second
    _check_same_size(real, fake)
    order = rng.permutation(seed, "subset", 0, len(fake)).tolist()
    return ImageSubset(real, list(range(len(real)))), ImageSubset(fake, sorted(order[:count]))


def copies_of_reference(real: ImageFiles, fake: ImageFiles) -> list[str]:
    """Return a note if some images have the pixels of a reference image; nothing if none has."""
    known = set(real.digests())
    copies = sum(digest in known for digest in fake.digests())
    return [f"{copies:,} of {len(fake):,} images are exact copies of images in {real.where}"] if copies else []


def _disjoint(images: Sequence[Hashable], n: int, order: Sequence[int]) -> tuple[list[int], list[int]]:
    """Divide images at random into n and the others, with equal images on one side only.

    Args:
        images: Equal values are equal images.
        n: Size of the first part. Copies that would make it larger are in neither part.
        order: The images' places in a random order.
    """
    groups: dict[Hashable, list[int]] = {}
    for i in order:
        groups.setdefault(images[i], []).append(i)
    first: list[int] = []
    rest: list[int] = []
    for group in groups.values():
        if len(first) < n:
            first += group[: n - len(first)]
        else:
            rest += group
    return first, rest


def _check_same_size(a: ImageFiles, b: ImageFiles) -> None:
    shapes = [next(images.read([0])).shape for images in (a, b)]
    if shapes[0] != shapes[1]:
        found = [f"{x.where} has images of {w} x {h} pixels" for x, (_, h, w) in zip((a, b), shapes, strict=True)]
        raise DataError(f"{', '.join(found)}: the sizes differ; fix: --size crops and resizes both")


def measure_sets(
    real: ImageFiles,
    fake: ImageFiles | None,
    metrics: Collection[Metric],
    networks: MetricNetworks,
    *,
    n: int | None = None,
    seed: int = 0,
    baseline: ImageFiles | None = None,
    progress: Progress,
) -> dict[str, Measurement]:
    """Measure one set of images against another.

    Args:
        real: The reference.
        fake: The images that are judged; None: one random half of `real`, against the other half.
        metrics: What to measure.
        networks: What to measure with.
        n: Number of fake images to use, chosen at random; None: all.
        seed: Chooses the halves, the n images, the subsets of the extrapolation and the resamples.
        baseline: Images paired with the fake ones by their names; adds `<metric>_difference` for
            every Frechet distance.
        progress: Bars to show.

    Returns:
        Metric -> `value` (None if it cannot be measured), `n`, `ref_n`; `error`, `low`, `high`
        where they exist; the same of n real images against the other real ones as `floor`,
        `floor_n`, `floor_ref_n`; `extractor`, `weights_digest`; `note` for warnings.

    Raises:
        DataError: An image cannot be read, the sizes differ, there are too few images, or images
            that are compared in pairs cannot be paired by their names.
    """
    reference, judged = choose_subsets(real, fake, n, seed)
    networks = _without_too_large(networks, real)
    paired_with = None
    if baseline is not None:
        if not any(metric.kind == "frechet" for metric in metrics):
            raise DataError("--baseline: only a Frechet distance has a paired difference; fix: add --metric fd")
        _check_same_size(real, baseline)
        partners = match_by_name(fake or real, baseline)
        paired_with = ImageSubset(baseline, [partners[i] for i in judged.indices])
    pair_names = [metric.name for metric in metrics if metric.kind == PAIRS]
    targets = None
    if pair_names:
        if fake is None:
            raise DataError(f"--metric {', '.join(pair_names)}: images are compared in pairs; fix: name a second set")
        partners = match_by_name(fake, real)
        targets = ImageSubset(real, [partners[i] for i in judged.indices])
    found: dict[str, Measurement] = {}
    with_floor = fake is not None  # a half of the real images against the other half is the floor itself
    for network in dict.fromkeys(metric.network for metric in metrics if metric.kind in SETS):
        kinds = [metric.kind for metric in metrics if metric.network == network and metric.kind in SETS]
        assert network is not None
        if network in networks.extractors:
            extractor = networks.extractors[network]
            found |= _set_metrics(reference, judged, paired_with, extractor, kinds, with_floor, seed, progress)
    for distance in dict.fromkeys(metric.distance for metric in metrics if metric.kind in SAMPLES):
        if distance in networks.distances:
            found |= _sample_metrics(reference, judged, distance, networks, with_floor, seed, progress)
    if targets is not None:
        found |= _pair_metrics(targets, judged, pair_names, networks, progress)
    return {metric.name: found.get(metric.name) or _missing(metric, networks) for metric in metrics} | {
        name: measurement for name, measurement in found.items() if name.endswith("_difference")
    }


def _without_too_large(networks: MetricNetworks, images: ImageFiles) -> MetricNetworks:
    """Leave out the distances whose networks need larger images."""
    _, height, width = next(images.read([0])).shape
    why = too_large([PERCEPTUAL[name] for name in networks.distances], width, height)
    kept = {name: distance for name, distance in networks.distances.items() if PERCEPTUAL[name] not in why}
    return replace(networks, distances=kept, missing=networks.missing | why)


def _missing(metric: Metric, networks: MetricNetworks) -> Measurement:
    why = networks.missing.get(metric.network or "", "")
    return {"value": None, "note": why or f"needs at least {SMALLEST.get(metric.kind, 2)} images in each set"}


def _measurement(estimate: Estimate, n: int, ref_n: int) -> Measurement:
    parts = {"error": estimate.error, "low": estimate.low, "high": estimate.high}
    return {"value": estimate.value, "n": n, "ref_n": ref_n} | {k: v for k, v in parts.items() if v is not None}


def _set_metrics(
    reference: ImageSubset,
    judged: ImageSubset,
    paired_with: ImageSubset | None,
    extractor: Extractor,
    kinds: Collection[str],
    with_floor: bool,
    seed: int,
    progress: Progress,
) -> dict[str, Measurement]:
    """Compare two sets in the features of one extractor."""
    names = {kind: name_of(kind, extractor.name) for kind in kinds}
    total = len(reference) + len(judged) * (1 if paired_with is None else 2)
    with progress.task(f"{extractor.name} features", total) as bar:
        real = cached_features(reference.batches, len(reference), extractor, on_batch=bar.advance)
        fake = collect_features(judged.batches(), extractor, len(judged), on_batch=bar.advance)
        other = None
        if paired_with is not None:
            other = collect_features(paired_with.batches(), extractor, len(paired_with), on_batch=bar.advance)
    source = {"extractor": extractor.name, "weights_digest": extractor.digest}
    found = {
        names[kind]: _measurement(estimate, images_used(kind, fake), images_used(kind, real)) | source
        for kind, estimate in set_metrics(fake, real, kinds, seed).items()
    }
    notes = {name: list[str]() for name in found}
    counts = {
        "N": fake.statistics.n - judged.copies(),
        "reference N": real.statistics.n - reference.copies(),
    }
    warning = rank_warning(counts, len(real.statistics.mu))
    for kind in {"frechet", "infinity"} & set(kinds):
        if warning and names[kind] in found:
            notes[names[kind]].append(warning)
    if with_floor:
        digests = reference.images.digests()
        rows = [digests[reference.indices[i]] for i in kept_rows(len(reference))]
        order = rng.permutation(seed, "floor", 0, len(rows)).tolist()
        for n in {images_used(kind, fake) for kind in kinds}:
            some = [kind for kind in kinds if names[kind] in found and images_used(kind, fake) == n]
            halves = _disjoint(rows, n, order)
            if len(halves[0]) == n <= len(halves[1]):
                parts = [Features(feature_statistics(real.rows[half]), real.rows[half]) for half in map(sorted, halves)]
                sizes = {"floor_n": n, "floor_ref_n": len(halves[1])}
                for kind, estimate in set_metrics(parts[0], parts[1], some, seed).items():
                    found[names[kind]] |= {"floor": estimate.value, **sizes}
            else:
                have = len(set(rows))
                fix = f"; --n {have // 2} has one" if have >= 4 else ""
                for kind in some:
                    notes[names[kind]].append(
                        f"no real/real: N = {n:,} needs {2 * n:,} different real images, found {have:,}{fix}"
                    )
    for name, lines in notes.items():
        if lines:
            found[name]["note"] = "; ".join(lines)
    if other is not None and "frechet" in kinds:
        difference = bootstrap_difference(fake.rows, other.rows, real.statistics, seed=seed)
        found[f"{names['frechet']}_difference"] = _measurement(difference, len(fake.rows), len(reference)) | source
    return found


def _sample_metrics(
    reference: ImageSubset,
    judged: ImageSubset,
    distance: str,
    networks: MetricNetworks,
    with_floor: bool,
    seed: int,
    progress: Progress,
) -> dict[str, Measurement]:
    """Measure diversity and neighbours by one perceptual distance."""
    network = networks.distances[distance]
    samples, real = (images.random_images(DIVERSITY_IMAGES, seed) for images in (judged, reference))
    with progress.task(f"{distance} neighbours", len(reference)) as bar:
        metrics = sample_metrics(
            samples,
            real,
            reference.batches,
            network,
            networks.device,
            real_are_candidates=True,
            on_batch=bar.advance,
        )
    found: dict[str, Measurement] = {}
    for kind, estimate in metrics.samples.items():
        measurement = _measurement(estimate, metrics.counts[kind], len(reference)) | {"weights_digest": network.digest}
        if kind in metrics.real and with_floor:
            measurement |= {"floor": metrics.real[kind].value, "floor_n": metrics.real_counts[kind]}
        found[f"{kind}_{distance}"] = measurement
    if metrics.memorised:
        note = "more samples lie next to a real image than real images do: copies?"
        found[f"memorised_{distance}"]["note"] = note
    return found


def _pair_metrics(
    targets: ImageSubset,
    judged: ImageSubset,
    names: Collection[str],
    networks: MetricNetworks,
    progress: Progress,
) -> dict[str, Measurement]:
    """Compare each image with its target."""
    count = len(judged)
    distances = {name: networks.distances[name] for name in names if name in networks.distances}
    sums = {name: 0.0 for name in names if METRICS[name].network is None or name in distances}
    with progress.task("pairs", count) as bar, torch.inference_mode():
        for batch in zip(targets.batches(), judged.batches(), strict=True):
            target, x = (to_float(images, networks.device) for images in batch)
            scores = pair_scores(x, target, distances, networks.device)
            for name in sums:
                sums[name] += float(scores[name].double().sum())
            bar.advance(len(x))
    found = {}
    for name, total in sums.items():
        found[name] = _measurement(Estimate(total / count), count, count)
        if name in distances:
            found[name]["weights_digest"] = distances[name].digest
        if math.isinf(total):
            found[name] |= {"value": None, "note": "some images are equal to their pair: their ratio is infinite"}
    return found
