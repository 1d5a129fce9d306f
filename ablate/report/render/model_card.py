"""The model card of one run: `README.md` of a repository of the Hugging Face Hub.

The front matter follows the hub's specification of model cards (`model-index`: the run's metrics).
Nothing that a table holds steers it: front matter holds JSON strings, the text escaped Markdown.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from shlex import quote
from typing import Any

import pandas as pd

from ablate.base.text import printable, read_json
from ablate.data import cats
from ablate.data.datasets import is_embedded
from ablate.report.judged_metrics import describe
from ablate.report.render.number_text import number, percent, quantity
from ablate.report.render.text_table import TextTable, bullets, escape, to_markdown
from ablate.report.stated import Stated, stated_variants
from ablate.store import tables
from ablate.study.metric_names import METRICS, PAIRS, direction

LIBRARY = "ablate-harness"  # the name of this distribution
TASK = "unconditional-image-generation"  # the hub's name of the task
FLOOR = "_floor"  # suffix of the metrics of real images against real images
_DATASET_ID = re.compile(r"[\w.-]{1,96}(/[\w.-]{1,96})?", re.ASCII)

Row = Mapping[str, Any]


@dataclass(frozen=True)
class CardMetric:
    """A metric of a run: its meaning, its value, which values are better, the images it used, real images' value."""

    name: str
    about: str
    value: float
    better: str | None
    n: int | None = None
    floor: float | None = None


def model_card(content: Mapping[str, pd.DataFrame], source: str, image: str | None, licence: str | None) -> str:
    """Return the card of a run.

    Args:
        content: Table -> the run's rows, as read from its results folder.
        source: Where readers find the run: a repository's name or a folder.
        image: The file of its samples, beside the card; None: there is none.
        licence: The licence's name on the hub, as in `mit`; None: not said.
    """
    (row,) = tables.to_records(content["runs"])
    stated, metrics = stated_variants(content["runs"])[row["variant"]], list(_metrics(row, content))
    parts = [f"# {escape(printable(row['run_id']))}", _introduction(row, stated)]
    if image is not None:
        parts.append(f"![Images that the model drew, from the noise of seed {row['seed']}]({image})")
    parts += ["## Use", _usage(row, source), "## Metrics", to_markdown(_table(metrics))]
    parts += [bullets(_metric_notes(row, metrics)), "## What to keep in mind", bullets(_caveats(row, stated, licence))]
    return "\n\n".join([_front_matter(row, metrics, licence), *parts]) + "\n"


def _introduction(row: Row, stated: Stated) -> str:
    about = f" ({printable(stated.about).rstrip('.')})" if stated.about else ""
    sizes = [f"{quantity('params', row['params'])} parameters"] if row["params"] else []
    sizes += [f"{row['steps']:,} training steps"] if row["steps"] else []
    sizes += [f"{row['nfe']} network evaluations per image"] if row["nfe"] else []
    what = f"Variant {row['variant']}{about}, preset {row['preset']}, seed {row['seed']}, trained on {row['data']}"
    return escape(printable(f"An image generator trained by ablate. {what}: {', '.join(sizes)}."))


def _usage(row: Row, source: str) -> str:
    plugins = _plugins(row)
    own = ', plugin="model.py"' if plugins else ""
    lines = [
        "```python",
        "import ablate  # pip install 'ablate-harness[train,hub]'",
        "",
        f"run = ablate.load_run({json.dumps(source, ensure_ascii=False)}{own})",
        "images = run.sample(16)  # uint8 (16, height, width, channels)",
        "```",
        "",
        "To compare it with other runs, add it to a results folder:",
        "",
        "```bash",
        f"ablate pull {quote(printable(source))} --results results",
        "ablate report --results results",
        "```",
    ]
    if plugins:
        lines += ["", f"It needs the author's plug-in, whose code is not here: {escape(', '.join(plugins))}."]
    return "\n".join(lines)


def _table(metrics: Iterable[CardMetric]) -> TextTable:
    heads = ("metric", "value", "better", "images", "real images", "what it is")
    lines = tuple(
        (
            one.name,
            number(one.value),
            one.better or "",
            "" if one.n is None else f"{one.n:,}",
            number(one.floor),
            one.about,
        )
        for one in metrics
    )
    return TextTable("metrics", heads, lines, left=(0, 2, 5))


def _metrics(row: Row, content: Mapping[str, pd.DataFrame]) -> Iterable[CardMetric]:
    """Yield the metrics of a run: of sets of images, of single images, and those it recorded itself."""
    sets = {one["metric"]: one for one in tables.to_records(content["fidelity"]) if one["value"] is not None}
    denoised = content["denoising"]["n"].max()
    for name, metric in METRICS.items():
        if metric.kind == PAIRS and row.get(name) is not None:
            n = None if pd.isna(denoised) else int(denoised)
            yield CardMetric(name, describe(name), row[name], direction(name), n)
        elif name in sets:
            floor = sets.get(name + FLOOR, {}).get("value")
            one = sets[name]
            yield CardMetric(name, describe(name), one["value"], direction(name), one["n"], floor)
    for own in tables.to_records(content["metrics"]):
        if own["value"] is not None:
            unit = f"in {printable(own['unit'])}" if own["unit"] else ""
            yield CardMetric(printable(own["metric"]), unit, own["value"], own["better"])


def _metric_notes(row: Row, metrics: Iterable[CardMetric]) -> list[str]:
    names = {one.name for one in metrics}
    notes = ["real images: the value that as many real images reach."]
    if names & {"fd", "fid"}:
        notes.append("Frechet distances depend on the number of images: compare only values of equal numbers.")
    return notes


def _caveats(row: Row, stated: Stated, licence: str | None) -> list[str]:
    notes = ["This is one seed. Whether a variant is better than another takes several: see ablate report."]
    for claim in stated.claims:
        because = printable(claim.because)
        notes.append(f"Claim before the run, not judged here: {printable(claim.metric)} {claim.expect}, as {because}.")
    data_notes = printable(row["data_notes"] or "")
    if data_notes:
        notes.append(f"Data: {data_notes}.")
    if row["held_out_twins"] and "near twin" not in data_notes:
        notes.append(f"{percent(row['held_out_twins'])} of the held-out images have a near twin in training.")
    if row["memorised"]:
        notes.append("Samples lie next to training images more often than held-out images do: they may be copies.")
    if row["unstable"]:
        notes.append("The training was unstable: the gradient norm jumped.")
    if row["purpose"]:
        notes.append(f"The run was made for {printable(row['purpose'])}; reports do not judge it.")
    notes.append(
        cats.CREDIT + "." if is_embedded(row["data_digest"]) else "The licence of the training images is not recorded."
    )
    if licence is None:
        notes.append("No licence is given.")
    return notes


def _plugins(row: Row) -> list[str]:
    """Return the plug-ins that sampling needs, as in `model unet`; none if the cell cannot be read."""
    return [printable(name) for name in read_json(row["plugins"], dict) if not name.startswith("metric ")]


def _front_matter(row: Row, metrics: Iterable[CardMetric], licence: str | None) -> str:
    data = printable(row["data"])
    results = [
        {
            "type": one.name,
            "value": one.value,
            "name": f"{one.about or one.name} ({one.name}, {one.better} is better)",
            **({} if one.n is None else {"args": {"images": one.n}}),
        }
        for one in metrics
    ]
    index = {
        "task": {"type": TASK, "name": "Unconditional image generation"},
        "dataset": {"type": data, "name": data, "args": {"digest": row["data_digest"]}},
        "metrics": results,
    }
    fields = {
        "library_name": LIBRARY,
        "pipeline_tag": TASK,
        "tags": ["ablate", "ablation-study", "diffusion"],
        **({} if licence is None else {"license": licence}),
        **({"datasets": [data]} if _DATASET_ID.fullmatch(data) else {}),
        **({"model-index": [{"name": printable(row["run_id"]), "results": [index]}]} if results else {}),
    }
    # JSON is YAML: keys are plain words, and no text of a table can be anything but a string.
    return "\n".join(
        ["---", *(f"{name}: {json.dumps(value, ensure_ascii=False)}" for name, value in fields.items()), "---"]
    )
