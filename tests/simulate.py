"""How the statistics behave on simulated studies whose truth is known. The tests do the same with fewer trials.

python tests/simulate.py [TRIALS]
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np

from ablate.report import gate
from ablate.stats import paired


def decided(x: np.ndarray, family: int = 1) -> bool:
    """Whether a verdict stands whose p is the smallest of a family."""
    found = paired.paired(x)
    return paired.stands(found, min(1.0, family * (found.p or 1.0)))


def study(random: np.random.Generator, variants: int, seeds: int, shift: float) -> tuple[bool, bool]:
    """One study of variants against a shared baseline, the first of them shifted: is one claimed falsely, is the first found?"""
    runs = random.normal(0, 1, (variants + 1, seeds))
    pairs = [paired.paired(runs[i] - runs[0] + (shift if i == 1 else 0)) for i in range(1, variants + 1)]
    corrected = paired.holm([pair.p or 1.0 for pair in pairs])
    words = [paired.compare(pair, p, variants).word for pair, p in zip(pairs, corrected, strict=True)]
    wrong = words[1:] if shift else words
    return any(word != "undecided" for word in wrong), words[0] == "hurts"


def covered(random: np.random.Generator, n: int, law: Callable[..., np.ndarray]) -> bool:
    found = paired.paired(law(random, n))
    return (found.low or 0) <= 0 <= (found.high or 0)


def skewed(random: np.random.Generator, n: int) -> np.ndarray:
    return random.exponential(1, n) - 1


def normal(random: np.random.Generator, n: int) -> np.ndarray:
    return random.normal(0, 1, n)


def alarm(random: np.random.Generator, variants: int, seeds: int) -> bool:
    """One A/A study at the gate, with nothing allowed."""
    common = random.normal(100, 10, seeds)
    theirs, *others = (common + random.normal(0, 2, seeds) for _ in range(variants + 1))
    nothing, alpha = gate.Tolerance(0.0, relative=True), paired.ALPHA / variants
    return any(gate.judge("x", mine, theirs, nothing, alpha=alpha).verdict == "failed" for mine in others)


def main(trials: int) -> None:
    random = np.random.default_rng(0)

    def share(of: Callable[[], bool]) -> str:
        return f"{sum(of() for _ in range(trials)) / trials:.4f}"

    print(f"{trials:,} trials each; two standard errors of 0.05: {2 * (0.05 * 0.95 / trials) ** 0.5:.4f}")
    for name, law in (("normal", normal), ("exponential", skewed)):
        for n in (2, 3, 6, 12, 30):
            print(f"interval covers, {name}, n = {n}: {share(lambda n=n, law=law: covered(random, n, law))}")
    for n in (5, 6, 7, 8, 11, 20):
        print(f"false verdict, one comparison, n = {n}: {share(lambda n=n: decided(normal(random, n)))}")
    for variants, n in ((8, 10), (14, 11), (28, 12)):
        print(
            f"a false verdict in a study of {variants}, n = {n}: {share(lambda v=variants, n=n: study(random, v, n, 0.0)[0])}"
        )
    for family in (1, 8, 28):
        for extra in (0, 1, 2, 5):
            n = paired.min_seeds(paired.ALPHA / family) + extra
            effect = paired.detectable(1.0, n, paired.ALPHA / family) or 0.0
            found = share(lambda n=n, e=effect, f=family: decided(e + normal(random, n), f))
            print(f"found at {effect:.3f} sd, predicted 0.8, first of {family}, n = {n}: {found}")
    for variants in (1, 5, 14):
        print(f"false alarm of the gate, {variants} variants, n = 6: {share(lambda v=variants: alarm(random, v, 6))}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
