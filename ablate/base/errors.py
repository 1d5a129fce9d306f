"""Errors that the user can fix.

Each message is one line: what was asked, what was found, what is allowed, how to fix it.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AblateError(Exception):
    """Base class of the errors; the command line prints the message and exits with 1."""


class VariantError(AblateError):
    """A variant, preset or setting does not exist or is not allowed."""


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


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """Return `; did you mean X?` with the closest allowed word, or `.` if none is close."""
    near = difflib.get_close_matches(word, list(allowed), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else "."
