"""Results folders of any size, made of random numbers: for benchmarks and tests of what reads tables.

python tests/synthetic.py FOLDER [VARIANTS] [SEEDS]
"""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from ablate.report.builder import TABLES, build
from ablate.report.findings import Findings
from ablate.report.selection import Choice
from ablate.store import tables as results
from ablate.store.schema import to_arrow
from ablate.study import variants
from ablate.study.plan import plan

START = datetime(2026, 1, 1, tzinfo=UTC)
DIGEST = "5" * 64
Rows = dict[str, list[dict[str, Any]]]


def rows(
    effects: Mapping[str, float],
    seeds: Sequence[int],
    *,
    spread: float = 1.0,
    random: int = 0,
    schemes: Sequence[str] = (),
    **columns: object,
) -> Rows:
    """Return the tables' rows of a study whose truth is known.

    Args:
        effects: Variant -> its true difference in `fd` to the baseline's 100; in `pd` it is a thousandth of that.
        seeds: Of each variant.
        spread: Standard deviation of the paired differences in `fd`.
        random: Seed of the random numbers.
        schemes: Number formats in `quantized`, beside fp32.
        columns: Of every row of `runs`, in place of what stands here.
    """
    draw = np.random.default_rng(random)
    shared = draw.normal(0, 5 * spread, len(seeds))
    config = json.dumps(json.loads(variants.resolve(variants.load(variants.BASELINE), "quick").to_json()))
    made: Rows = {"runs": [], "fidelity": [], "quantized": []}
    for name, effect in effects.items():
        own = draw.normal(effect, spread, len(seeds)) if name != variants.BASELINE else np.zeros(len(seeds))
        axis = "+".join(dict.fromkeys(_axis(part) for part in name.split("+")))
        for i, seed in enumerate(seeds):
            fd = 100 + shared[i] + own[i]
            run: dict[str, Any] = {
                "run_id": f"{name}-quick-cats-s{seed}-00000000",
                "variant": name,
                "axis": axis,
                "preset": "quick",
                "seed": seed,
                "status": "done",
                "data": "cats",
                "data_digest": DIGEST,
                "budget": "steps",
                **_stated(name),
                "config": config,
                "config_hash": name[:12],
                "fd": fd,
                "fd_n": 512,
                "fd_ref_n": 2048,
                "fd_floor": 8.8,
                "fd_floor_n": 512,
                "pd": fd / 1000,
                "psnr_db": 22 - fd / 100,
                "params": 3_600_000 + 1000 * len(made["runs"]) % 7,
                "macs": 298_000_000,
                "nfe": 15,
                "steps": 1500,
                "train_macs": 10**13,
                "train_wall_s": 220.0 + draw.normal(0, 2),
                "latency_step_ms": 13 + effect / 100 + draw.normal(0, 0.1),
                "latency_image_ms": 160 + effect / 10 + draw.normal(0, 1),
                "device": "cpu",
                "precision": "bf16",
                "threads": 1,
                "environment": json.dumps({"ablate": "0.1.0", "cpu": "a processor", "packages": {"torch": "2.14"}}),
                "weights_digest": DIGEST,
                "samples_digest": DIGEST,
                "finished_at": START + timedelta(seconds=len(made["runs"])),
            } | columns
            made["runs"].append(run)
            for metric in ("fd", "fd_inf", "kd", "precision", "recall", "fd_floor", "diversity_pd", "nearest_pd"):
                row = {"run_id": run["run_id"], "extractor": "efficientnet-lite0", "metric": metric}
                made["fidelity"].append(row | {"value": fd, "n": 512, "ref_n": 2048, "weights_digest": DIGEST})
            for scheme in ("fp32", *schemes) if schemes else ():
                made["quantized"].append(_format(run["run_id"], scheme, fd, draw))
    return made


def planned(made: Rows, metrics: Sequence[str] = ()) -> Rows:
    """Return a copy of a study whose runs all belong to one plan, recorded before they started."""
    made = {table: [dict(row) for row in rows] for table, rows in made.items()}
    variants_ = sorted({(run["variant"], run["config_hash"]) for run in made["runs"]})
    plan_row = {
        "plan_id": "plan",
        "variants": json.dumps([{"name": name, "config_hash": config} for name, config in variants_]),
        "seeds": json.dumps(sorted({run["seed"] for run in made["runs"]})),
        "metrics": json.dumps(list(metrics)),
        "created_at": START - timedelta(days=1),
    }
    for run in made["runs"]:
        run |= {"plan_id": "plan", "started_at": START}
    return made | {"plans": [plan_row]}


def _stated(name: str) -> dict[str, str]:
    """What a variant's file says, as a run records it."""
    return dict(_read_stated(name, Path.cwd()))


@cache
def _read_stated(name: str, folder: Path) -> dict[str, str]:
    if name not in variants.names():
        return {}
    (spec,) = plan([name], [0], "quick")
    return {"about": spec.about, "claims": spec.claims}


def _axis(name: str) -> str:
    return variants.load(name).axis if name in variants.names() else "synthetic"


def _format(run_id: str, scheme: str, fd: float, draw: np.random.Generator) -> dict[str, Any]:
    row: dict[str, Any] = {"run_id": run_id, "scheme": scheme, "scope": "all" if scheme == "fp32" else "kpn"}
    row |= {
        "engine": "onnxruntime",
        "simulated": scheme not in ("fp32", "int8"),
        "n": 128,
        "fd_ref_n": 2048,
        "fd": fd + 20,
    }
    if scheme != "fp32":
        change = float(draw.normal(0.2, 0.5))
        row |= {
            "psnr_db": 44 + draw.normal(0, 1),
            "pd": 0.006,
            "fd": fd + 20 + change,
            "fd_change": change,
            "macs_share": 0.93,
        }
    if not row["simulated"]:
        row |= {"file_bytes": 14_000_000 if scheme == "fp32" else 3_800_000}
        row |= {"latency_step_ms": (16 if scheme == "fp32" else 9) + draw.normal(0, 0.2)}
    return row


def frames(*studies: Rows) -> dict[str, pd.DataFrame]:
    """Return the tables of several studies in one folder, as they are read."""
    rows = {table: [row for made in studies for row in made.get(table, [])] for table in TABLES}
    return {table: to_arrow(table, some).to_pandas() if some else _empty(table) for table, some in rows.items()}


@cache
def _empty(table: str) -> pd.DataFrame:
    return to_arrow(table, []).to_pandas()


def findings_of(*studies: Rows, **choice: Any) -> Findings:
    """Return what a report finds in them; `choice` as in `Choice`."""
    return build(frames(*studies), Choice(**choice))


def save(folder: Path, made: Rows) -> Path:
    """Write the rows into a results folder, and return it."""
    results.append(folder, made)
    return folder


if __name__ == "__main__":
    names = [*variants.names(), *(f"synthetic_{i}" for i in range(10_000))][: int((sys.argv[2:] or ["20"])[0])]
    truth = {name: 0.0 if i % 3 else 2.0 * i for i, name in enumerate(names)}
    save(Path(sys.argv[1]), rows(truth, range(int((sys.argv[3:] or ["500"])[0])), schemes=["int8"]))
