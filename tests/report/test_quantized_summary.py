"""Number formats in a report: means, ratios to the float32 graph, and sensitivities."""

from typing import Any

import pandas as pd
import pytest

from ablate.report.quantized_summary import summarise
from ablate.store.schema import SCHEMAS


def table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    """Rows of `quantized` with the label and seed of their runs."""
    empty = SCHEMAS["quantized"].empty_table().to_pandas()
    made = pd.concat([empty, pd.DataFrame(rows)]).reindex(columns=[*empty.columns, "label", "seed"])
    return made.astype(dict(empty.dtypes))


def study(seeds: int, direct_loses: float) -> pd.DataFrame:
    """The baseline and `direct` in int8; the latter's PSNR is lower by `direct_loses` and a little more each seed."""
    rows = []
    for variant in ("baseline", "direct"):
        for seed in range(seeds):
            run = {"run_id": f"{variant}-{seed}", "label": variant, "seed": seed}
            fp32 = {"scheme": "fp32", "scope": "all", "simulated": False, "file_bytes": 4000, "latency_step_ms": 6.0}
            int8 = {
                "scheme": "int8",
                "scope": "kpn",
                "simulated": False,
                "file_bytes": 1000,
                "latency_step_ms": 4.0,
                "n": 8,
            }
            int8 |= {"psnr_db": 40.0 - (direct_loses + 0.1 * seed if variant == "direct" else 0), "fd_change": 1.0}
            heads = {"scheme": "int8", "scope": "heads", "simulated": False, "psnr_db": 50.0, "n": 8}
            filters = {"scheme": "int8", "scope": "filters", "simulated": True, "psnr_db": 30.0, "n": 8}
            rows += [{**run, **row} for row in (fp32, int8, heads, filters)]
    return table(rows)


def test_means_ratios_and_the_most_sensitive_group() -> None:
    found = summarise(study(2, 5.0))
    assert found is not None
    row = next(row for row in found.rows if (row.label, row.scope) == ("direct", "kpn"))
    assert (row.psnr_db, row.smaller, row.faster, row.seeds) == (pytest.approx(34.95), 4.0, 1.5, 2)
    assert found.most_sensitive[0].endswith("filters 30.0, heads 50.0")
    simulated = [row for row in found.rows if row.simulated]
    assert {row.scope for row in simulated} == {"filters"}
    assert all((row.smaller, row.faster) == (None, None) for row in simulated)


def test_times_are_compared_within_one_session() -> None:
    found = study(2, 5.0)
    kpn = found["scope"] == "kpn"
    found.loc[kpn, "float_latency_step_ms"] = 10.0  # of a later session, on a busier machine than the float32 row's 6.0
    summary = summarise(found)
    assert summary is not None
    assert {row.faster for row in summary.rows if row.scope == "kpn"} == {2.5}
    found.loc[found["scheme"] == "fp32", "latency_step_ms"] = None  # first measured beside nothing that is timed
    assert [row.faster for row in (summarise(found) or summary).rows if row.scope == "kpn"] == [2.5, 2.5]


def test_nothing_measured_is_nothing_shown() -> None:
    found = study(1, 1.0)
    assert summarise(found[found["scheme"] == "fp32"]) is None
    assert summarise(found[:0]) is None


def test_without_the_float_graph_there_are_no_ratios() -> None:
    found = study(1, 1.0)
    lone = summarise(found[found["scheme"] != "fp32"])
    assert lone is not None
    assert all((row.smaller, row.faster) == (None, None) for row in lone.rows)
