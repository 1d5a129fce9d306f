"""The metrics of plug-ins: measured of every run while their plug-in is loaded, for the table `metrics`."""

from __future__ import annotations

import contextlib
import io
import math
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ablate.base import rng
from ablate.base.text import one_line
from ablate.metrics.neighbours import to_float
from ablate.models.autoencoder import ImageCodec
from ablate.runs.context import RunContext
from ablate.runs.evaluation import TIMES, denoised_images
from ablate.study import plugins
from ablate.study.plugins import Plugin

Calls = Iterator[tuple[Any, ...]]  # the arguments of each call of a metric


def measure_own_metrics(context: RunContext, samples: np.ndarray, model: nn.Module, codec: ImageCodec) -> None:
    """Measure every metric of a plug-in. One that fails is left out with a note: the run is finished without it.

    Args:
        context: The run.
        samples: (N, 3, S, S) uint8.
        model: The trained network.
        codec: Decodes what it denoises.
    """
    for name in plugins.names("metric"):
        plugin = plugins.find("metric", name)
        arguments = _arguments(plugin.options["of"], context, samples, model, codec)
        value, why = _value(plugin, arguments)
        if why:
            context.progress.say(f"note: metric {name} ({plugin.file}) is not recorded: {why}", once=True)
            continue
        better, unit = plugin.options["better"], plugin.options["unit"]
        context.rows.add("metrics", {"metric": name, "value": value, "unit": unit or None, "better": better})


def try_metric(name: str, samples: np.ndarray, real: np.ndarray) -> tuple[float | None, str]:
    """Return a metric's value on images alone, and what is wrong with it; None: it needs a run.

    Args:
        name: Its name.
        samples: (N, 3, S, S) uint8.
        real: (M, 3, S, S) uint8.
    """
    plugin = plugins.find("metric", name)
    given: dict[str, tuple[Any, ...]] = {
        "samples": (_unit(samples),),
        "sets": (_unit(samples), _unit(real)),
        "pairs": (_unit(samples), _unit(real[: len(samples)])),
    }
    if plugin.options["of"] not in given:
        return None, ""
    return _value(plugin, iter([given[plugin.options["of"]]]))


def _value(plugin: Plugin, arguments: Calls) -> tuple[float, str]:
    """Return the mean of a metric over calls with these arguments, and why there is none."""
    values = []
    try:
        with contextlib.redirect_stdout(io.StringIO()), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # a metric that draws parts of the samples draws the same ones of each run
            for given in arguments:
                value = plugin.target(*given)
                if isinstance(value, bool | str) or not hasattr(value, "__float__"):
                    return math.nan, f"it returned {type(value).__name__}; it must return a number"
                values.append(float(value))
                if not math.isfinite(values[-1]):
                    return math.nan, f"it returned {value}"
    except Exception as error:  # whatever a user's code raises
        return math.nan, f"{type(error).__name__}: {one_line(error)}"
    return float(np.mean(values)), ""


def _unit(images: np.ndarray) -> Tensor:
    """Return images (N, 3, S, S) uint8 as float32 in [0, 1]."""
    return torch.from_numpy(images).float() / 255


def _arguments(of: str, context: RunContext, samples: np.ndarray, model: nn.Module, codec: ImageCodec) -> Calls:
    """Yield the arguments of each call of a metric; `of` is as in `ablate.metric`."""
    config = context.spec.config
    if of == "samples":
        yield (_unit(samples),)
    elif of == "sets":
        yield _unit(samples), _unit(context.data.training_images(config.measure.fd_reference))
    elif of == "run":
        yield (dict(context.rows.run),)
    else:  # denoised and true held-out images at each of the times
        x = to_float(context.data.held_out[: config.measure.denoise_images], context.device)
        eps = rng.normal(context.spec.seed, "denoise", range(len(x)), config.shape).to(context.device)
        for t in TIMES:
            with torch.inference_mode():
                denoised = [images.cpu() for images in denoised_images(context, model, codec, x, eps, t)]
            yield tuple(((images.clamp(-1, 1) + 1) / 2).clone() for images in (torch.cat(denoised), x.cpu()))
