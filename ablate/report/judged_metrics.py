"""The metrics and costs that can be judged: what each means, its direction, and the default ones."""

from __future__ import annotations

from ablate.base.errors import ResultsError, did_you_mean
from ablate.study.metric_names import METRICS

HEADLINES = (("fid", "fd"), ("lpips", "pd"))  # the first of each pair if every finished run has it, else the second
ABOUT = {
    "fid": "Frechet distance in Inception-v3 features",
    "fd": "Frechet distance in EfficientNet-Lite0 features",
    "lpips": "LPIPS of one-step denoising on held-out images",
    "pd": "EfficientNet-Lite0 perceptual distance of one-step denoising on held-out images",
    "lpips_vgg": "LPIPS (VGG16) of one-step denoising on held-out images",
    "psnr_db": "PSNR of one-step denoising on held-out images, dB",
}
KINDS = {
    "frechet": "Frechet distance in {} features",
    "infinity": "Frechet distance in {} features, extrapolated to infinite sets",
    "kernel": "kernel distance in {} features",
    "precision": "precision in {} features",
    "recall": "recall in {} features",
    "diversity": "mean distance between all pairs of samples, by {}",
    "nearest": "median distance to the nearest training image, by {}",
    "memorised": "fraction of samples next to a training image, by {}",
}
COSTS = {
    "params": "parameters",
    "macs": "multiply-accumulates of one network evaluation",
    "nfe": "network evaluations per image",
    "train_macs": "multiply-accumulates of the training",
    "train_wall_s": "training time, s",
    "latency_step_ms": "time of one network evaluation, ms",
    "latency_image_ms": "time of one image, ms",
    "peak_memory_mb": "peak memory, MB",
}


def describe(name: str) -> str:
    """Return the meaning of a metric or cost in a few words.

    Raises:
        ResultsError: There is no such metric.
    """
    if name in ABOUT or name in COSTS:
        return ABOUT.get(name) or COSTS[name]
    if name not in METRICS:
        near = did_you_mean(name, [*METRICS, *COSTS])
        raise ResultsError(f"--metric {name}: no such metric{near} Allowed: {', '.join([*METRICS, *COSTS])}")
    return KINDS[METRICS[name].kind].format(METRICS[name].network)
