"""The images of a study: the embedded cats, the user's files, or a data set of a plug-in."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from ablate.base.errors import DataError, PluginError
from ablate.base.text import one_line
from ablate.data.cats import NAME
from ablate.data.datasets import ImageSet, load_dataset
from ablate.study import plugins
from ablate.study.config import Config, DataConfig
from ablate.study.plan import RunSpec


def load_images(source: str, form: DataConfig) -> ImageSet:
    """Load a data set in the form of a study.

    Args:
        source: `cats`, the name of a plug-in's data set, or the path of a folder, a zip or a `.npz`.
        form: Size and channels, and the array of an `.npz`.

    Raises:
        DataError: The data cannot be used.
        PluginError: The plug-in's function fails, or returns no images.
    """
    if source == NAME or Path(source).exists() or source not in plugins.names("dataset"):
        return load_dataset(source, size=form.size, channels=form.channels, array=form.array)
    found = plugins.find("dataset", source)
    what = f"data set {source} ({found.file})"
    if form.array:
        raise DataError(f"{what}: --array {one_line(form.array)}: only an .npz file has arrays; fix: leave it out")
    try:
        images = np.asarray(found.target(form.size))
    except Exception as error:  # whatever a user's code raises
        raise PluginError(f"{what}: {type(error).__name__}: {one_line(error)}") from error
    if images.dtype != np.uint8:
        raise PluginError(f"{what}: the images are {images.dtype}; they must be uint8, 0 to 255")
    with tempfile.TemporaryDirectory(prefix="ablate-data-") as folder:
        path = Path(folder) / f"{source}.npz"
        np.savez(path, images=images)
        try:
            data = load_dataset(str(path), size=form.size, channels=form.channels)
        except DataError as error:
            raise PluginError(str(error).replace(str(path), what)) from error
    return replace(data, name=source)


def study_images(source: str, specs: Sequence[RunSpec]) -> ImageSet:
    """Load the data set of a study, in the form that all of its runs have in common.

    Raises:
        AblateError: As `load_images`.
    """
    forms = {spec.config.data for spec in specs if isinstance(spec.config, Config)} or {DataConfig()}
    return load_images(source, forms.pop())
