"""How the statistics behave on simulated studies whose truth is known. The tests do the same with fewer trials.

python tests/simulate.py [TRIALS]
"""

from __future__ import annotations

import sys
from collections.abc import Callable

import numpy as np

from ablate.report import gate
from ablate.stats import family, joint, paired, sequential


def covered(random: np.random.Generator, n: int, law: Callable[..., np.ndarray]) -> bool:
    found = paired.summarise(law(random, n))
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


LAWS: dict[str, Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]] = {
    "normal": lambda random, shape: random.normal(size=shape),
    "Laplace": lambda random, shape: random.laplace(size=shape),
    "t3": lambda random, shape: random.standard_t(3, size=shape),
}


def differences(random: np.random.Generator, law: str, seeds: int, variants: int, studies: int = 1) -> np.ndarray:
    """Differences (studies, seeds, variants) of null variants from the baseline that they share."""
    runs = LAWS[law](random, (studies, seeds, variants + 1))
    return runs[..., 1:] - runs[..., :1]


def planned_error(random: np.random.Generator, law: str, seeds: int, variants: int, *, unequal: bool = False) -> bool:
    """Whether a planned null study claims something; `unequal`: every second variant lacks two seeds."""
    d = differences(random, law, seeds, variants)[0]
    if unequal:
        d[-2:, ::2] = np.nan
    return any(one.differs for one in family.planned(d, [None] * variants).evidence)


def e_values(d: np.ndarray) -> np.ndarray:
    """The e-value after each seed (studies, seeds, variants), by the formula of `ablate.stats.sequential`, of all studies together."""
    n = np.arange(1, d.shape[1] + 1)[:, None]
    scale, squares = 1 + sequential.EFFECT_VARIANCE * n, np.cumsum(d**2, axis=1)
    explained = np.cumsum(d, axis=1) ** 2 / n  # n mean^2
    ratio = squares / (np.maximum(squares - explained, 0.0) + explained / scale)
    return np.where(n < 2, 1.0, ratio ** (np.maximum(n, 2) / 2) / np.sqrt(scale))


def largest_adjusted(e: np.ndarray) -> np.ndarray:
    """The largest e-value of each family (..., variants) after its correction (...,)."""
    ascending = np.sort(e, axis=-1)
    sums = np.cumsum(ascending, axis=-1) - ascending + ascending[..., -1:]  # the largest and the k smallest
    return np.min(sums / np.arange(1, e.shape[-1] + 1), axis=-1)


def grown_errors(
    random: np.random.Generator, law: str, variants: int, studies: int, *, unequal: bool = False
) -> np.ndarray:
    """Whether each null study, looked at after each of 32 seeds, ever claims something (studies,).

    `unequal`: every second variant gets no seed after the eighth.
    """
    e = e_values(differences(random, law, 32, variants, studies))
    if unequal:
        e[:, 8:, ::2] = e[:, 7:8, ::2]
    return (largest_adjusted(e) >= 1 / paired.ALPHA).any(axis=1)


def topped_up_errors(random: np.random.Generator, law: str, studies: int) -> np.ndarray:
    """Whether null studies of fourteen variants with five seeds claim something (studies,).

    The most promising variant gets more seeds, one by one, up to twelve, and all are judged after each.
    """
    d = differences(random, law, 12, 14, studies)
    best = np.argmax(np.abs(d[:, :5].mean(1)) / d[:, :5].std(1), axis=1)
    e = e_values(d)
    others = np.arange(14) != best[:, None]
    e[:, 5:] = np.where(others[:, None], e[:, 4:5], e[:, 5:])
    return (largest_adjusted(e[:, 5:]) >= 1 / paired.ALPHA).any(axis=1)


def topped_up_error_by_p(random: np.random.Generator, law: str) -> bool:
    """The same for one sign-flip test of the most promising variant after each seed, without a correction."""
    d = differences(random, law, 12, 14)[0]
    best = int(np.argmax(np.abs(d[:5].mean(0)) / d[:5].std(0)))
    return any(joint.p_values(d[:n, best : best + 1])[1][0] <= paired.ALPHA for n in range(6, 13))


def power(random: np.random.Generator, seeds: int, shift: float) -> tuple[bool, bool]:
    """Is the first of 14 variants, shifted by `shift` spreads, found: by joint sign flips, and by Holm's correction?"""
    d = differences(random, "normal", seeds, 14)[0]
    d[:, 0] += shift * 2**0.5
    alone, adjusted = joint.p_values(d)
    smallest_first = np.argsort(alone, kind="stable")
    holm = np.maximum.accumulate(alone[smallest_first] * np.arange(14, 0, -1))
    return adjusted[0] <= paired.ALPHA, holm[np.flatnonzero(smallest_first == 0)[0]] <= paired.ALPHA


def found_at_detectable(random: np.random.Generator, tests: Callable[..., family.Family], n: int, m: int) -> bool:
    """Whether the first of m comparisons is found where it differs by what its family says it detects."""
    d = random.normal(size=(n, m)) - random.normal(size=(n, 1))
    effect = paired.detectable(2**0.5, n, tests(d, [None] * m).critical(n)) or 0.0
    d[:, 0] += effect
    return tests(d, [None] * m).evidence[0].differs


def families(trials: int, report: Callable[[str, float], None]) -> None:
    """Family-wise errors of planned and grown studies, and the power of the planned ones."""
    random = np.random.default_rng(0)

    def share(of: Callable[[], bool], trials: int = trials) -> float:
        return sum(of() for _ in range(trials)) / trials

    for law in LAWS:
        for seeds in (6, 8, 12):
            for variants in (1, 4, 14):
                report(
                    f"planned, {law}, {seeds} seeds, {variants} variants",
                    share(lambda n=seeds, v=variants, law=law: planned_error(random, law, n, v)),
                )
        report(
            f"planned, {law}, 8 seeds, every second of 14 variants has 6",
            share(lambda law=law: planned_error(random, law, 8, 14, unequal=True)),
        )
        for variants in (1, 4, 14):
            errors = grown_errors(random, law, variants, trials)
            report(f"grown one by one to 32 seeds, {law}, {variants} variants", errors.mean())
        errors = grown_errors(random, law, 14, trials, unequal=True)
        report(f"grown one by one, {law}, every second of 14 variants to 8 seeds, the others to 32", errors.mean())
        report(f"topped up to 12 seeds, {law}, e-values", topped_up_errors(random, law, trials).mean())
    report("topped up to 12 seeds, normal, one sign-flip test", share(lambda: topped_up_error_by_p(random, "normal")))
    for seeds in (6, 8):
        for shift in (1.0, 2.0, 3.0):
            found = np.array([power(random, seeds, shift) for _ in range(trials)]).mean(0)
            report(f"power, {seeds} seeds, first of 14 shifted by {shift:g} sd, joint", found[0])
            report(f"power, {seeds} seeds, first of 14 shifted by {shift:g} sd, Holm", found[1])


def main(trials: int) -> None:
    print(f"{trials:,} studies each; two standard errors of 0.05: {2 * (0.05 * 0.95 / trials) ** 0.5:.4f}")
    families(trials, lambda what, value: print(f"{what}: {value:.4f}", flush=True))
    random = np.random.default_rng(0)

    def share(of: Callable[[], bool]) -> str:
        return f"{sum(of() for _ in range(trials)) / trials:.4f}"

    for name, law in (("normal", normal), ("exponential", skewed)):
        for n in (2, 3, 6, 12, 30):
            print(f"interval covers, {name}, n = {n}: {share(lambda n=n, law=law: covered(random, n, law))}")
    for tests in (family.planned, family.grown):
        for n, m in ((8, 1), (8, 14), (12, 14)):
            found = share(lambda tests=tests, n=n, m=m: found_at_detectable(random, tests, n, m))
            print(f"found where predicted at 0.8, {tests.__name__}, n = {n}, first of {m}: {found}")
    for variants in (1, 5, 14):
        print(f"false alarm of the gate, {variants} variants, n = 6: {share(lambda v=variants: alarm(random, v, 6))}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2000)
