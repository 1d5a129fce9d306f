"""The images of a page: samples of every variant from the same noise, previews of the training, and
what may be shown of the data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ablate.data import datasets
from ablate.report.findings import Findings, VariantRow
from ablate.report.render.number_text import decimals_of, rounded
from ablate.report.render.run_images import STRIPS, folder_of, pack, preview_files, read, sample_file
from ablate.store.image_grids import GAP

# Bytes of data URIs: with plots and their library a page of fifteen variants stays below 5 MB.
SAMPLES_BYTES, PREVIEWS_BYTES, STRIPS_BYTES, NEAREST_BYTES = 1_250_000, 670_000, 480_000, 350_000
MOST_PREVIEWS = 6  # per variant


@dataclass(frozen=True)
class GalleryRow:
    """The samples of one variant, from noise 0, 1, 2, ..., eight per row."""

    label: str
    seed: int
    value: str
    verdict: str | None
    final: str  # data URI
    previews: tuple[tuple[int, str], ...]  # step of the training, data URI


@dataclass(frozen=True)
class Gallery:
    """The samples of all variants at one seed."""

    rows: tuple[GalleryRow, ...]
    caption: str


@dataclass(frozen=True)
class ImageSection:
    """Images of one kind, one per variant."""

    kind: str
    title: str
    caption: str
    alt: str
    images: tuple[tuple[str, str], ...]  # label, data URI


STRIP = ImageSection(
    "strips",
    "What the filters do, and what the drift adds",
    "Held-out images, one per row, at t = 0.1, 0.2, ... 0.8 (the first is almost all noise). From left to right: the "
    "noisy input, the filtered image, the drift (grey is none), the prediction, the target.",
    "Noisy input, filtered image, drift, prediction and target at eight noise levels:",
    (),
)
STRIP_OF_ANY_MODEL = ImageSection(
    "strips",
    "From noise to image in one step",
    "Held-out images, one per row, at t = 0.1, 0.2, ... 0.8 (the first is almost all noise). From left to right: the "
    "noisy input, the parts of the prediction if the model names such, the prediction, the target.",
    "Noisy input, prediction and target at eight noise levels:",
    (),
)
NEAREST = ImageSection(
    "nearest",
    "Next to the training images",
    "The samples that lie nearest to a training image: each sample (left) beside that image (right), the nearest "
    "first. A model that copies shows equal pairs.",
    "Pairs of a sample and the training image nearest to it:",
    (),
)
LEFT_OUT = (
    "Left out: it is not known whether the licence of {data} allows showing its images. Only the embedded cats are "
    "shown. The images are in each run's folder, with its samples."
)


def make_gallery(findings: Findings, results: Path, *, same_noise: bool = True, latent: bool = False) -> Gallery:
    """Collect the samples of all variants at one seed.

    It is the seed at which most variants have samples; the row that others are compared with must
    have them if it can.

    Args:
        findings: The findings.
        artifacts: The folder of the runs' files.
        same_noise: Whether samples at one place started from the same noise, as those of torch
            models do.
        latent: Whether any model works on latents.
    """
    grids: dict[str, tuple[Path, np.ndarray]] = {}
    of_seed = {
        seed: {row.label: folder_of(results, run_id) for row in findings.rows if (run_id := _run_id(row, seed))}
        for seed in (findings.rows[0].seeds if findings.rows else ())
    }
    files = {seed: sum(sample_file(folder).is_file() for folder in runs.values()) for seed, runs in of_seed.items()}
    for seed in sorted(files, key=lambda seed: -files[seed]):
        runs = of_seed[seed]
        grids = {
            label: (folder, grid) for label, folder in runs.items() if (grid := read(sample_file(folder))) is not None
        }
        if findings.rows[0].label in grids:
            break
    if not grids:
        return Gallery((), "")
    uris = pack([grid for _, grid in grids.values()], SAMPLES_BYTES)
    previews = _previews({label: folder for label, (folder, _) in grids.items()})
    metric = findings.compared.headline[0]
    verdicts = {one.label: one.verdict for one in findings.comparisons if one.metric == metric}
    rows, decimals = [], decimals_of([row.values[metric].mean for row in findings.rows])
    by_label = {row.label: row for row in findings.rows}
    for label, uri in zip(grids, uris, strict=False):  # those that fit
        row = by_label[label]
        value = dict(zip(row.seeds, row.by_seed.get(metric, ()), strict=False)).get(seed)
        text = f"{metric} {rounded(value, decimals)}"
        rows.append(GalleryRow(label, seed, text, verdicts.get(label), uri, previews.get(label, ())))
    lacking = [label for label in by_label if label not in {row.label for row in rows}]
    caption = f"Seed {seed}. The first images that each run wrote."
    if same_noise:
        caption = (
            f"Seed {seed}. At the same place every variant starts from the same noise"
            f"{' (latent variants: noise of latents)' if latent else ''}, so the differences are due to the variant. "
            "Nothing is hand-picked: these are noises 0, 1, 2, ..."
        )
    return Gallery(tuple(rows), caption + (f" No images here of {', '.join(lacking)}." if lacking else ""))


def _run_id(row: VariantRow, seed: int) -> str | None:
    return dict(zip(row.seeds, row.run_ids, strict=True)).get(seed)


def _previews(folders: dict[str, Path]) -> dict[str, tuple[tuple[int, str], ...]]:
    """Return what the runs drew during training: the latest steps if there are many."""
    files = [
        (label, step, grid)
        for label, folder in folders.items()
        for step, path in list(preview_files(folder).items())[-MOST_PREVIEWS:]
        if (grid := read(path)) is not None
    ]
    uris = pack([grid for _, _, grid in files], PREVIEWS_BYTES)
    grids: dict[str, tuple[tuple[int, str], ...]] = {}
    for (label, step, _), uri in zip(files, uris, strict=False):
        grids[label] = (*grids.get(label, ()), (step, uri))
    return grids


def is_embedded(findings: Findings) -> bool:
    """Return whether the runs used the embedded cats, whose licence allows showing them."""
    return datasets.is_embedded(findings.compared.data_digest)


def data_images(findings: Findings, results: Path, gallery: Gallery, *, shipped: bool = True) -> list[ImageSection]:
    """Return the images that show the data set: strips of one-step denoising, and nearest training images.

    Kinds of which the folders hold no image are left out, and all of a data set with an unknown
    licence.

    Args:
        findings: The findings.
        results: The results folder.
        gallery: The samples that are shown.
        shipped: Whether the model is the one that ships: its strips show filters and drift.
    """
    if not is_embedded(findings):
        return []
    seeds = {row.label: row.seed for row in gallery.rows}
    folders = {
        row.label: folder_of(results, run_id)
        for row in findings.rows
        if (run_id := _run_id(row, seeds.get(row.label, row.seeds[0] if row.seeds else 0)))
    }
    sections = []
    strip = STRIP if shipped else STRIP_OF_ANY_MODEL
    for part, file, budget in ((strip, "strip.png", STRIPS_BYTES), (NEAREST, "nearest.png", NEAREST_BYTES)):
        grids = {label: grid for label, folder in folders.items() if (grid := read(folder / file)) is not None}
        if part is NEAREST:
            grids = {label: _four_per_row(grid) for label, grid in grids.items()}
        images = tuple(zip(grids, pack(list(grids.values()), budget, STRIPS), strict=False))
        if images:
            sections.append(ImageSection(part.kind, part.title, part.caption, part.alt, images))
    return sections


def _four_per_row(column: np.ndarray) -> np.ndarray:
    """Arrange a column of pairs four per row, with white between them."""
    width = column.shape[1]
    size = (width - GAP) // 2  # of one image of a pair
    cell = size + GAP
    count = (len(column) + GAP) // cell
    pairs = [column[i * cell : i * cell + size] for i in range(count)]
    arranged = np.full((-(-count // 4) * cell, 4 * (width + 10), 3), 255, np.uint8)
    for i, pair in enumerate(pairs):
        top, left = i // 4 * cell, i % 4 * (width + 10)
        arranged[top : top + size, left : left + width] = pair
    return arranged
