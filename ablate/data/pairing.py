"""Pairs of images of two sets, matched by their names: never by the place of a name in text order.

Two images are a pair if their paths in the sets are equal without suffixes, or else their file
names, or else the whole numbers in their names. Numbers that all images of a set share do not count.
Several numbers are matched by the letters before them: `s0_i1` is `i1_s0`.
The images of an array have no names: they are numbered from 0, and files that pair with them are
numbered without gaps from 0 or 1. Each image must have exactly one partner.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Hashable, Sequence

from ablate.base.errors import DataError
from ablate.base.text import one_line
from ablate.data.image_files import ImageFiles

Keys = Sequence[Hashable]
# Letters and the number after them. Python refuses to read numbers of more than 4,300 digits.
NUMBER = re.compile(r"([^\W\d_]*)[\W_]*([0-9]{1,1000})")


def match_by_name(a: ImageFiles, b: ImageFiles) -> list[int]:
    """Return the place in `b` of the partner of each image of `a`.

    Raises:
        DataError: The sets differ in size, or an image has no partner or several.
    """
    if len(a) != len(b):
        raise DataError(
            f"{a.where}: {len(a):,} images, {b.where}: {len(b):,}; images are compared in pairs; "
            "fix: give as many in both"
        )
    if len(a) == 1 or (a.names is None and b.names is None):
        return list(range(len(a)))
    if a.names is None or b.names is None:
        keys = [range(len(x)) if x.names is None else _from_zero(_numbers(x.names)[0]) for x in (a, b)]
        places = _match(*keys)
        return places if places is not None else _refuse(a, b, keys)
    tries: list[list[Keys]] = [[x, y] for x, y in zip(_by_path(a.names), _by_path(b.names), strict=True)]
    tries.append(_by_numbers(a.names, b.names))
    for keys in tries:
        places = _match(*keys)
        if places is not None:
            return places
    return _refuse(a, b, max(reversed(tries), key=_matches))


def _by_path(names: list[str]) -> list[Keys]:
    return [names, [name.rpartition("/")[2] for name in names]]


def _by_numbers(a: list[str], b: list[str]) -> list[Keys]:
    """Return the numbers in the names of both sets, matched by the letters before each number."""
    (numbers_a, labels_a), (numbers_b, labels_b) = _numbers(a), _numbers(b)
    if labels_a and labels_b and len(set(labels_a)) == len(labels_a) and sorted(labels_a) == sorted(labels_b):
        order = [labels_b.index(label) for label in labels_a]
        numbers_b = [tuple(one[i] for i in order) for one in numbers_b]
    return [numbers_a, numbers_b]


def _numbers(names: list[str]) -> tuple[list[tuple[int, ...]], list[str]]:
    """Return the whole numbers in each name, without those that all names share, and the letters before them.

    There are no letters if they differ between names.
    """
    found = [NUMBER.findall(name) for name in names]
    numbers = [tuple(int(digits) for _, digits in one) for one in found]
    columns = set(map(len, numbers))
    if len(columns) > 1:
        return numbers, []
    varying = [i for i in range(columns.pop()) if len({one[i] for one in numbers}) > 1]
    labels = {tuple(one[i][0].lower() for i in varying) for one in found}
    return [tuple(one[i] for i in varying) for one in numbers], list(labels.pop()) if len(labels) == 1 else []


def _from_zero(numbers: list[tuple[int, ...]]) -> Keys:
    """Return keys of one number as that number; 1 to n without gaps becomes 0 to n - 1."""
    single = [one[0] if len(one) == 1 else one for one in numbers]
    if set(single) == set(range(1, len(single) + 1)):
        return [one - 1 for one in single if isinstance(one, int)]
    return single


def _match(a: Keys, b: Keys) -> list[int] | None:
    """Return the index in b of each key of a, if both hold the same keys, once each."""
    places = {key: i for i, key in enumerate(b)}
    if len(places) < len(b) or len(set(a)) < len(a) or set(a) != set(places):
        return None
    return [places[key] for key in a]


def _matches(keys: Sequence[Keys]) -> int:
    """Return how many keys occur exactly once in each of the two sets."""
    counts = [Counter(one) for one in keys]
    return sum(n == 1 == counts[1][key] for key, n in counts[0].items())


def _refuse(a: ImageFiles, b: ImageFiles, keys: list[Keys]) -> list[int]:
    """Raise the error that shows the first image without exactly one partner."""
    counts = [Counter(one) for one in keys]
    for one, other, mine, theirs in ((a, b, 0, 1), (b, a, 1, 0)):
        for i, key in enumerate(keys[mine]):
            if counts[mine][key] != 1 or counts[theirs][key] != 1:
                what = "no partner" if not counts[theirs][key] else "more than one possible partner"
                raise DataError(
                    f"{one.where}: {_name(one, i)} has {what} in {other.where} ({_name(other, 0)}, ...); images are "
                    "paired by equal names or by the numbers in them; fix: name both sets alike"
                )
    raise AssertionError("the keys match")


def _name(images: ImageFiles, i: int) -> str:
    return f"row {i}" if images.names is None else one_line(images.names[i])
