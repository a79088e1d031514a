"""Summarise lines, the worst first: lines on which even the best model is poor."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from raybench.analysis.board import Board
from raybench.analysis.rows import BoardRow, FinishedModel
from raybench.analysis.verdict import Verdict
from raybench.metrics.numbers import Estimate


@dataclass(frozen=True)
class LineSummary:
    """One line in short."""

    line: str
    best: Estimate
    """Highest image AUROC of any model."""
    run: str | None
    """The model that the verdict names."""
    named: FinishedModel | None
    """What is known of that model."""
    finished: int
    """Number of models that finished."""
    failed: int
    """Number of models that failed."""
    conclusion: str
    """Grade of the named model, or why there is no verdict."""

    good_enough: float = 0.8
    """Least useful image AUROC."""

    @property
    def is_poor(self) -> bool:
        """Whether no model finished, or none reaches a useful image AUROC."""
        return not self.finished or (self.best.value is not None and self.best.value < self.good_enough)


def worst_first(board: Board) -> tuple[LineSummary, ...]:
    """Summarise all lines: lines where nothing finished, then by the best image AUROC, then lines without one."""
    enough = board.context.decision.verdict.good_enough
    summaries = [_summary(board.rows_of(verdict.line), verdict, enough) for verdict in board.verdicts]
    return tuple(sorted(summaries, key=_sort_key))


def poor_lines(summaries: Sequence[LineSummary]) -> str:
    """Return a sentence with the number of poor lines."""
    poor = sum(summary.is_poor for summary in summaries)
    enough = f"an image AUROC of {summaries[0].good_enough:g} or more" if summaries else ""
    if not poor:
        return f"On every line that can be judged some model has {enough}."
    return f"{poor} of {len(summaries)} lines: no model has {enough}."


def _summary(rows: Sequence[BoardRow], verdict: Verdict, good_enough: float) -> LineSummary:
    finished = {row.model: row.finished for row in rows if row.finished}
    numbers = [model.quality.image_auroc for model in finished.values()]
    known = [number for number in numbers if number.value is not None]
    return LineSummary(
        line=verdict.line,
        best=max(known, key=lambda number: number.value or 0.0, default=Estimate(None)),
        run=verdict.run,
        named=finished[verdict.run] if verdict.run else None,
        finished=len(finished),
        failed=len(rows) - len(finished),
        conclusion=verdict.grades[verdict.run] if verdict.run else verdict.sentence.removeprefix(f"{verdict.line}: "),
        good_enough=good_enough,
    )


def _sort_key(summary: LineSummary) -> tuple[float, str]:
    if not summary.finished:
        return -1.0, summary.line
    return (2.0 if summary.best.value is None else summary.best.value), summary.line
