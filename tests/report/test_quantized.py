"""Number formats in a report: means, ratios to the float32 graph, sensitivities, and verdicts that need six seeds."""

from typing import Any

import pandas as pd
import pytest

from ablate import results
from ablate.report.quantized import cells, legend, summarise


def table(rows: list[dict[str, Any]]) -> pd.DataFrame:
    arrow = results.SCHEMAS["quantized"].empty_table().to_pandas()
    return pd.concat([arrow, pd.DataFrame(rows)]).reindex(columns=arrow.columns).astype(arrow.dtypes)


def study(seeds: int, direct_loses: float) -> tuple[pd.DataFrame, dict[str, dict[int, dict[str, Any]]]]:
    """The baseline and `direct` in int8; the latter's PSNR is lower by `direct_loses` and a little more each seed."""
    rows, runs = [], {}
    for variant in ("baseline", "direct"):
        for seed in range(seeds):
            run_id = f"{variant}-{seed}"
            runs.setdefault(variant, {})[seed] = {"run_id": run_id, "variant": variant}
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
            rows += [{"run_id": run_id, **row} for row in (fp32, int8, heads, filters)]
    return table(rows), runs


def test_means_ratios_and_the_most_sensitive_group() -> None:
    found = summarise(*study(2, 5.0), "baseline")
    assert found is not None
    row = next(row for row in found.rows if (row.label, row.scope) == ("direct", "kpn"))
    assert (row.psnr_db, row.smaller, row.faster, row.seeds) == (pytest.approx(34.95), 4.0, 1.5, 2)
    assert found.most_sensitive[0].endswith("filters 30.0, heads 50.0")
    simulated = [line for line in cells(found) if line[1] == "int8*"]
    assert {line[2] for line in simulated} == {"filters"}
    assert all(line[-2:] == ["-", "-"] for line in simulated)


@pytest.mark.parametrize(
    ("seeds", "loses", "verdict"), [(5, 5.0, "undecided"), (6, 5.0, "supported"), (6, -9.0, "contradicted")]
)
def test_the_claim_on_direct_prediction_gets_a_verdict(seeds: int, loses: float, verdict: str) -> None:
    found = summarise(*study(seeds, loses), "baseline")
    assert found is not None
    claims = {claim.metric: claim for claim in found.claims if claim.label == "direct"}
    assert set(claims) == {"int8_psnr_db", "int8_fd_change"}
    assert claims["int8_psnr_db"].verdict.verdict == verdict
    assert claims["int8_fd_change"].verdict.verdict == "undecided"  # no difference at all
    assert any(f"direct is worse in int8_psnr_db: {verdict}" in line for line in legend(found))


def test_nothing_measured_is_nothing_shown() -> None:
    frame, runs = study(1, 1.0)
    assert summarise(frame[frame["scheme"] == "fp32"], runs, "baseline") is None
    lone = summarise(frame, {"direct": runs["direct"]}, None)
    assert lone is not None
    assert lone.claims == ()
