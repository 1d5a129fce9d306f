"""A study as it runs, on a terminal: `ablate watch`. A low terminal gets one line."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.text import Text

from ablate.base.text import duration, plural, printable
from ablate.report.findings import Findings
from ablate.report.render.number_text import evidence, interval, number, signed
from ablate.report.render.report_tables import difference_decimals, needs
from ablate.report.render.text_table import TextTable, coloured, columns_that_fit, to_rich
from ablate.report.watched_study import WatchedRun, WatchedStudy

LEAST_HEIGHT = 7  # lines of a terminal that gets tables
LEAST_ROWS = 3  # of a table, whatever the height
SILENT_S = 30.0  # without a sign of a run that are shown


def render(study: WatchedStudy) -> RenderableType:
    """Return what `rich` prints; it fits the height and the width of the terminal."""
    return _Frame(study)


@dataclass(frozen=True)
class _Frame:
    study: WatchedStudy

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        study, height = self.study, console.size.height
        if height < LEAST_HEIGHT:
            yield Text(_one_line(study), no_wrap=True, overflow="ellipsis")
            return
        for line, style in ((f"{study.about} · {study.folder}", "bold"), (_status(study), "")):
            yield Text(line, style=style, no_wrap=True, overflow="ellipsis")
        sentences = _sentences(study)
        below = sum(len(console.render_lines(line, options, pad=False)) for line in sentences)
        room = height - 3 - below  # beside the two lines above, the sentences and the cursor
        undecided = study.undecided
        if study.running:
            rows = max(LEAST_ROWS, room - 3 - (len(undecided) + 4 if undecided else 0), room // 2 - 3)
            yield from _table(run_table(study.running), rows, options)
            room -= min(rows, len(study.running)) + 3
        if study.findings is not None and undecided:
            yield from _table(undecided_table(study.findings, study), max(LEAST_ROWS, room - 4), options)
        yield from sentences


def _table(table: TextTable, most: int, options: ConsoleOptions) -> RenderResult:
    """Yield a blank line, a table of so many rows at most, and how many are left out."""
    shown = table if len(table.lines) <= most else TextTable(**{**vars(table), "lines": table.lines[: most - 1]})
    yield Text("")
    if table.title:
        yield Text(table.title)
    yield to_rich(shown, columns_that_fit(shown, options.max_width))
    if shown is not table:
        yield Text(f"and {len(table.lines) - len(shown.lines):,} more", style="dim")


def run_table(runs: Sequence[WatchedRun]) -> TextTable:
    """Return the runs that are being made, as a table."""
    heads = ("run", "phase", "done", "s/unit", "left", "host", "process", "lease", "note")
    return TextTable("", heads, tuple(map(_run_cells, runs)), (0, 1, 5, 8), drop=(8, 6, 3, 7, 5))


def _run_cells(run: WatchedRun) -> tuple[str, ...]:
    state, owner = run.state, run.owner
    phase = done = pace = note = ""
    if state is not None:
        phase = state.phase.rpartition(": ")[2] or "start"
        counts = state.total > 1
        done = f"{state.done:,}/{state.total:,}" if counts else ""
        pace = number(state.unit_s) if counts and state.unit_s is not None else ""
        note = f"silent for {duration(state.silent_s)}" if state.silent_s > SILENT_S else state.note
    host = (state.host if state is not None else "") or owner.host or "unknown"
    process = "" if owner.pid is None else str(owner.pid)
    lease = "-" if run.lease_s is None else duration(run.lease_s)
    left = "-" if run.left_s is None else duration(run.left_s)
    return tuple(map(printable, (run.name, phase, done, pace, left, host, process, lease, note)))


def undecided_table(findings: Findings, study: WatchedStudy) -> TextTable:
    """Return the undecided comparisons, as a table."""
    design, alpha = findings.compared.design, findings.compared.alpha
    bound = f"p of at most {alpha:g}" if design == "planned" else f"e of at least {1 / alpha:g}"
    decimals = {name: difference_decimals(findings, name) for name in {one.metric for one in study.undecided}}
    lines = [
        (
            one.label,
            one.metric,
            str(one.n),
            signed(one.mean, decimals[one.metric]),
            interval(one.low, one.high, decimals[one.metric]),
            evidence(one.adjusted, design),
            needs(one),
        )
        for one in study.undecided
    ]
    heads = ("variant", "metric", "seeds", "difference", "95 %", "p" if design == "planned" else "e", "needs")
    title = (
        f"{len(lines)} of {len(study.judged)} undecided; {bound} decides ({plural(findings.compared.tests, 'test')})"
    )
    return TextTable(title, heads, tuple(lines), (0, 1), drop=(6, 2, 3))


def _status(study: WatchedStudy) -> str:
    under_way = f"{len(study.running)} under way" if study.running else "none under way"
    others = [f"{count:,} {status}" for status, count in study.statuses.items()]
    return " · ".join([study.progress, under_way, *others])


def _sentences(study: WatchedStudy) -> list[Text]:
    decided: dict[str, dict[str, list[str]]] = {}
    for one in study.judged:
        if one.verdict != "undecided":
            decided.setdefault(one.label, {}).setdefault(one.verdict, []).append(one.metric)
    lines = []
    if decided:
        line = Text("\ndecided: ")
        for i, (label, verdicts) in enumerate(decided.items()):
            line.append("; " if i else "").append(label)
            for verdict, metrics in verdicts.items():
                line.append(" ").append_text(coloured(verdict)).append(f" ({', '.join(metrics)})")
        lines.append(line)
    if study.problem:
        lines.append(Text(f"\n{study.problem}", style="yellow"))
    elif study.planned_test and study.undecided:
        test = "When all runs of the plan have ended, the report judges by its joint test, not by e."
        lines.append(Text(f"\n{test}", style="dim"))
    return lines


def _one_line(study: WatchedStudy) -> str:
    parts = [study.progress]
    if len(study.running) == 1:
        cells = _run_cells(study.running[0])
        parts.append(" ".join(cell for cell in cells[:3] if cell))
    else:
        parts.append(f"{len(study.running)} under way" if study.running else "none under way")
    parts += [f"{count:,} {status}" for status, count in study.statuses.items()]
    if study.judged:
        parts.append(f"{len(study.undecided)} of {len(study.judged)} undecided")
    return " · ".join(parts)
