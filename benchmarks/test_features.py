"""Throughput and memory of streamed features against the bare extractor on images in memory.

    pytest benchmarks/test_features.py -s
The two take turns in one process; the ratio of the medians is printed. No test fails by time.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from ablate.data.image_files import ImageFiles
from ablate.inference.latency import peak_memory_mb
from ablate.metrics.extractors import BATCH, load_extractor
from ablate.metrics.set_distances import collect_features
from ablate.study.metric_names import EMBEDDED

N, ROUNDS = 8 * BATCH, 5


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for i, image in enumerate(np.random.default_rng(0).integers(0, 256, (N, 64, 64, 3), np.uint8)):
        Image.fromarray(image).save(tmp_path / f"{i:04}.jpg")
    return tmp_path


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def test_stream_against_the_bare_extractor(folder: Path) -> None:
    extractor = load_extractor(EMBEDDED)
    with ImageFiles(folder) as images:
        ready = [torch.from_numpy(batch) for batch in images.batches(range(N), BATCH)]

        def bare() -> None:
            with torch.inference_mode():
                for batch in ready:
                    extractor(batch)

        def stream() -> None:
            collect_features(images.batches(range(N), BATCH), extractor, N)

        bare()
        pairs = [(seconds(bare), seconds(stream)) for _ in range(ROUNDS)]
    alone, streamed = (statistics.median(side) for side in zip(*pairs, strict=True))
    rates = f"bare {N / alone:.1f} images/s, stream with decoding and statistics {N / streamed:.1f}"
    print(f"\n{rates}: ratio {alone / streamed:.3f}")


def test_memory_of_a_long_stream() -> None:
    extractor = load_extractor(EMBEDDED)
    image = torch.zeros(BATCH, 3, 64, 64, dtype=torch.uint8)
    peaks = []
    for batches in (2, 40):
        collect_features((image for _ in range(batches)), extractor, batches * BATCH, keep=64)
        peaks.append(peak_memory_mb(torch.device("cpu")))
    print(f"\npeak memory after {2 * BATCH} images {peaks[0]:.0f} MB, after {40 * BATCH} more {peaks[1]:.0f} MB")
