"""The table of models with marks, of one line or over all lines: grade, P(best), difference in utility, and numbers."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from raybench.analysis.board import Board
from raybench.analysis.rows import BoardRow
from raybench.analysis.sentences import format_probability
from raybench.analysis.verdict import (
    BEST,
    FAILED,
    NOT_ADMISSIBLE,
    NOT_GOOD_ENOUGH,
    NOT_TOLD_APART,
    WORSE,
    Verdict,
)
from raybench.metrics.numbers import Estimate
from raybench.report.marks import (
    ALARMS,
    AUROC,
    SHARE,
    Axis,
    Blocks,
    Dot,
    Span,
    blocks,
    decades,
    dot,
    efficient,
    ranks,
    span,
)

STYLES = {
    BEST: "best",
    NOT_TOLD_APART: "open",
    WORSE: "worse",
    NOT_GOOD_ENOUGH: "poor",
    NOT_ADMISSIBLE: "barred",
    FAILED: "failed",
}
"""CSS class of each grade."""
NO_GRADE = "none"


@dataclass(frozen=True)
class StandingMarks:
    """How a compared model stands."""

    sure: str
    """P(best), in per cent."""
    share: float
    """P(best), 0 to 1."""
    loss: float
    """Expected loss of utility."""
    behind: Dot
    """Utility of the named model minus that of this one."""
    places: Span


@dataclass(frozen=True)
class ModelRow:
    """One model."""

    model: str
    grade: str
    """One of GRADES; empty without one."""
    style: str
    """CSS class of the grade."""
    why: str
    """What the grade rests on."""
    is_named: bool
    standing: StandingMarks | None
    """None for a model that is not compared."""
    dots: tuple[Dot, ...]
    """In the order of `ModelsTable.columns`."""
    heat: Blocks | None = None
    """None in a table over all lines."""

    @property
    def is_strong(self) -> bool:
        """Whether it may be the best."""
        return self.is_named or self.style in ("best", "open")


@dataclass(frozen=True)
class ModelsTable:
    """The models of a line, or of all lines."""

    columns: tuple[tuple[str, Axis], ...]
    """Header and scale of each column of dots. A column without any number is left out."""
    behind: Axis
    places: Axis
    rows: tuple[ModelRow, ...]


FORMS = {"mean rank": ".1f", "image AUROC": ".3f", "ms/image": ",.3g", "MB": ",.3g"}


def line_table(board: Board, line: str) -> ModelsTable:
    """Return the models of a line: the named one, the compared ones by expected loss, then the others."""
    rows, verdict = board.rows_of(line), board.verdict_on(line)
    finished = [row.finished for row in rows]
    budget = next((each.trained.threshold.budget for each in finished if each), board.context.false_alarm_budget)
    costs = [(each.measured.speed.p50_ms, each.measured.size.disk_mb) if each else (None, None) for each in finished]
    qualities = [each.quality.image_auroc.value if each else None for each in finished]
    columns = _columns(board, budget, costs)
    numbers = [(*_qualities(row), *cost) for row, cost in zip(rows, costs, strict=True)]
    table = _table(board, verdict, columns, [row.model for row in rows], numbers, qualities)
    heats = [blocks(each.heat if each else None) for each in finished]
    return replace(table, rows=tuple(replace(row, heat=heat) for row, heat in zip(table.rows, heats, strict=True)))


def overall_table(board: Board) -> ModelsTable:
    """Return the models over all lines, the best mean rank first. Numbers are means."""
    rows = board.overall
    costs = [(row.ms_per_image, row.size_mb) for row in rows]
    columns = {"mean rank": ranks(len(rows))} | _columns(board, board.context.false_alarm_budget, costs)
    del columns["false alarms"]  # the budget is the same for all models
    numbers = [
        (row.mean_rank, row.image_auroc, row.recall, row.au_pro, *cost) for row, cost in zip(rows, costs, strict=True)
    ]
    qualities = [row.image_auroc for row in rows]
    return _table(board, board.over_all, columns, [row.model for row in rows], numbers, qualities)


def _columns(board: Board, budget: float, costs: Sequence[tuple[float | None, float | None]]) -> dict[str, Axis]:
    return {
        "image AUROC": replace(AUROC, reference=board.context.decision.verdict.good_enough),
        "recall": SHARE,
        "false alarms": replace(ALARMS, reference=budget),
        "AU-PRO": SHARE,
        "ms/image": decades(ms for ms, _ in costs),
        "MB": decades(mb for _, mb in costs),
    }


def _qualities(row: BoardRow) -> tuple[Estimate, ...]:
    if row.finished is None:
        return (Estimate(None, reason="failed" if row.failures else "not done"),) * 4
    quality = row.finished.quality
    return quality.image_auroc, quality.recall, quality.false_alarm_rate, quality.au_pro


def _table(
    board: Board,
    verdict: Verdict | None,
    columns: Mapping[str, Axis],
    models: Sequence[str],
    numbers: Sequence[Sequence[Estimate | float | None]],
    qualities: Sequence[float | None],
) -> ModelsTable:
    """Return the table of `models`.

    Args:
        board: The comparison.
        verdict: The verdict on the models.
        columns: Scale by header.
        models: From top to bottom.
        numbers: Numbers of each model, in the order of `columns`.
        qualities: Image AUROC of each model, for the mark of models that no other beats in quality and a cost.
    """
    behind = _behind_axis(board, verdict)
    places = ranks(len(verdict.standings) if verdict else 0)
    beaten = {
        name: efficient([_value(row[list(columns).index(name)]) for row in numbers], qualities)
        for name in ("ms/image", "MB")
    }
    rows = []
    for index, model in enumerate(models):
        grade = verdict.grades.get(model, "") if verdict else ""
        is_named = verdict is not None and verdict.run == model
        row = ModelRow(
            model=model,
            grade=grade,
            style=STYLES.get(grade, NO_GRADE),
            why=verdict.conclusions.get(model, "") if verdict else "",
            is_named=is_named,
            standing=_standing(verdict, model, behind, places) if verdict and model in verdict.standings else None,
            dots=(),
        )
        dots = tuple(
            replace(
                dot(f"{model}: {name}", number, axis, FORMS.get(name, ".2f"), strong=row.is_strong),
                is_efficient=name in beaten and beaten[name][index],
            )
            for (name, axis), number in zip(columns.items(), numbers[index], strict=True)
        )
        rows.append(replace(row, dots=dots))
    known = [at for at in range(len(columns)) if any(row.dots[at].value is not None for row in rows)]
    return ModelsTable(
        columns=tuple(list(columns.items())[at] for at in known),
        behind=behind,
        places=places,
        rows=tuple(replace(row, dots=tuple(row.dots[at] for at in known)) for row in rows),
    )


def _behind_axis(board: Board, verdict: Verdict | None) -> Axis:
    """Return the scale of differences in utility: fixed for image AUROC, as wide as the differences for costs."""
    decision, most = board.context.decision, 0.3
    if decision.costs:
        behind = [standing.behind for standing in verdict.standings.values()] if verdict else []
        ends = [abs(end) for each in behind for end in (each.low, each.value, each.high) if end]
        reach = max([decision.verdict.margin, *ends])
        step = 10.0 ** math.floor(math.log10(reach or 1.0))
        most = math.ceil(reach / step) * step
    return Axis(-most / 3, most, (0, most), reference=decision.verdict.margin)


def _standing(verdict: Verdict, model: str, behind: Axis, places: Axis) -> StandingMarks:
    standing = verdict.standings[model]
    strong = model == verdict.run or model in verdict.tied
    return StandingMarks(
        sure=format_probability(standing.best),
        share=standing.best,
        loss=standing.loss,
        behind=dot(f"{model}: behind the named model by", standing.behind, behind, "+.3f", strong=strong),
        places=span(standing.places, list(verdict.standings).index(model) + 1, places, strong=strong),
    )


def _value(number: Estimate | float | None) -> float | None:
    return number.value if isinstance(number, Estimate) else number
