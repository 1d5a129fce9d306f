"""The direction of a metric by its name."""

import pytest

from ablate.study.metric_names import direction


@pytest.mark.parametrize(
    ("name", "better"),
    [
        ("accuracy", "higher"),
        ("val/loss", "lower"),
        ("eval.Top1", "higher"),
        ("acc,none", "higher"),
        ("word_perplexity", "lower"),
        ("psnr_db", "higher"),
        ("fid", "lower"),
        ("diversity_pd", "higher"),
        ("loss_accuracy", None),
        ("n_params", None),
        ("lossless", None),
        ("", None),
    ],
)
def test_a_name_may_tell_which_values_are_better(name: str, better: str | None) -> None:
    assert direction(name) == better
