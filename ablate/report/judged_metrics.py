"""What can be judged: each metric's meaning and direction, and the ones that lead a report."""

from __future__ import annotations

from ablate.base.errors import ResultsError, did_you_mean
from ablate.study.metric_names import METRICS

HEADLINES = (("fid", "fd"), ("lpips", "pd"))  # the first of each pair where every finished run has it
ABOUT = {
    "fid": "Frechet distance in Inception-v3 features",
    "fd": "Frechet distance in EfficientNet-Lite0 features",
    "lpips": "LPIPS of one-step denoising on held-out pictures",
    "pd": "EfficientNet-Lite0 perceptual distance of one-step denoising on held-out pictures",
    "lpips_vgg": "LPIPS (VGG16) of one-step denoising on held-out pictures",
    "psnr_db": "PSNR of one-step denoising on held-out pictures, dB",
}
KINDS = {
    "frechet": "Frechet distance in {} features",
    "infinity": "Frechet distance in {} features, extrapolated to infinite sets",
    "kernel": "kernel distance in {} features",
    "precision": "precision in {} features",
    "recall": "recall in {} features",
    "diversity": "mean distance of all pairs of samples, by {}",
    "nearest": "median distance to the nearest training picture, by {}",
    "memorised": "share of samples next to a training picture, by {}",
}
COSTS = {
    "params": "parameters",
    "macs": "multiply-accumulates of one network evaluation",
    "nfe": "network evaluations of one picture",
    "train_macs": "multiply-accumulates of the training",
    "train_wall_s": "training time, s",
    "latency_step_ms": "time of one network evaluation, ms",
    "latency_image_ms": "time of one picture, ms",
    "peak_memory_mb": "peak memory, MB",
}
UP = ("precision", "recall", "diversity", "nearest")  # kinds of which more is better


def describe(name: str) -> str:
    """Return what a metric is, in a few words.

    Raises:
        ResultsError: There is no such metric.
    """
    if name in ABOUT or name in COSTS:
        return ABOUT.get(name) or COSTS[name]
    if name not in METRICS:
        near = did_you_mean(name, [*METRICS, *COSTS])
        raise ResultsError(f"--metric {name}: no such metric{near} Allowed: {', '.join([*METRICS, *COSTS])}")
    return KINDS[METRICS[name].kind].format(METRICS[name].network)


def higher_is_better(name: str) -> bool:
    """Return the direction of a metric; of one with a number format in front (`int8_psnr_db`) that of the metric behind it."""
    plain = name if name in METRICS else name.partition("_")[2]
    return plain == "psnr_db" or (plain in METRICS and METRICS[plain].kind in UP)
