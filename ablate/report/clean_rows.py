"""The rows of a report, made safe: finite numbers and printable text, for a table may come from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from ablate.base.text import one_line, read_json
from ablate.report.judged_metrics import COSTS
from ablate.store.code_versions import COLUMNS, versions_of
from ablate.study.metric_names import METRICS

TEXT = (
    *("variant", "axis", "preset", "status", "error", "data", "data_digest", "budget", "config_hash"),
    *("about", "claims", "plan_id", "code", "libraries", "baseline"),
    *("device", "processor", "vector_units", "arithmetic", "mixed_arithmetic"),
)
NUMBERS = (
    *("run_id", "seed", "steps", "threads", "memorised", "unstable", "started_at", "finished_at", "decode_macs"),
    *("fd_n", "fd_ref_n", "fd_floor", "fd_floor_n", "fid_floor"),
    *("autoencoder_fd", "autoencoder_pd", "autoencoder_psnr_db"),
)
LIBRARIES = ("torch", "numpy", "numba", "scipy", "torchvision", "torch-fidelity", "lpips", "timm", "pillow")


def clean_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """Keep the runs that may be judged and the columns that a report needs, with finite numbers and printable text.

    Runs with a purpose are left out: they chose a setting, or are points of a curve.
    A table may come from elsewhere, so nothing in its text may control the terminal.
    """
    if "purpose" in runs:
        runs = runs[runs["purpose"].isna()]
    kept = [name for name in runs.columns if name in (*TEXT, *NUMBERS, "precision") or name in METRICS or name in COSTS]
    frame = finite(runs[kept].rename(columns={"precision": "arithmetic"}))  # a metric is named precision too
    computed = _processors(runs) | {"code": _code(runs)}
    texts = {"run_id": frame["run_id"].to_numpy(object)}
    for name in TEXT:
        column = computed[name] if name in computed else frame[name].to_numpy(object)
        code, distinct = pd.factorize(column)  # a lookup per row is slow: each distinct text is cleaned once
        safe = np.array([*map(one_line, distinct), None], object)
        texts[name] = safe[code]  # the code of no value is -1
    rest = frame[[name for name in frame if name not in texts]]
    whole = pd.concat([rest, pd.DataFrame(texts, frame.index, dtype=object)], axis=1)
    whole["seed"] = whole["seed"].to_numpy("int64")
    return whole.copy()  # in few blocks, which is faster to filter


def tuples(frame: pd.DataFrame, columns: Sequence[str], missing: object = None) -> list[tuple[Any, ...]]:
    """Return the values of some columns by row, with `missing` for null."""
    values = (frame[name].tolist() for name in columns)
    return list(zip(*([missing if x is None or x is pd.NA or x != x else x for x in xs] for xs in values), strict=True))


def objects(text: object) -> list[dict[str, Any]]:
    """Return the objects of a JSON list, or an empty list for any other text."""
    return [one for one in read_json(text, list) if isinstance(one, dict)]


def _processors(runs: pd.DataFrame) -> dict[str, np.ndarray]:
    """Return what each run was computed on.

    `processor` is the name of the GPU, or of the CPU if there was none. `vector_units` are the CPU's,
    where they are recorded. `libraries` are names and versions of those that compute.
    """
    environments = runs["environment"] if "environment" in runs else pd.Series(None, runs.index, dtype=object)
    columns: dict[str, dict[str, str | None]] = {"processor": {}, "vector_units": {}, "libraries": {}}
    for text in environments.dropna().unique():
        parts = read_json(text, dict)
        read = (parts.get(key) for key in ("gpu", "cpu", "cpu_features"))
        gpu, cpu, units = (value if value and isinstance(value, str) else None for value in read)
        columns["processor"][text], columns["vector_units"][text] = gpu or cpu, None if gpu else units
        columns["libraries"][text] = ", ".join(f"{name} {parts[name]}" for name in LIBRARIES if parts.get(name)) or None
    texts = environments.tolist()
    return {name: np.array([values.get(text) for text in texts], object) for name, values in columns.items()}


def _code(runs: pd.DataFrame) -> np.ndarray:
    """Return the code that computed each run, in words: its commits, `with changes` where it was edited.

    Two runs of equal words were computed by equal sources, as far as their rows tell.
    """
    columns = [runs[name].astype(object) if name in runs else [None] * len(runs) for name in COLUMNS]
    keys = list(zip(*columns, strict=True))
    names = {key: " then ".join(map(str, versions_of(*key))) for key in set(keys)}
    return np.array([names[key] for key in keys], object)


def finite(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table with null in place of infinite numbers.

    `ablate.store.tables.append` writes none, but a table may come from elsewhere.
    """
    floats = frame.select_dtypes("float64")
    infinite = np.isinf(floats.to_numpy())
    return frame.assign(**floats.mask(infinite)) if infinite.any() else frame
