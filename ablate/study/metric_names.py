"""The metrics by name: the kind of each, and the network that it needs.

Without its network a metric is null: no other network stands in.

efficientnet-lite0     fd   fd_inf   kd    precision             recall              embedded
inception-v3-compat    fid  fid_inf  kid   precision_inception   recall_inception
dinov2-vit-l-14        fd_dinov2_l  fd_dinov2_l_inf  kd_dinov2_l  precision_dinov2_l  recall_dinov2_l      (and s, b, g)
lpips-alex             lpips        diversity_lpips      nearest_lpips      memorised_lpips  (and lpips_vgg)
efficientnet-lite0     pd           diversity_pd         nearest_pd         memorised_pd     embedded
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from ablate.base.errors import AblateError, did_you_mean

EMBEDDED = "efficientnet-lite0"
INCEPTION = "inception-v3-compat"
SETS = ("frechet", "infinity", "kernel", "precision", "recall")  # kinds that compare two sets by features
SAMPLES = ("diversity", "nearest", "memorised")  # kinds that use a perceptual distance between samples
HIGHER_IS_BETTER = ("precision", "recall", "diversity", "nearest")  # kinds
PAIRS = "pairs"  # the kind that compares image by image

_BY_FEATURES = {
    EMBEDDED: ("fd", "fd_inf", "kd", "precision", "recall"),
    INCEPTION: ("fid", "fid_inf", "kid", "precision_inception", "recall_inception"),
    **{
        f"dinov2-vit-{size}-14": (
            f"fd_dinov2_{size}",
            f"fd_dinov2_{size}_inf",
            f"kd_dinov2_{size}",
            f"precision_dinov2_{size}",
            f"recall_dinov2_{size}",
        )
        for size in "sblg"
    },
}
FEATURES = {"fd": 1280, "fid": 2048}  # headline metric -> number of features
PERCEPTUAL = {"pd": EMBEDDED, "lpips": "lpips-alex", "lpips_vgg": "lpips-vgg"}  # distance -> network


# Words in names of metrics that ablate does not measure, as in `val/loss` or `word_perplexity`.
_HIGHER = frozenset((
    "acc", "accuracy", "ap", "auc", "auroc", "auprc", "bleu", "chrf", "dice", "em", "exact", "f1", "iou", "kappa",
    "likelihood", "map", "mcc", "miou", "mrr", "ndcg", "pearson", "precision", "psnr", "r2", "recall", "return",
    "returns", "reward", "rouge", "rougel", "score", "sensitivity", "spearman", "specificity", "ssim", "success",
    "top1", "top5", "winrate",
))  # fmt: skip
_LOWER = frozenset((
    "bpb", "bpc", "bpd", "brier", "cer", "divergence", "ece", "err", "error", "errors", "fid", "kid", "kl", "latency",
    "logloss", "loss", "losses", "lpips", "mae", "mape", "mse", "nll", "perplexity", "ppl", "regret", "rmse",
    "seconds", "ter", "wer",
))  # fmt: skip


@dataclass(frozen=True)
class Metric:
    """A metric: its kind, its network (None: pixels), its perceptual distance if it uses one."""

    name: str
    kind: str
    network: str | None
    distance: str | None = None


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        *(Metric(n, kind, net) for net, some in _BY_FEATURES.items() for kind, n in zip(SETS, some, strict=True)),
        *(Metric(f"{kind}_{d}", kind, net, d) for d, net in PERCEPTUAL.items() for kind in SAMPLES),
        *(Metric(d, PAIRS, net, d) for d, net in PERCEPTUAL.items()),
        Metric("psnr_db", PAIRS, None),
    )
}


def choose(names: Iterable[str]) -> list[Metric]:
    """Return the metrics of these names, each once.

    Raises:
        AblateError: There is no such metric.
    """
    for name in (chosen := list(dict.fromkeys(names))):
        if name not in METRICS:
            raise AblateError(
                f"--metric {name}: no such metric{did_you_mean(name, METRICS)} Allowed: {', '.join(METRICS)}"
            )
    return [METRICS[name] for name in chosen]


def name_of(kind: str, network: str) -> str:
    """Return the metric of a kind of `SETS` on the features of a network."""
    return _BY_FEATURES[network][SETS.index(kind)]


def headline_of(network: str) -> str:
    """Return the best known metric of a network: `fid`, `lpips`, `fd_dinov2_l`."""
    return next(name for name, one in METRICS.items() if one.network == network and one.kind not in SAMPLES)


def higher_is_better(name: str) -> bool:
    """Return whether higher values are better, also of a metric in a number format (`int8_psnr_db`)."""
    plain = name if name in METRICS else name.partition("_")[2]
    return plain == "psnr_db" or (plain in METRICS and METRICS[plain].kind in HIGHER_IS_BETTER)


def direction(name: str) -> Literal["higher", "lower"] | None:
    """Return which values of a metric are better by what its name says; None: its words do not tell, or disagree.

    Args:
        name: As in `psnr_db`, `val/loss` or `acc,none`.
    """
    if name in METRICS:
        return "higher" if higher_is_better(name) else "lower"
    words = set(re.split(r"[^a-z0-9]+", name.lower()))
    if words & _HIGHER and words & _LOWER:
        return None
    return "higher" if words & _HIGHER else "lower" if words & _LOWER else None
