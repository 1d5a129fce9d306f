r"""The report as LaTeX: the one table that a paper prints.

Needs `\usepackage{booktabs}` and nothing else. Rows are variants; each metric has a column of means
and one of paired differences. The notes of the report are comments above the table.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from ablate.base.text import one_line, plural
from ablate.report.findings import Comparison, Findings, Metric, VerdictWord
from ablate.report.render.number_text import decimals_of, rounded, signed
from ablate.report.render.report_tables import EMPTY, difference_decimals, equal_budget, heading, seeds
from ablate.report.variant_rows import count
from ablate.store.schema import IMPORTED

MARKS: dict[VerdictWord, tuple[str, str]] = {"helps": ("b", "better"), "hurts": ("w", "worse"), "same": ("s", "same")}
SPECIAL = {
    **{letter: f"\\{letter}" for letter in "&%$#_{}"},
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "`": r"\textasciigrave{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "|": r"\textbar{}",
    '"': r"\symbol{34}",  # babel gives it a meaning in some languages
}
NOT_IN_OT1 = "«»ÐðÞþ"  # letters of Latin-1 that pdflatex lacks in its default font encoding


def to_latex(findings: Findings) -> str:
    """Return a `table` environment with its caption; without runs, a comment."""
    if not findings.rows:
        return f"% {EMPTY}\n"
    against, metrics = findings.compared.against, findings.metrics
    seeds_of = [seeds(len(row.seeds), row) for row in findings.rows]
    several = len(set(seeds_of)) > 1 or not seeds_of[0].isdecimal()
    heads, columns = ["Variant", *(["Seeds"] if several else [])], [_column(findings, metric) for metric in metrics]
    for metric in metrics:
        heads.append(escape(heading(metric)) + (r" $\uparrow$" if metric.higher_is_better else r" $\downarrow$"))
        heads += [r"$\Delta$"] if findings.comparisons else []
    lines = []
    for i, row in enumerate(findings.rows):
        name = [code(row.label), *([escape(seeds_of[i])] if several else [])]
        lines.append(" & ".join([*name, *(cell for column in columns for cell in column[i])]) + r" \\")
        lines += [r"\midrule"] if row.label == against and len(findings.rows) > 1 else []
    left = len(heads) - len(metrics) * (1 + bool(findings.comparisons))
    text = [
        r"% Needs \usepackage{booktabs}.",
        *(f"% Note: {one_line(note)}" for note in findings.notes),
        r"\begin{table}",
        r"\centering",
        r"\small",
        rf"\caption{{{' '.join(_caption(findings, None if several else seeds_of[0]))}}}",
        r"\label{tab:ablation}",
        rf"\begin{{tabular}}{{@{{}}{'l' * left + 'r' * (len(heads) - left)}@{{}}}}",  # no space beside the rules
        r"\toprule",
        " & ".join(heads) + r" \\",
        r"\midrule",
        *lines,
        r"\bottomrule",
        r"\end{tabular}",
        r"\end{table}",
    ]
    return "\n".join(text) + "\n"


def _column(findings: Findings, metric: Metric) -> list[list[str]]:
    """Return the cells of a metric, row by row: mean, and difference if there are any."""
    decimals = decimals_of([row.values[metric.name].mean for row in findings.rows])
    more, best = difference_decimals(findings, metric.name), _best(findings, metric)
    comparisons = {one.label: one for one in findings.comparisons if one.metric == metric.name}
    cells = []
    for row in findings.rows:
        value, one = row.values[metric.name], comparisons.get(row.label)
        mean = rounded(value.mean, decimals)
        shown = rf"\mathbf{{{mean}}}" if row.label == best else mean
        cells.append([_plus_minus(shown, value.low, value.high, decimals)])
        if findings.comparisons:
            cells[-1].append("" if one is None else _difference(one, more))
    return cells


def _difference(one: Comparison, decimals: int) -> str:
    # Without width, so that the numbers stay aligned.
    mark = rf"\rlap{{\textsuperscript{{{MARKS[one.verdict][0]}}}}}" if one.verdict in MARKS else ""
    return _plus_minus(signed(one.mean, decimals), one.low, one.high, decimals) + mark


def _plus_minus(mean: str, low: float | None, high: float | None, decimals: int) -> str:
    if mean == "-":
        return "--"
    half = "" if low is None or high is None else rf" \pm {rounded((high - low) / 2, decimals)}"
    return f"${(mean + half).replace(',', '{,}')}$"


def _best(findings: Findings, metric: Metric) -> str | None:
    """Return the label of the best mean if its verdict stands: it helps, or all others hurt."""
    means = {row.label: row.values[metric.name].mean for row in findings.rows}
    known = {label: mean for label, mean in means.items() if mean is not None}
    verdicts = {one.label: one.verdict for one in findings.comparisons if one.metric == metric.name}
    if not known or not verdicts:
        return None
    best = (max if metric.higher_is_better else min)(known, key=lambda label: known[label])
    if best == findings.compared.against:
        return best if set(verdicts.values()) == {"hurts"} else None
    return best if verdicts.get(best) == "helps" else None


def _caption(findings: Findings, n: str | None) -> list[str]:
    """Return the sentences of the caption.

    Args:
        findings: The findings.
        n: Seeds of each variant; None: they differ, and the table has a column of them.
    """
    compared = findings.compared
    budget = equal_budget(findings)
    on = f"{f'on {code(compared.data)}, ' if compared.data else 'at '}preset {code(compared.preset or 'unknown')}"
    on = f"of {code(compared.data or IMPORTED)}" if compared.preset == IMPORTED else on
    half = "" if n == "1" else r" $\pm$ half its 95\,\% interval"
    sentences = [
        f"Ablation {on}{f', equal {budget}' if budget else ''}.",
        f"Mean over {'the finished' if n is None else n} seed{'' if n == '1' else 's'}{half}.",
    ]
    if compared.left_out:
        which = [f"seed {seed}" for seed in compared.without_seeds]
        which += [f"all but {code(compared.where)}"] if compared.where else []
        sentences.append(f"Left out: {compared.left_out:,} runs ({', '.join(which)}).")
    if findings.tuning:
        keys = " and ".join(map(code, findings.tuning.keys))
        by, on = escape(findings.tuning.metric), ", ".join(map(str, findings.tuning.seeds))
        sentences.append(f"Each variant has its own best {keys}, chosen by {by} on other seeds ({on}).")
    if findings.comparisons:
        sentences += _tests(findings)
    for metric in findings.metrics:
        if metric.recorded:  # there is nothing to say beyond its name
            continue
        images = "" if metric.n is None else f", {count(metric.n)} samples against {count(metric.ref_n)} real images"
        sentences.append(f"{escape(metric.name)}: {escape(metric.about + images)}.")
    return sentences


def _tests(findings: Findings) -> Sequence[str]:
    """Return what differences, marks and bold mean, and the test."""
    compared = findings.compared
    verdicts = {one.verdict for one in findings.comparisons}
    marks = [rf"\textsuperscript{{{mark}}}\,{word}" for verdict, (mark, word) in MARKS.items() if verdict in verdicts]
    marks += ["no mark: undecided"] if "undecided" in verdicts else []
    tests = plural(compared.tests, "test")
    if compared.design == "planned":
        how = f"Joint sign-flip test of a planned study, step-down max-T over {tests}"
    else:
        how = f"E-values of a grown study, corrected for {tests}"
    exploratory = sorted({one.metric for one in findings.comparisons if one.exploratory})
    sentences = [
        rf"$\Delta$: difference from {code(compared.against or 'the baseline')}, paired by seed, "
        rf"$\pm$ half its 95\,\% interval ({', '.join(marks)}).",
        f"{how}; family-wise error at most {compared.alpha:g}.",
    ]
    if any(_best(findings, metric) for metric in findings.metrics):
        sentences.append("Bold: best mean, where its verdict stands.")
    if exploratory:
        sentences.append(f"Exploratory: {escape(', '.join(exploratory))}.")
    return sentences


def code(text: str) -> str:
    """Return a name in typewriter letters."""
    return rf"\texttt{{{escape(text)}}}"


def escape(text: str) -> str:
    r"""Return a text on one line that LaTeX prints as it is.

    Letters that pdflatex has no font for are written as in Python: `\u4e2d`.
    """
    known = "".join(
        letter if letter.isascii() or (letter < "\u0100" and letter not in NOT_IN_OT1) else ascii(letter)[1:-1]
        for letter in one_line(text)
    )
    escaped = "".join(SPECIAL.get(letter, letter) for letter in known)
    return re.sub("-(?=-)", "-{}", escaped)  # two hyphens would be joined to a dash
