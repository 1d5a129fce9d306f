"""Any two sets of pictures, measured as a run's samples are: the work behind `ablate measure`."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch

from ablate.base import rng
from ablate.base.errors import DataError
from ablate.base.progress import Progress
from ablate.data.image_files import Pictures
from ablate.metrics.efficientnet import full_precision
from ablate.metrics.extractors import BATCH, Extractor
from ablate.metrics.neighbours import to_unit
from ablate.metrics.pair_distances import psnr_db
from ablate.metrics.reference_cache import cached_features
from ablate.metrics.set_distances import Estimate, Features, bootstrap_difference, collect, statistics
from ablate.metrics.suite import DIVERSE, SMALLEST, Suite, between, look, rank_warning, used
from ablate.study.metric_names import METRICS, PAIRS, PERCEPTUAL, SAMPLES, SETS, Metric, name_of

Entry = dict[str, Any]


@dataclass(frozen=True)
class Side:
    """Some of the pictures of a source."""

    pictures: Pictures
    indices: list[int]

    def __len__(self) -> int:
        return len(self.indices)

    def batches(self) -> Iterator[np.ndarray]:
        """Start a stream of batches (B, 3, H, W) uint8."""
        return self.pictures.batches(self.indices, BATCH)

    def some(self, n: int, seed: int) -> np.ndarray:
        """Return at most n pictures (N, 3, H, W) uint8, chosen at random."""
        places = rng.permutation(seed, "some", 0, len(self))[:n]
        return np.stack(list(self.pictures.read(self.indices[i] for i in places.tolist())))


def default_metrics(suite: Suite) -> list[Metric]:
    """Return what is measured where nothing is asked for: all that the networks at hand can say of two sets."""
    return [
        metric
        for metric in METRICS.values()
        if (metric.kind in SETS and metric.network in suite.extractors)
        or (metric.kind in SAMPLES and metric.distance in suite.distances)
    ]


def choose_sides(real: Pictures, fake: Pictures | None, n: int | None, seed: int) -> tuple[Side, Side]:
    """Choose what is compared: all real pictures with all fake ones, or n at random; or, without fake ones, random halves of the real.

    Raises:
        DataError: There are not n pictures, too few for a distance, or the sources' pictures differ in size.
    """
    if fake is None and len(real) < 4:
        found = f"{len(real)} picture{'' if len(real) == 1 else 's'}"
        raise DataError(f"{real.where}: found {found}; two halves need at least 4")
    for pictures in (real, fake):
        if pictures is not None and len(pictures) < 2:
            raise DataError(f"{pictures.where}: found 1 picture; a distance between sets needs at least 2 in each")
    most = len(real) // 2 if fake is None else len(fake)
    if n is not None and not 2 <= n <= most:
        where, half = (real.where, " in each half") if fake is None else (fake.where, "")
        raise DataError(f"--n {n}: {where} has {len(fake or real):,} pictures; allowed: 2 to {most:,}{half}")
    count = n or most
    if fake is None:
        order = rng.permutation(seed, "halves", 0, len(real)).tolist()
        return Side(real, sorted(order[:count])), Side(real, sorted(order[count : 2 * count]))
    _same_size(real, fake)
    order = rng.permutation(seed, "subset", 0, len(fake)).tolist()
    return Side(real, list(range(len(real)))), Side(fake, sorted(order[:count]))


def _same_size(a: Pictures, b: Pictures) -> None:
    shapes = [next(pictures.read([0])).shape for pictures in (a, b)]
    if shapes[0] != shapes[1]:
        found = [f"{p.where} has pictures of {w} x {h} pixels" for p, (_, h, w) in zip((a, b), shapes, strict=True)]
        raise DataError(f"{', '.join(found)}: the sizes differ; mend: --size crops and resizes both")


def measure_sets(
    real: Pictures,
    fake: Pictures | None,
    metrics: Collection[Metric],
    suite: Suite,
    *,
    n: int | None = None,
    seed: int = 0,
    baseline: Pictures | None = None,
    progress: Progress,
) -> dict[str, Entry]:
    """Measure one set of pictures against another.

    Args:
        real: The reference.
        fake: What is judged; None: one random half of `real`, the other half being the reference.
        metrics: What to measure.
        suite: What to measure with.
        n: How many fake pictures to use, chosen at random; None: all.
        seed: Of the halves, of the n pictures, of the parts of the extrapolation and of resampling.
        baseline: Pictures that belong one by one to the fake ones; adds `<metric>_difference` for every Frechet distance.
        progress: Bars to show.

    Returns:
        Metric -> `value` (None where it cannot be had), `n`, `ref_n`; `error`, `low`, `high` where there are such; the same of real
        against real as `floor`, `floor_n`, `floor_ref_n`; `extractor`, `weights_digest`; `note` says what to beware of.

    Raises:
        DataError: A picture cannot be read, the sizes differ, or there are too few.
    """
    reference, judged = choose_sides(real, fake, n, seed)
    other = None
    suite = _able(suite, real)
    if baseline is not None:
        if not any(metric.kind == "frechet" for metric in metrics):
            raise DataError("--baseline: a paired difference is of a Frechet distance; mend: add --metric fd")
        _same_size(real, baseline)
        if len(baseline) != len(fake or real):
            raise DataError(
                f"{baseline.where}: {len(baseline):,} pictures, {(fake or real).where}: {len(fake or real):,}; "
                "a paired difference needs pictures that belong together"
            )
        other = Side(baseline, judged.indices)
    found: dict[str, Entry] = {}
    for network in dict.fromkeys(metric.network for metric in metrics if metric.kind in SETS):
        kinds = [metric.kind for metric in metrics if metric.network == network and metric.kind in SETS]
        assert network is not None
        if network in suite.extractors:
            found |= _between(reference, judged, other, suite.extractors[network], kinds, fake is None, seed, progress)
    for distance in dict.fromkeys(metric.distance for metric in metrics if metric.kind in SAMPLES):
        if distance in suite.distances:
            found |= _look(reference, judged, distance, suite, fake is None, seed, progress)
    paired = [metric.name for metric in metrics if metric.kind == PAIRS]
    if paired:
        found |= _pairs(reference, judged, paired, suite, progress)
    return {metric.name: found.get(metric.name) or _missing(metric, suite) for metric in metrics} | {
        name: entry for name, entry in found.items() if name.endswith("_difference")
    }


def _able(suite: Suite, pictures: Pictures) -> Suite:
    """Leave out the distances whose networks the pictures are too small for."""
    _, height, width = next(pictures.read([0])).shape
    small = {name: d.smallest for name, d in suite.distances.items() if min(height, width) < d.smallest}
    why = {
        PERCEPTUAL[
            name
        ]: f"pictures of {width} x {height} pixels; {PERCEPTUAL[name]} needs sides of at least {smallest}"
        for name, smallest in small.items()
    }
    able = {name: distance for name, distance in suite.distances.items() if name not in small}
    return replace(suite, distances=able, missing=suite.missing | why)


def _missing(metric: Metric, suite: Suite) -> Entry:
    why = suite.missing.get(metric.network or "", "")
    return {"value": None, "note": why or f"needs at least {SMALLEST.get(metric.kind, 2)} pictures in each set"}


def _entry(estimate: Estimate, n: int, ref_n: int) -> Entry:
    parts = {"error": estimate.error, "low": estimate.low, "high": estimate.high}
    return {"value": estimate.value, "n": n, "ref_n": ref_n} | {k: v for k, v in parts.items() if v is not None}


def _between(
    reference: Side,
    judged: Side,
    other: Side | None,
    extractor: Extractor,
    kinds: Collection[str],
    floor_itself: bool,
    seed: int,
    progress: Progress,
) -> dict[str, Entry]:
    names = {kind: name_of(kind, extractor.name) for kind in kinds}
    total = len(reference) + len(judged) * (1 if other is None else 2)
    with progress.task(f"{extractor.name} features", total) as bar:
        real = cached_features(reference.batches, len(reference), extractor, on_batch=bar.advance)
        fake = collect(judged.batches(), extractor, len(judged), on_batch=bar.advance)
        third = None if other is None else collect(other.batches(), extractor, len(other), on_batch=bar.advance)
    about = {"extractor": extractor.name, "weights_digest": extractor.digest}
    warning = rank_warning(fake, real)
    found = {
        names[kind]: _entry(e, used(kind, fake), used(kind, real)) | about
        for kind, e in between(fake, real, kinds, seed).items()
    }
    if not floor_itself and len(real.rows) >= 4:
        halves = _halves(real, len(judged), seed)
        for kind, e in between(*halves, kinds, seed).items():
            sizes = {"floor_n": halves[0].statistics.n, "floor_ref_n": halves[1].statistics.n}
            found[names[kind]] |= {"floor": e.value, **sizes}
    for kind in {"frechet", "infinity"} & set(kinds):
        if warning and names[kind] in found:
            found[names[kind]]["note"] = warning
    if third is not None and "frechet" in kinds:
        difference = bootstrap_difference(fake.rows, third.rows, real.statistics, seed=seed)
        found[f"{names['frechet']}_difference"] = _entry(difference, len(fake.rows), len(reference)) | about
    return found


def _halves(real: Features, n: int, seed: int) -> tuple[Features, Features]:
    """Split the real pictures into n of them, or half where there are fewer than 2 n, and the rest."""
    order = rng.permutation(seed, "floor", 0, len(real.rows)).numpy()
    size = min(n, len(order) // 2)
    parts = real.rows[order[:size]], real.rows[order[size:]]
    return Features(statistics(parts[0]), parts[0]), Features(statistics(parts[1]), parts[1])


def _look(
    reference: Side, judged: Side, distance: str, suite: Suite, floor_itself: bool, seed: int, progress: Progress
) -> dict[str, Entry]:
    network = suite.distances[distance]
    samples, real = judged.some(DIVERSE, seed), reference.some(DIVERSE, seed)
    with progress.task(f"{distance} neighbours", len(reference)) as bar:
        # A real picture's neighbour is looked for among the others.
        looks = look(samples, real, reference.batches, network, suite.device, within=True, on_batch=bar.advance)
    found: dict[str, Entry] = {}
    for kind, estimate in looks.samples.items():
        entry = _entry(estimate, looks.counts[kind], len(reference)) | {"weights_digest": network.digest}
        if kind in looks.real and not floor_itself:
            entry |= {"floor": looks.real[kind].value, "floor_n": looks.real_counts[kind]}
        found[f"{kind}_{distance}"] = entry
    if looks.memorised:
        found[f"memorised_{distance}"]["note"] = (
            "more samples lie next to a real picture than real pictures do: copies?"
        )
    return found


def _pairs(reference: Side, judged: Side, names: Collection[str], suite: Suite, progress: Progress) -> dict[str, Entry]:
    """Compare picture by picture, in the order of the files' names."""
    if len(reference) != len(judged):
        raise DataError(
            f"--metric {', '.join(names)}: pictures are compared one by one; found {len(reference):,} and {len(judged):,}"
        )
    sums = dict.fromkeys(names, 0.0)
    digests = {name: suite.distances[name].digest for name in names if name in suite.distances}
    with progress.task("pairs", len(judged)) as bar, torch.inference_mode(), full_precision(suite.device):
        for batch in zip(reference.batches(), judged.batches(), strict=True):
            x, y = (to_unit(images, suite.device) for images in batch)
            for name in names:
                if name == "psnr_db":
                    sums[name] += float(psnr_db(y, x).double().sum())
                elif name in suite.distances:
                    sums[name] += float(suite.distances[name](y, x).double().sum())
            bar.advance(len(x))
    count = len(judged)
    able = [name for name in names if METRICS[name].network is None or name in suite.distances]
    found = {}
    for name in able:
        found[name] = _entry(Estimate(sums[name] / count), count, count)
        found[name] |= {"weights_digest": digests[name]} if name in digests else {}
        if math.isinf(sums[name]):
            found[name] |= {"value": None, "note": "some pictures are equal to their pair: their ratio is infinite"}
    return found
