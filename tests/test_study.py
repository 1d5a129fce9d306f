"""Seeds and the plan of a study."""

import pytest

from ablate.errors import VariantError
from ablate.study import parse_seeds, plan


@pytest.mark.parametrize(("text", "seeds"), [("0", [0]), ("0-4", [0, 1, 2, 3, 4]), ("3, 1,1-2", [3, 1, 2])])
def test_seeds(text: str, seeds: list[int]) -> None:
    assert parse_seeds(text) == seeds


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("-1", "'-1' is not a seed"),
        ("5-2", r"5-2 runs backwards; did you mean 2-5\?"),
        ("a", "'a' is not a seed"),
        ("", "'' is not a seed"),
        ("0-99999", "at most 1000"),
    ],
)
def test_bad_seeds_are_refused(text: str, message: str) -> None:
    with pytest.raises(VariantError, match=message):
        parse_seeds(text)


def test_plan_goes_seed_by_seed_and_names_runs_by_content() -> None:
    specs = plan(["baseline", "no_drift", "no_drift"], [0, 1], "smoke")
    assert [(s.variant, s.seed) for s in specs] == [("baseline", 0), ("no_drift", 0), ("baseline", 1), ("no_drift", 1)]
    ids = {s.run_id("cats", "digest") for s in specs}
    assert len(ids) == 4
    assert specs[0].run_id("cats", "other") not in ids
    assert "/" not in specs[0].run_id("../my cats", "digest")
