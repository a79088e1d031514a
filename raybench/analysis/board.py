"""The comparison: a row per line and model, a row per model over all lines, and a verdict on each line."""

from __future__ import annotations

import functools
import itertools
import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass, field, replace

from pydantic import TypeAdapter, ValidationError

from raybench.analysis.all_lines import over_all
from raybench.analysis.cost_report import CostReport, Hours, total_hours
from raybench.analysis.decision import ScoredLine, collect_evidence, decide
from raybench.analysis.queue_evaluation import QueueEvaluation
from raybench.analysis.rows import BoardRow, merge_seeds
from raybench.analysis.squash_baseline import SquashBaseline
from raybench.analysis.verdict import DecisionSettings, Evidence, Verdict
from raybench.detectors.protocol import Provenance
from raybench.errors import InputError
from raybench.metrics.image import ImageScores
from raybench.metrics.mean_ranks import CriticalDifference, critical_difference, largest_table, mean_ranks
from raybench.metrics.numbers import Estimate
from raybench.runs.records import FailedUnit, UnitResult


@dataclass(frozen=True)
class BoardContext:
    """The run that a board belongs to."""

    run: str
    created: str
    """ISO 8601."""
    digest: str
    """Digest of the experiment."""
    versions: Mapping[str, str]
    """Versions of the packages that made its units, several where they differ: `2.7.0 and 2.8.0`."""
    false_alarm_budget: float
    """The experiment's; a line with an override has its own in its rows' thresholds."""
    pending: int = 0
    """Number of units that are still to be done."""
    lines: Mapping[str, str] = field(default_factory=dict)
    """Digest of the manifest of each line, as it was packed and labelled then."""
    decision: DecisionSettings = field(default_factory=DecisionSettings)
    """What the experiment says about the decision."""
    spending: CostReport = field(default_factory=CostReport)


@dataclass(frozen=True)
class Overall:
    """One model over all lines.

    A metric is the mean over the lines on which all compared models finished that finished on any.
    """

    model: str
    provenance: Provenance | None
    lines: int
    """Number of lines on which it finished."""
    failed: int
    """Number of lines on which a seed failed."""
    averaged: int
    """Number of lines that its means are over."""
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
    """Number of lines where it is best or not told apart, but not named."""
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
    critical_difference: CriticalDifference | None = None
    """Test of mean ranks over the compared lines; None with fewer than three models or lines."""
    payoffs: tuple[QueueEvaluation, ...] = ()
    """Evaluation of the annotation queue of each line that has scores."""

    @property
    def lines(self) -> tuple[str, ...]:
        return tuple(verdict.line for verdict in self.verdicts)

    def rows_of(self, line: str) -> tuple[BoardRow, ...]:
        """Return the rows of a line: the model that the verdict names, compared models by expected loss, all others by
        image AUROC, failed models last."""
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
    leaders = tuple(verdict.standings)

    def sort_key(row: BoardRow) -> tuple[int, float, str]:
        position = leaders.index(row.model) if row.model in leaders else len(leaders)
        auroc = row.finished.quality.image_auroc.value if row.finished else None
        return position, -auroc if auroc is not None else math.inf, row.model

    return tuple(sorted(rows, key=sort_key))


@dataclass(frozen=True)
class LineScores:
    """Scores that the decision on a line needs beside those of its units, and what its inspection found."""

    held_out: Mapping[str, ImageScores] = field(default_factory=dict)
    """Scores of the held-back images of finished units, by unit_id."""
    drift: str = ""
    """What differs between OK training and test images, in words."""
    test_thresholds: bool = True
    """Whether `held_out` were held back from training, so that the test OK images can be compared with them."""


def build_board(
    results: Sequence[UnitResult | FailedUnit],
    scores: Mapping[str, ImageScores],
    context: BoardContext,
    baselines: Sequence[SquashBaseline] = (),
    lines: Mapping[str, LineScores] | None = None,
) -> Board:
    """Compare the results of a run.

    Args:
        results: Results of all units, failed ones included.
        scores: Image scores of the finished units, by unit_id.
        context: The run that the results belong to.
        baselines: Units that were also run on squashed images.
        lines: Further scores by line. Without them thresholds are not tested.
    """

    def line_and_model(result: UnitResult | FailedUnit) -> tuple[str, str]:
        return result.line, result.model

    ordered = sorted(results, key=lambda result: (*line_and_model(result), result.seed))
    baseline_of = {line_and_model(baseline.chosen): baseline for baseline in baselines}
    rows = tuple(
        merge_seeds(list(group), baseline_of.get(key)) for key, group in itertools.groupby(ordered, key=line_and_model)
    )
    by_line = {line: list(group) for line, group in itertools.groupby(ordered, key=lambda result: result.line)}
    evidence = [
        _evidence(line, rows, of_line, scores, context, (lines or {}).get(line, LineScores()))
        for line, of_line in by_line.items()
    ]
    verdicts = tuple(item if isinstance(item, Verdict) else decide(item) for item in evidence)
    common = over_all([item for item in evidence if isinstance(item, Evidence)], len(evidence))
    values = _values(rows, verdicts)
    return Board(context, rows, _overall(rows, verdicts, common, values), verdicts, common, critical_difference(values))


def _evidence(
    line: str,
    rows: Sequence[BoardRow],
    results: Sequence[UnitResult | FailedUnit],
    scores: Mapping[str, ImageScores],
    context: BoardContext,
    further: LineScores,
) -> Evidence | Verdict:
    by_model: dict[str, list[ImageScores]] = {}
    held_out: dict[str, list[ImageScores]] = {}
    for result in results:
        if result.unit_id in scores:
            by_model.setdefault(result.model, []).append(scores[result.unit_id])
            if result.unit_id in further.held_out:
                held_out.setdefault(result.model, []).append(further.held_out[result.unit_id])
    line_rows = [row for row in rows if row.line == line]
    budget = next(
        (row.finished.trained.threshold.budget for row in line_rows if row.finished), context.false_alarm_budget
    )
    known = {model: found for model, found in held_out.items() if len(found) == len(by_model[model])}
    scored = ScoredLine(line, line_rows, by_model, budget, known, further.drift, further.test_thresholds)
    return collect_evidence(scored, context.decision)


def _overall(
    rows: Sequence[BoardRow],
    verdicts: Sequence[Verdict],
    common: Verdict | None,
    values: Mapping[str, Mapping[str, float | None]],
) -> tuple[Overall, ...]:
    named = Counter(verdict.run for verdict in verdicts)
    tied = Counter(model for verdict in verdicts for model in verdict.tied)
    judged = sum(verdict.run is not None for verdict in verdicts)
    grades = common.grades if common else {}
    ranks = mean_ranks(values)
    compared, lines = largest_table({line: by_model.keys() for line, by_model in values.items()})
    working = [model for model in compared if any(values[line][model] is not None for line in lines)]
    shared = {line for line in lines if all(values[line][model] is not None for model in working)}
    overall = [
        replace(
            _of_model([row for row in rows if row.model == model], shared, (named[model], tied[model], judged), grades),
            mean_rank=ranks.get(model, Estimate(None, reason="not run on the lines that most models were run on")),
        )
        for model in sorted({row.model for row in rows})
    ]
    return tuple(sorted(overall, key=_sort_key))


def _sort_key(overall: Overall) -> tuple[float, int, float, str]:
    """Order by mean rank, then by the number of lines won or tied."""
    mean = math.inf if overall.mean_rank.value is None else overall.mean_rank.value
    return mean, -(overall.run_in + overall.tied_in), -(overall.image_auroc or 0.0), overall.model


def _values(rows: Sequence[BoardRow], verdicts: Sequence[Verdict]) -> dict[str, dict[str, float | None]]:
    """Return image AUROCs by line and model, over lines with scores. A model without a finished seed has None."""
    values: dict[str, dict[str, float | None]] = {verdict.line: {} for verdict in verdicts if verdict.terms}
    for row in rows:
        if row.line in values:
            values[row.line][row.model] = row.finished.quality.image_auroc.value if row.finished else None
    return values


def _of_model(
    rows: Sequence[BoardRow], shared: Set[str], counts: tuple[int, int, int], grades: Mapping[str, str]
) -> Overall:
    """Sum up one model.

    Args:
        rows: Its rows.
        shared: Lines on which every compared model finished: means are over these, so that failing on hard lines does
            not pay.
        counts: Numbers of lines where it is named, where it is tied, and that have a verdict.
        grades: Grades over all lines.
    """
    done = {row.line: row.finished for row in rows if row.finished}
    averaged = [found for line, found in done.items() if line in shared]
    qualities = [found.quality for found in averaged]
    run_in, tied_in, judged = counts
    model = rows[0].model
    return Overall(
        model=model,
        provenance=next((found.trained.provenance for found in done.values()), None),
        lines=len(done),
        failed=sum(bool(row.failures) for row in rows),
        averaged=len(averaged),
        image_auroc=_mean([quality.image_auroc for quality in qualities]),
        recall=_mean([quality.recall for quality in qualities]),
        false_alarm_rate=_mean([quality.false_alarm_rate for quality in qualities]),
        region_recall=_mean([found.regions.all for found in averaged]),
        pixel_auroc=_mean([quality.pixel_auroc for quality in qualities]),
        au_pro=_mean([quality.au_pro for quality in qualities]),
        ms_per_image=_average([found.measured.speed.p50_ms for found in averaged]),
        test_minutes=_average([found.test_minutes for found in averaged]),
        size_mb=_average([found.measured.size.disk_mb for found in averaged]),
        run_in=run_in,
        tied_in=tied_in,
        grade=grades.get(model, ""),
        conclusion=f"best or not told apart on {run_in + tied_in} of {judged} lines" if done else "finished on no line",
        hours=total_hours([row.hours for row in rows]),
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
        InputError: `data` is not a board of this version.
    """
    try:
        return _BOARD.validate_json(data)
    except ValidationError as error:
        raise InputError("the report is of another version of raybench; `raybench report` writes it again") from error
