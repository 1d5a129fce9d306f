"""The rows of a report, made safe: finite numbers and printable text, for a table may come from elsewhere."""

from __future__ import annotations

import json
from contextlib import suppress

import numpy as np
import pandas as pd

from ablate.base.text import printable
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
    frame = frame.assign(**_processors(runs), code=_code(runs))
    texts = {}
    for name in TEXT:
        code, distinct = pd.factorize(frame[name])  # a lookup per row is slow: each distinct text is cleaned once
        safe = np.array([*(printable(" ".join(str(value).split())) for value in distinct), None], object)
        texts[name] = pd.Series(safe[code], frame.index, dtype=object)  # the code of no value is -1
    return frame.assign(**texts, run_id=frame["run_id"].astype(object), seed=frame["seed"].astype("int64"))


def _processors(runs: pd.DataFrame) -> dict[str, pd.Series]:
    """Return what each run was computed on.

    `processor` is the name of the GPU, or of the CPU if there was none. `vector_units` are the CPU's,
    where they are recorded. `libraries` are names and versions of those that compute.
    """
    environments = runs["environment"] if "environment" in runs else pd.Series(None, runs.index, dtype=object)
    columns: dict[str, dict[str, str | None]] = {"processor": {}, "vector_units": {}, "libraries": {}}
    for text in environments.dropna().unique():
        with suppress(ValueError, AttributeError, TypeError):  # a table may come from elsewhere
            parts = json.loads(text)
            read = (parts.get(key) for key in ("gpu", "cpu", "cpu_features"))
            gpu, cpu, units = (value if value and isinstance(value, str) else None for value in read)
            columns["processor"][text], columns["vector_units"][text] = gpu or cpu, None if gpu else units
            columns["libraries"][text] = ", ".join(f"{name} {parts[name]}" for name in LIBRARIES if parts.get(name))
    return {name: environments.astype(object).map(values) for name, values in columns.items()}


def _code(runs: pd.DataFrame) -> pd.Series:
    """Return the code that computed each run, in words: its commits, `with changes` where it was edited.

    Two runs of equal words were computed by equal sources, as far as their rows tell.
    """
    columns = [runs[name].astype(object) if name in runs else [None] * len(runs) for name in COLUMNS]
    keys = list(zip(*columns, strict=True))
    names = {key: " then ".join(map(str, versions_of(*key))) for key in set(keys)}
    return pd.Series([names[key] for key in keys], runs.index, dtype=object)


def finite(frame: pd.DataFrame) -> pd.DataFrame:
    """Return a table with null in place of infinite numbers.

    `ablate.store.tables.append` writes none, but a table may come from elsewhere.
    """
    floats = frame.select_dtypes("float64")
    infinite = np.isinf(floats.to_numpy())
    return frame.assign(**floats.mask(infinite)) if infinite.any() else frame
