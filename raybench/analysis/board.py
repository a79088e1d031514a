"""The comparison: a row per line and model, a row per model over all lines, and a verdict on each line."""

from __future__ import annotations

import functools
import itertools
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from pydantic import TypeAdapter

from raybench.analysis.cost_report import CostReport, Hours, total_hours
from raybench.analysis.decision import Evidence, Verdict, collect_evidence, decide, over_all
from raybench.analysis.queue_evaluation import QueueEvaluation
from raybench.analysis.rows import BoardRow, merge_seeds
from raybench.analysis.squash_baseline import SquashBaseline
from raybench.config.experiment import VerdictWeights
from raybench.detectors.protocol import Provenance
from raybench.metrics.image import ImageScores
from raybench.metrics.mean_ranks import mean_ranks
from raybench.metrics.numbers import Estimate
from raybench.runs.records import UnitResult


@dataclass(frozen=True)
class BoardContext:
    """The run that a board belongs to."""

    run: str
    created: str
    """ISO 8601."""
    digest: str
    """Digest of the experiment."""
    versions: Mapping[str, str]
    """Installed versions by package."""
    false_alarm_budget: float
    """The experiment's; a line with an override has its own in its rows' thresholds."""
    pending: int = 0
    """Number of units that are still to be done."""
    weights: Mapping[str, float] = field(default_factory=lambda: VerdictWeights().model_dump())
    """Weight by criterion, see `analysis.criteria`."""
    spending: CostReport = field(default_factory=CostReport)


@dataclass(frozen=True)
class Overall:
    """One model over all lines. A metric is the mean over the lines where it is defined."""

    model: str
    provenance: Provenance | None
    lines: int
    """Number of lines on which it finished."""
    failed: int
    """Number of lines on which a seed failed."""
    image_auroc: float | None
    recall: float | None
    false_alarm_rate: float | None
    region_recall: float | None
    pixel_auroc: float | None
    au_pro: float | None
    ms_per_image: float | None
    test_minutes: float | None
    size_mb: float | None
    run_in: int
    """Number of lines whose verdict names it."""
    tied_in: int
    """Number of lines where it is tied with the named model."""
    grade: str
    """Grade over all lines."""
    conclusion: str
    hours: Hours = field(default_factory=Hours)
    mean_rank: Estimate = field(default_factory=lambda: Estimate(None))
    """Mean rank of its image AUROC, see `metrics.mean_ranks`."""


@dataclass(frozen=True)
class Board:
    """The comparison of a run's models."""

    context: BoardContext
    rows: tuple[BoardRow, ...]
    overall: tuple[Overall, ...]
    """One entry per model, the best mean rank first."""
    verdicts: tuple[Verdict, ...]
    """One verdict per line."""
    over_all: Verdict | None
    """Verdict over several lines; None with fewer than two comparable lines."""
    payoffs: tuple[QueueEvaluation, ...] = ()
    """Evaluation of the annotation queue of each line that has scores."""

    @property
    def lines(self) -> tuple[str, ...]:
        return tuple(verdict.line for verdict in self.verdicts)

    def rows_of(self, line: str) -> tuple[BoardRow, ...]:
        """Return the rows of a line, best first: the model that the verdict names, models tied with it by utility, all
        others by image AUROC, failed models last."""
        return self._rows[line]

    def verdict_on(self, line: str) -> Verdict:
        """Return the verdict of a line."""
        return self._verdicts[line]

    @functools.cached_property
    def _rows(self) -> Mapping[str, tuple[BoardRow, ...]]:
        groups = itertools.groupby(sorted(self.rows, key=lambda row: row.line), key=lambda row: row.line)
        return {line: _best_first(rows, self.verdict_on(line)) for line, rows in groups}

    @functools.cached_property
    def _verdicts(self) -> Mapping[str, Verdict]:
        return {verdict.line: verdict for verdict in self.verdicts}

    def payoff_on(self, line: str) -> QueueEvaluation | None:
        """Return the evaluation of a line's annotation queue, or None for a line without scores."""
        return next((evaluation for evaluation in self.payoffs if evaluation.line == line), None)


def _best_first(rows: Iterable[BoardRow], verdict: Verdict) -> tuple[BoardRow, ...]:
    leaders = (verdict.run, *verdict.tied)

    def sort_key(row: BoardRow) -> tuple[int, float, str]:
        position = leaders.index(row.model) if row.model in leaders else len(leaders)
        auroc = row.quality.image_auroc.value if row.quality else None
        return position, -auroc if auroc is not None else math.inf, row.model

    return tuple(sorted(rows, key=sort_key))


def build_board(
    results: Sequence[UnitResult],
    scores: Mapping[str, ImageScores],
    context: BoardContext,
    baselines: Sequence[SquashBaseline] = (),
) -> Board:
    """Compare the results of a run.

    Args:
        results: Results of all units, failed ones included.
        scores: Image scores of the finished units, by unit_id.
        context: The run that the results belong to.
        baselines: Units that were also run on squashed images.
    """

    def line_and_model(result: UnitResult) -> tuple[str, str]:
        return result.line, result.model

    ordered = sorted(results, key=lambda result: (*line_and_model(result), result.seed))
    baseline_of = {line_and_model(baseline.chosen): baseline for baseline in baselines}
    rows = tuple(
        merge_seeds(list(group), baseline_of.get(key)) for key, group in itertools.groupby(ordered, key=line_and_model)
    )
    evidence = [_evidence(line, rows, ordered, scores, context) for line in sorted({row.line for row in rows})]
    verdicts = tuple(item if isinstance(item, Verdict) else decide(item) for item in evidence)
    common = over_all([item for item in evidence if isinstance(item, Evidence)])
    return Board(context, rows, _overall(rows, verdicts, common), verdicts, common)


def _evidence(
    line: str,
    rows: Sequence[BoardRow],
    results: Sequence[UnitResult],
    scores: Mapping[str, ImageScores],
    context: BoardContext,
) -> Evidence | Verdict:
    by_model: dict[str, list[ImageScores]] = {}
    for result in results:
        if result.line == line and result.unit_id in scores:
            by_model.setdefault(result.model, []).append(scores[result.unit_id])
    line_rows = [row for row in rows if row.line == line]
    budget = next((row.threshold.budget for row in line_rows if row.threshold), context.false_alarm_budget)
    return collect_evidence(line, line_rows, by_model, context.weights, budget)


def _overall(rows: Sequence[BoardRow], verdicts: Sequence[Verdict], common: Verdict | None) -> tuple[Overall, ...]:
    named = Counter(verdict.run for verdict in verdicts)
    tied = Counter(model for verdict in verdicts for model in verdict.tied)
    judged = sum(verdict.run is not None for verdict in verdicts)
    grades = common.grades if common else {}
    ranks = _mean_ranks(rows, verdicts)
    overall = [
        replace(
            _of_model(model, [row for row in rows if row.model == model], (named[model], tied[model], judged), grades),
            mean_rank=ranks.get(model, Estimate(None, reason="not run on the lines that most models were run on")),
        )
        for model in sorted({row.model for row in rows})
    ]
    return tuple(sorted(overall, key=_sort_key))


def _sort_key(overall: Overall) -> tuple[float, int, float, str]:
    """Order by mean rank, then by the number of lines won or tied."""
    mean = math.inf if overall.mean_rank.value is None else overall.mean_rank.value
    return mean, -(overall.run_in + overall.tied_in), -(overall.image_auroc or 0.0), overall.model


def _mean_ranks(rows: Sequence[BoardRow], verdicts: Sequence[Verdict]) -> dict[str, Estimate]:
    """Return mean ranks by model, over lines with a verdict. A model without a finished seed counts as failed."""
    values: dict[str, dict[str, float | None]] = {verdict.line: {} for verdict in verdicts if verdict.run}
    for row in rows:
        if row.line in values:
            values[row.line][row.model] = row.quality.image_auroc.value if row.quality else None
    return mean_ranks(values)


def _of_model(model: str, rows: Sequence[BoardRow], counts: tuple[int, int, int], grades: Mapping[str, str]) -> Overall:
    """Sum up one model. counts: lines where it is named, lines where it is tied, and lines that have a verdict."""
    done = [row for row in rows if row.quality]
    qualities = [row.quality for row in done if row.quality]
    run_in, tied_in, judged = counts
    return Overall(
        model=model,
        provenance=next((row.provenance for row in done), None),
        lines=len(done),
        failed=sum(bool(row.failures) for row in rows),
        image_auroc=_mean([quality.image_auroc for quality in qualities]),
        recall=_mean([quality.recall for quality in qualities]),
        false_alarm_rate=_mean([quality.false_alarm_rate for quality in qualities]),
        region_recall=_mean([row.regions.all for row in done if row.regions]),
        pixel_auroc=_mean([quality.pixel_auroc for quality in qualities]),
        au_pro=_mean([quality.au_pro for quality in qualities]),
        ms_per_image=_average([row.speed.p50_ms for row in done if row.speed]),
        test_minutes=_average([row.test_minutes for row in done if row.test_minutes is not None]),
        size_mb=_average([row.size.disk_mb for row in done if row.size]),
        run_in=run_in,
        tied_in=tied_in,
        grade=grades.get(model, ""),
        conclusion=f"best or tied on {run_in + tied_in} of {judged} lines" if done else "finished on no line",
        hours=total_hours([row.hours for row in done]),
    )


def _mean(numbers: Sequence[Estimate]) -> float | None:
    return _average([number.value for number in numbers if number.value is not None])


def _average(values: Sequence[float]) -> float | None:
    return statistics.mean(values) if values else None


_BOARD = TypeAdapter(Board)


def board_json(board: Board) -> bytes:
    """Return the board as JSON: the report's `board.json`."""
    return _BOARD.dump_json(board, indent=1) + b"\n"


def board_from_json(data: bytes) -> Board:
    """Return the board that `board_json` wrote.

    Raises:
        pydantic.ValidationError: `data` is not a board.
    """
    return _BOARD.validate_json(data)
