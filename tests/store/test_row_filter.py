"""Conditions of `--where`: rows that fit, missing values, lists in a column, and one line for what is no condition."""

from __future__ import annotations

from datetime import UTC, datetime

import pandas as pd
import pytest

from ablate.base.errors import ResultsError
from ablate.store.row_filter import rows_where
from ablate.store.schema import to_arrow


@pytest.fixture(scope="module")
def runs() -> pd.DataFrame:
    rows = [
        {"run_id": f"r{i}", "variant": name, "preset": "p", "seed": i, "status": "done", **more}
        for i, (name, more) in enumerate(
            {
                "baseline": {"fd": 1.0, "unstable": True, "error": "a,b c"},
                "no_drift": {"fd": -2.0, "unstable": False, "error": "b c"},
                "v_pred": {"started_at": datetime(2026, 11, 27, 12, tzinfo=UTC), "error": "b"},
            }.items()
        )
    ]
    return to_arrow("runs", rows).to_pandas().set_index(pd.Index([7, 8, 9]))


@pytest.mark.parametrize(
    ("condition", "seeds"),
    [
        ("variant == 'no_drift' and seed < 3", [1]),
        ("variant != 'no_drift'", [0, 2]),
        ("variant in ('baseline', 'v_pred') or seed == 1", [0, 1, 2]),
        ("variant not in ['baseline'] and not seed == 2", [1]),
        ("0 < seed <= 2", [1, 2]),
        ("2 > seed", [0, 1]),
        ("fd >= -2e0", [0, 1]),
        ("not fd < 0", [0]),  # the row without a value is left out
        ("fd is None", [2]),
        ("fd is not None", [0, 1]),
        ("fd == None or fd != None", [0, 1, 2]),
        ("fd < seed", [1]),
        ("unstable", [0]),
        ("not unstable", [1]),
        ("unstable == True", [0]),
        ("started_at > '2026-11-27'", [2]),
        ("started_at < '2026-11-27 11:59:00'", []),
        ("'b' in error", [2, 0][:1]),
        ("'b c' in error", [0, 1]),
        ("  ( seed==0 )  ", [0]),
    ],
)
def test_rows_that_fit(runs: pd.DataFrame, condition: str, seeds: list[int]) -> None:
    fits = rows_where(runs, condition)
    assert runs.loc[fits, "seed"].tolist() == seeds
    assert rows_where(runs.iloc[:0], condition).tolist() == []


@pytest.mark.parametrize(
    ("condition", "message"),
    [
        ("varaint == 'x'", "no column 'varaint'; did you mean variant?"),
        ("variant == no_drift", "no column 'no_drift'. Texts stand in quotes"),
        ("variant = 'x'", "not a condition"),
        ("", "not a condition"),
        ("seed == 'a'", "seed is a number, 'a' is text"),
        ("seed", "seed is compared with nothing"),
        ("started_at > 'yesterday'", "not a condition"),
        ("seed + 1 == 2", "seed + 1 is neither a column nor a text"),
        ("__import__('os').system('touch x')", "is neither a column nor a text"),
        ("variant.upper() == 'X'", "is neither a column nor a text"),
        ("[x for x in variant] == 1", "is neither a column nor a text"),
        ("seed is 3", "seed is a number, 3 is a number"),
        ("seed == 1" + "0" * 40, "not a condition"),
        ("not " * 5000 + "unstable", "not a condition"),
        ("(" * 5000, "not a condition"),
    ],
)
def test_what_is_no_condition_is_one_line(runs: pd.DataFrame, condition: str, message: str) -> None:
    with pytest.raises(ResultsError) as error:
        rows_where(runs, condition)
    assert message in str(error.value)
    assert str(error.value).endswith("write it as in \"variant == 'no_drift' and seed < 3\"")
