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

from raybench.analysis.cost_report import CostReport, Hours, added
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
    """created: ISO 8601. digest: the experiment's. pending: units that are still to be done. weights: of the verdict's
    criteria, see `merits`."""

    run: str
    created: str
    digest: str
    versions: Mapping[str, str]
    false_alarm_budget: float
    pending: int = 0
    weights: Mapping[str, float] = field(default_factory=lambda: VerdictWeights().model_dump())
    spending: CostReport = field(default_factory=CostReport)


@dataclass(frozen=True)
class Overall:
    """One model over all lines: means over the lines where a number is defined. lines: finished. failed: lines.
    run_in: lines whose verdict names it. tied_in: lines where it is as good as the named one. grade: over all lines.
    mean_rank: of its image AUROC, see `metrics.mean_ranks`."""

    model: str
    provenance: Provenance | None
    lines: int
    failed: int
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
    tied_in: int
    grade: str
    conclusion: str
    hours: Hours = field(default_factory=Hours)
    mean_rank: Estimate = field(default_factory=lambda: Estimate(None))


@dataclass(frozen=True)
class Board:
    """verdicts: of each line. over_all: over all of them, where there is more than one to judge by. payoffs: of the
    annotation budget, of each line that has scores."""

    context: BoardContext
    rows: tuple[BoardRow, ...]
    overall: tuple[Overall, ...]
    verdicts: tuple[Verdict, ...]
    over_all: Verdict | None
    payoffs: tuple[QueueEvaluation, ...] = ()

    @property
    def lines(self) -> tuple[str, ...]:
        return tuple(verdict.line for verdict in self.verdicts)

    def rows_of(self, line: str) -> tuple[BoardRow, ...]:
        """Best first: the model that the verdict names, those tied with it by what they are worth, all others by image
        AUROC, failed ones last."""
        return self._rows[line]

    def verdict_on(self, line: str) -> Verdict:
        return self._verdicts[line]

    @functools.cached_property
    def _rows(self) -> Mapping[str, tuple[BoardRow, ...]]:
        groups = itertools.groupby(sorted(self.rows, key=lambda row: row.line), key=lambda row: row.line)
        return {line: _best_first(rows, self.verdict_on(line)) for line, rows in groups}

    @functools.cached_property
    def _verdicts(self) -> Mapping[str, Verdict]:
        return {verdict.line: verdict for verdict in self.verdicts}

    def payoff_on(self, line: str) -> QueueEvaluation | None:
        return next((payoff for payoff in self.payoffs if payoff.line == line), None)


def _best_first(rows: Iterable[BoardRow], verdict: Verdict) -> tuple[BoardRow, ...]:
    leaders = (verdict.run, *verdict.tied)

    def place(row: BoardRow) -> tuple[int, float, str]:
        at = leaders.index(row.model) if row.model in leaders else len(leaders)
        auroc = row.quality.image_auroc.value if row.quality else None
        return at, -auroc if auroc is not None else math.inf, row.model

    return tuple(sorted(rows, key=place))


def build_board(
    results: Sequence[UnitResult],
    scores: Mapping[str, ImageScores],
    context: BoardContext,
    twins: Sequence[SquashBaseline] = (),
) -> Board:
    """The comparison of all results, failed ones included. scores: by unit_id, of the finished units. twins: units that
    were also run on squashed images."""

    def place(result: UnitResult) -> tuple[str, str]:
        return result.line, result.model

    ordered = sorted(results, key=lambda result: (*place(result), result.seed))
    twin_of = {place(twin.chosen): twin for twin in twins}
    rows = tuple(merge_seeds(list(group), twin_of.get(at)) for at, group in itertools.groupby(ordered, key=place))
    cases = [_case(line, rows, ordered, scores, context) for line in sorted({row.line for row in rows})]
    verdicts = tuple(case if isinstance(case, Verdict) else decide(case) for case in cases)
    together = over_all([case for case in cases if isinstance(case, Evidence)])
    return Board(context, rows, _overall(rows, verdicts, together), verdicts, together)


def _case(
    line: str,
    rows: Sequence[BoardRow],
    results: Sequence[UnitResult],
    scores: Mapping[str, ImageScores],
    context: BoardContext,
) -> Evidence | Verdict:
    of_line: dict[str, list[ImageScores]] = {}
    for result in results:
        if result.line == line and result.unit_id in scores:
            of_line.setdefault(result.model, []).append(scores[result.unit_id])
    here = [row for row in rows if row.line == line]
    budget = next((row.threshold.budget for row in here if row.threshold), context.false_alarm_budget)
    return collect_evidence(line, here, of_line, context.weights, budget)


def _overall(rows: Sequence[BoardRow], verdicts: Sequence[Verdict], together: Verdict | None) -> tuple[Overall, ...]:
    named = Counter(verdict.run for verdict in verdicts)
    tied = Counter(model for verdict in verdicts for model in verdict.tied)
    judged = sum(verdict.run is not None for verdict in verdicts)
    grades = together.grades if together else {}
    ranks = _mean_ranks(rows, verdicts)
    found = [
        replace(
            _one(model, [row for row in rows if row.model == model], (named[model], tied[model], judged), grades),
            mean_rank=ranks.get(model, Estimate(None, reason="not run on the lines that most models were run on")),
        )
        for model in sorted({row.model for row in rows})
    ]
    return tuple(sorted(found, key=_order))


def _order(one: Overall) -> tuple[float, int, float, str]:
    """The lowest mean rank first."""
    mean = math.inf if one.mean_rank.value is None else one.mean_rank.value
    return mean, -(one.run_in + one.tied_in), -(one.image_auroc or 0.0), one.model


def _mean_ranks(rows: Sequence[BoardRow], verdicts: Sequence[Verdict]) -> dict[str, Estimate]:
    """By model, over lines where something can be said. A model with no seed that finished has failed there."""
    values: dict[str, dict[str, float | None]] = {verdict.line: {} for verdict in verdicts if verdict.run}
    for row in rows:
        if row.line in values:
            values[row.line][row.model] = row.quality.image_auroc.value if row.quality else None
    return mean_ranks(values)


def _one(model: str, rows: Sequence[BoardRow], counted: tuple[int, int, int], grades: Mapping[str, str]) -> Overall:
    """counted: lines where the model is named, where it is tied, and lines that have a verdict."""
    done = [row for row in rows if row.quality]
    qualities = [row.quality for row in done if row.quality]
    run_in, tied_in, judged = counted
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
        hours=added([row.hours for row in done]),
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
