"""The errors a user can mend. Each message is one line: what was asked, what was found, what is allowed, how to mend."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class AblateError(Exception):
    """Base of every error that is the user's to mend; the command line prints it in one line and exits with 1."""


class VariantError(AblateError):
    """A variant, preset or setting that does not exist or does not fit."""


class DataError(AblateError):
    """Pictures that are missing, damaged, too few or too large."""


class ResultsError(AblateError):
    """A results folder or table that cannot be read, written or understood."""


class WeightsError(AblateError):
    """Network weights that are missing or are not the ones expected."""


class DivergedError(AblateError):
    """Training produced a loss or a gradient that is not finite."""


def did_you_mean(word: str, allowed: Iterable[str]) -> str:
    """Return `; did you mean X?` for the nearest allowed word, or a full stop when none is near: the message goes on behind it."""
    near = difflib.get_close_matches(word, list(allowed), n=1, cutoff=0.5)
    return f"; did you mean {near[0]}?" if near else "."
