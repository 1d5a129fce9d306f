"""The pictures of a page: samples of every variant from the same noise, sketches of the training, and what may be shown of the data."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ablate.data import datasets
from ablate.report.findings import Findings, Row
from ablate.report.render.report_tables import decimals_of
from ablate.report.render.run_images import SIZE, STRIPS, Grid, fit, read, samples, sketches
from ablate.store.image_grids import GAP

# Bytes of data URIs; with the plots and their library a page of fifteen variants stays below 5 MB.
SAMPLES_BYTES, SKETCHES_BYTES, STRIPS_BYTES, NEAREST_BYTES = 1_300_000, 700_000, 500_000, 350_000
MOST_SKETCHES = 6  # of one variant
CELL = SIZE + GAP


@dataclass(frozen=True)
class Shown:
    """One variant's samples."""

    label: str
    seed: int
    value: str
    verdict: str | None
    final: Grid
    sketches: tuple[Grid, ...]


@dataclass(frozen=True)
class Gallery:
    """Samples of all variants under one seed."""

    rows: tuple[Shown, ...]
    how: str

    @property
    def has_sketches(self) -> bool:
        """Whether any run drew while it trained."""
        return any(row.sketches for row in self.rows)


@dataclass(frozen=True)
class Picture:
    """A picture of one variant."""

    label: str
    uri: str


@dataclass(frozen=True)
class Part:
    """Pictures of one kind, or in `how` the reason why there are none."""

    kind: str
    title: str
    how: str
    alt: str
    pictures: tuple[Picture, ...]


def make_gallery(findings: Findings, artifacts: Path) -> Gallery:
    """Collect the samples of all variants under the seed of which most have pictures, what they are compared with among them."""
    reads: dict[str, tuple[Path, np.ndarray]] = {}
    of_seed = {
        seed: {row.label: artifacts / run_id for row in findings.rows if (run_id := _run_id(row, seed))}
        for seed in (findings.rows[0].seeds if findings.rows else ())
    }
    there = {seed: sum(samples(folder).is_file() for folder in runs.values()) for seed, runs in of_seed.items()}
    for seed in sorted(there, key=lambda seed: -there[seed]):  # of equals the first
        runs = of_seed[seed]
        reads = {
            label: (folder, sheet) for label, folder in runs.items() if (sheet := read(samples(folder))) is not None
        }
        if findings.rows[0].label in reads:
            break
    if not reads:
        return Gallery((), "")
    uris = fit([sheet for _, sheet in reads.values()], SAMPLES_BYTES)
    drawn = _sketches({label: folder for label, (folder, _) in reads.items()})
    metric = findings.compared.headline[0]
    verdicts = {one.label: one.verdict for one in findings.comparisons if one.metric == metric}
    shown, decimals = [], decimals_of([row.values[metric].mean for row in findings.rows])
    for label, uri in zip(reads, uris, strict=False):  # those that fit
        row = next(row for row in findings.rows if row.label == label)
        value = dict(zip(row.seeds, row.by_seed.get(metric, ()), strict=False)).get(seed)
        shown_value = f"{metric} -" if value is None else f"{metric} {value:,.{decimals}f}"
        final = Grid(label, None, uri)
        shown.append(Shown(label, seed, shown_value, verdicts.get(label), final, drawn.get(label, ())))
    seen = {one.label for one in shown}
    lacking = [row.label for row in findings.rows if row.label not in seen]
    how = (
        f"Seed {seed}. In the same place every variant starts from the same noise (latent: of latents), so what differs is the variant's "
        "doing. Nothing is picked: these are noises 0, 1, 2, ..."
    )
    return Gallery(tuple(shown), how + (f" No pictures here of {', '.join(lacking)}." if lacking else ""))


def _run_id(row: Row, seed: int) -> str | None:
    return dict(zip(row.seeds, row.run_ids, strict=True)).get(seed)


def _sketches(folders: dict[str, Path]) -> dict[str, tuple[Grid, ...]]:
    """What the runs drew while they trained, the newest steps where there are many."""
    found = [
        (label, step, sheet)
        for label, folder in folders.items()
        for step, path in list(sketches(folder).items())[-MOST_SKETCHES:]
        if (sheet := read(path)) is not None
    ]
    uris = fit([sheet for _, _, sheet in found], SKETCHES_BYTES)
    grids: dict[str, tuple[Grid, ...]] = {}
    for (label, step, _), uri in zip(found, uris, strict=False):
        grids[label] = (*grids.get(label, ()), Grid(label, step, uri))
    return grids


def is_embedded(findings: Findings) -> bool:
    """Whether the runs were made of the embedded cats, whose licence allows to show them; a folder may be called cats too."""
    return datasets.is_embedded(findings.compared.data or "", findings.compared.data_digest)


def inside(findings: Findings, artifacts: Path, shown: Gallery) -> list[Part]:
    """Return the drift beside the filtered pictures, and the nearest training pictures; both show pictures of the data set."""
    seeds = {row.label: row.seed for row in shown.rows}
    folders = {
        row.label: artifacts / run_id
        for row in findings.rows
        if (run_id := _run_id(row, seeds.get(row.label, row.seeds[0] if row.seeds else 0)))
    }
    parts = (
        Part(
            "strips",
            "What the filters do, and what the drift adds",
            "Held-out pictures, one a row, at t = 0.1, 0.2, ... 0.8 (the first is nearly all noise). From left to right: the noisy input, "
            "the filtered picture, the drift (grey is none), the prediction, the target.",
            "Noisy input, filtered picture, drift, prediction and target at eight noise levels:",
            (),
        ),
        Part(
            "nearest",
            "Next to the training pictures",
            "The samples that lie nearest to a training picture, each (left) beside that picture (right), the nearest first. A model that "
            "copies shows equal pairs.",
            "Pairs of a sample and the training picture nearest to it:",
            (),
        ),
    )
    if not is_embedded(findings):
        why = (
            f"Left out: it shows pictures of the data set ({findings.compared.data}), whose licence this page does not know; only those of "
            "the embedded cats are put in. It lies beside the samples, in each run's folder."
        )
        return [Part(part.kind, part.title, why, part.alt, ()) for part in parts]
    found = []
    for part, file, budget in zip(parts, ("strip.png", "nearest.png"), (STRIPS_BYTES, NEAREST_BYTES), strict=True):
        sheets = {label: sheet for label, folder in folders.items() if (sheet := read(folder / file)) is not None}
        if part.kind == "nearest":
            sheets = {label: _in_rows(sheet) for label, sheet in sheets.items()}
        packed = fit(list(sheets.values()), budget, STRIPS)
        pictures = tuple(Picture(label, uri) for label, uri in zip(sheets, packed, strict=False))
        how = part.how if pictures else "The runs' folders hold no such picture."
        found.append(Part(part.kind, part.title, how, part.alt, pictures))
    return found


def _in_rows(sheet: np.ndarray) -> np.ndarray:
    """Lay a column of pairs out four a row, white between them."""
    count = (len(sheet) + GAP) // CELL
    pairs = [sheet[i * CELL : i * CELL + SIZE] for i in range(count)]
    width = sheet.shape[1]
    laid = np.full((-(-count // 4) * CELL, 4 * (width + 10), 3), 255, np.uint8)
    for i, pair in enumerate(pairs):
        top, left = i // 4 * CELL, i % 4 * (width + 10)
        laid[top : top + SIZE, left : left + width] = pair
    return laid
