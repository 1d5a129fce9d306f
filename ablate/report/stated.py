"""What variants' files said when their runs started, as the runs' rows tell.

Rows that are older than these columns have none. For them the packaged file of today is read, never a
file of the folder that the command is typed in: a results folder says the same from everywhere.
"""

from __future__ import annotations

import json
from typing import NamedTuple

import pandas as pd
from pydantic import ValidationError

from ablate.base.text import printable
from ablate.study import variants
from ablate.study.claims import Claim


class Stated(NamedTuple):
    """What a variant's file said."""

    about: str
    claims: tuple[Claim, ...]


NOTHING = Stated("", ())


def stated_variants(runs: pd.DataFrame) -> dict[str, Stated]:
    """Return what each variant's file said, by the newest run that recorded it.

    Args:
        runs: Rows of `runs`, oldest first.
    """
    recorded = runs[runs["claims"].notna()].drop_duplicates("variant", keep="last")
    columns = (recorded["variant"], recorded["about"].fillna(""), recorded["claims"])
    found = {name: Stated(about, _claims(claims)) for name, about, claims in zip(*columns, strict=True)}
    for name in set(runs["variant"]) - set(found):
        packaged = variants.load_packaged(str(name))
        found[name] = NOTHING if packaged is None else Stated(printable(packaged.about), packaged.claims)
    return found


def _claims(text: str) -> tuple[Claim, ...]:
    """Read the claims of a row; a foreign or damaged value has none."""
    try:
        return tuple(Claim.model_validate(claim) for claim in json.loads(text))
    except (ValueError, TypeError, RecursionError, ValidationError):
        return ()
