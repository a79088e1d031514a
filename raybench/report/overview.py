"""The page's first view: how many lines are settled, what needs a person, and the matrix of lines and models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from urllib.parse import urlencode

from raybench.analysis.board import Board
from raybench.analysis.flags import Flag, Kind
from raybench.analysis.line_summary import LineSummary
from raybench.analysis.rows import BoardRow
from raybench.analysis.sentences import format_number, format_probability
from raybench.analysis.verdict import BEST, FAILED, NOT_GOOD_ENOUGH, NOT_TOLD_APART, Verdict
from raybench.report.inspection import Section
from raybench.report.marks import ALARMS, AUROC, SHARE, Axis, Blocks, Dot, blocks, dot
from raybench.report.models_table import NO_GRADE, STYLES

NO_VERDICT = "no verdict"
LONGEST_SHORT_NAME = 4
STATES = {
    BEST: ("decided", "the named model is best: the images settle it"),
    NOT_TOLD_APART: ("open", "more images would be needed to tell the best models apart"),
    NOT_GOOD_ENOUGH: ("without a good model", "even the best model separates OK from NG too badly"),
    NO_VERDICT: ("without a verdict", "no model is admissible, or nothing can be compared"),
}
"""Words and meaning of each state of a line: the grade of its named model, or that there is none."""


@dataclass(frozen=True)
class Segment:
    """Lines of one state, as a part of the bar of all lines."""

    state: str
    """One of STATES."""
    style: str
    lines: int
    words: str
    meaning: str


@dataclass(frozen=True)
class Task:
    """Something that only a person can do."""

    count: int
    text: str
    href: str
    """Fragment of the view that shows it."""


@dataclass(frozen=True)
class MatrixCell:
    """One model on one line."""

    model: str
    text: str
    """Image AUROC, a cross for a failure, empty where it was not run."""
    style: str
    """CSS class of its grade."""
    title: str
    is_named: bool


@dataclass(frozen=True)
class MatrixRow:
    """One line."""

    state: str
    """One of STATES."""
    style: str
    tied: int
    """Number of other models that are best or not told apart."""
    sure: str
    auroc: Dot
    recall: Dot
    false_alarms: Dot
    heat: Blocks
    cells: tuple[MatrixCell, ...]


def state_of(verdict: Verdict) -> str:
    """Return the grade of the named model, or that no model is named."""
    return verdict.grades.get(verdict.run, NO_VERDICT) if verdict.run else NO_VERDICT


def segments(board: Board) -> tuple[Segment, ...]:
    """Return how many lines are in each state, without states of no line."""
    counts = Counter(state_of(verdict) for verdict in board.verdicts)
    return tuple(
        Segment(state, STYLES.get(state, NO_GRADE), counts[state], *words)
        for state, words in STATES.items()
        if counts[state]
    )


def matrix_columns(board: Board) -> dict[str, Axis]:
    """Return the scale of each column of dots, by its header."""
    return {
        "image AUROC": replace(AUROC, reference=board.context.decision.verdict.good_enough),
        "recall": SHARE,
        "false alarms": replace(ALARMS, reference=board.context.false_alarm_budget),
    }


def matrix_row(board: Board, summary: LineSummary) -> MatrixRow:
    """Return a line's row of the matrix. Its models are in the order of `board.overall`."""
    verdict, rows = board.verdict_on(summary.line), {row.model: row for row in board.rows_of(summary.line)}
    state, named = state_of(verdict), summary.named
    quality = named.quality if named else None
    auroc, recall, alarms = matrix_columns(board).values()
    if named:
        alarms = replace(alarms, reference=named.trained.threshold.budget)
    return MatrixRow(
        state=state,
        style=STYLES.get(state, NO_GRADE),
        tied=len(verdict.tied),
        sure=format_probability(verdict.sure) if verdict.sure is not None and len(verdict.standings) > 1 else "",
        auroc=dot("image AUROC", quality.image_auroc if quality else None, auroc),
        recall=dot("recall", quality.recall if quality else None, recall, ".2f"),
        false_alarms=dot("false alarms", quality.false_alarm_rate if quality else None, alarms, ".2f"),
        heat=blocks(named.heat if named else None),
        cells=tuple(_cell(summary.line, verdict, each.model, rows.get(each.model)) for each in board.overall),
    )


def _cell(line: str, verdict: Verdict, model: str, row: BoardRow | None) -> MatrixCell:
    where = f"{model} on {line}"
    if row is None:
        return MatrixCell(model, "", NO_GRADE, f"{where}: not run", False)
    grade = verdict.grades.get(model) or (FAILED if row.failures else "no grade")
    number = row.finished.quality.image_auroc if row.finished else None
    if number is None:
        text, words = ("×" if grade == FAILED else ""), grade
    else:
        text = "–" if number.value is None else _short(number.value)
        words = f"{grade}, image AUROC {format_number(number)}"
    if standing := verdict.standings.get(model):
        words += f", best with a probability of {format_probability(standing.best)}"
    elif model in verdict.conclusions:
        words += f" ({verdict.conclusions[model]})"
    return MatrixCell(model, text, STYLES.get(grade, NO_GRADE), f"{where}: {words}", model == verdict.run)


def fragment(view: str, **names: str) -> str:
    """Return the address of a view of the page, the fragment of its URL without `#`: `v=line&line=bottle`.

    Values are names, never positions, so that a link stays valid when the next run has other lines. `assets/route.js`
    reads them. The same text is the `id` of the view's element, so that links work without scripts as well.
    """
    return urlencode({"v": view, **{name: value for name, value in names.items() if value}})


def short_names(models: Sequence[str]) -> dict[str, str]:
    """Return the shortest beginning that no other model has, or the model's number where that is too long."""
    short = {}
    for at, model in enumerate(models):
        others = [other for other in models if other != model]
        beginnings = (model[:length] for length in range(2, LONGEST_SHORT_NAME + 1))
        unique = (each for each in beginnings if not any(other.startswith(each) for other in others))
        short[model] = next(unique, f"{at + 1}")
    return short


def _short(value: float) -> str:
    """`.97`; `1.0` only for 0.995 and above."""
    return f"{value:.2f}"[1:] if value < 0.995 else "1.0"


def tasks(
    board: Board, flags: Sequence[Flag], shown: Sequence[Flag], sections: Mapping[str, Section]
) -> tuple[Task, ...]:
    """Return what needs a person, without what is done.

    Args:
        board: The comparison.
        flags: All flags.
        shown: Those of them that are in the page.
        sections: Data quality by line.
    """
    states = Counter(state_of(verdict) for verdict in board.verdicts)
    kinds, kinds_shown = (
        Counter(kind for flag in each for kind in flag.kinds or (flag.kind,)) for each in (flags, shown)
    )
    failed = sum(len(row.failures) for row in board.rows)
    drifted = sum(bool(section.drifts) for section in sections.values())
    rejected = sum(len(section.rejects) for section in sections.values())
    missing = [verdict.more_ng for verdict in board.verdicts if verdict.more_ng]

    def lines(state: str) -> str:
        return fragment("overview", state=state)

    def queue(kind: Kind, text: str) -> Task:
        few = kinds_shown[kind] < kinds[kind]
        part = f" ({kinds_shown[kind]:,} of {kinds[kind]:,} are in this page)" if few else ""
        return Task(kinds[kind], text + part, fragment("queue", kind=kind))

    found = (
        Task(states[NOT_GOOD_ENOUGH], "line(s) on which no model is good enough", lines(NOT_GOOD_ENOUGH)),
        Task(states[NO_VERDICT], "line(s) without a verdict", lines(NO_VERDICT)),
        Task(
            len(missing),
            f"line(s) whose runner-up about {sum(missing):,} more NG images would tell apart",
            fragment("overview", more="yes"),
        ),
        Task(drifted, "line(s) whose images have changed since training", fragment("conditions")),
        queue("check label", "label(s) that the models contradict"),
        queue("suspicious training image", "suspicious training image(s)"),
        queue("likely defect", "unlabelled image(s) with a likely defect"),
        queue("models disagree", "image(s) on which the models disagree"),
        queue("near threshold", "image(s) near the threshold"),
        queue("bad image", "bad picture(s)"),
        queue("random check", "image(s) to check at random"),
        Task(failed, "unit(s) that failed", fragment("conditions")),
        Task(rejected, "file(s) that were not packed", fragment("conditions")),
        Task(board.context.pending, "unit(s) still to be done", fragment("conditions")),
    )
    return tuple(replace(task, text=_plural(task)) for task in found if task.count)


def _plural(task: Task) -> str:
    return task.text.replace("(s)", "" if task.count == 1 else "s")
