"""The comparison: a row per line and model, a row per model over all lines, and a verdict on each line."""

from __future__ import annotations

import itertools
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from raybench.findings.non_square import Twin
from raybench.findings.rows import Row, merge_seeds
from raybench.findings.verdict import Verdict, judge
from raybench.metrics.image import ImageScores
from raybench.results import Number, Provenance, UnitResult


@dataclass(frozen=True)
class BoardContext:
    """created: ISO 8601. digest: the experiment's. pending: units that are still to be done."""

    run: str
    created: str
    digest: str
    versions: Mapping[str, str]
    false_alarm_budget: float
    pending: int = 0


@dataclass(frozen=True)
class Overall:
    """One model over all lines: means over the lines where a number is defined. lines: finished. failed: lines.
    run_in: lines whose verdict names it. tied_in: lines where it is as good as the named one."""

    model: str
    provenance: Provenance | None
    lines: int
    failed: int
    image_auroc: float | None
    recall: float | None
    false_alarm_rate: float | None
    pixel_auroc: float | None
    au_pro: float | None
    ms_per_image: float | None
    test_minutes: float | None
    size_mb: float | None
    run_in: int
    tied_in: int
    conclusion: str


@dataclass(frozen=True)
class Board:
    context: BoardContext
    rows: tuple[Row, ...]
    overall: tuple[Overall, ...]
    verdicts: tuple[Verdict, ...]

    @property
    def lines(self) -> tuple[str, ...]:
        return tuple(verdict.line for verdict in self.verdicts)

    def rows_of(self, line: str) -> tuple[Row, ...]:
        return tuple(row for row in self.rows if row.line == line)

    def verdict_on(self, line: str) -> Verdict:
        return next(verdict for verdict in self.verdicts if verdict.line == line)


def build_board(
    results: Sequence[UnitResult],
    scores: Mapping[str, ImageScores],
    context: BoardContext,
    twins: Sequence[Twin] = (),
) -> Board:
    """The comparison of all results, failed ones included. scores: by unit_id, of the finished units. twins: units that
    were also run on squashed images."""

    def place(result: UnitResult) -> tuple[str, str]:
        return result.line, result.model

    ordered = sorted(results, key=lambda result: (*place(result), result.seed))
    twin_of = {place(twin.chosen): twin for twin in twins}
    rows = tuple(merge_seeds(list(group), twin_of.get(at)) for at, group in itertools.groupby(ordered, key=place))
    first = {place(result): scores[result.unit_id] for result in reversed(ordered) if result.unit_id in scores}
    verdicts = []
    for line in sorted({row.line for row in rows}):
        of_line = {model: images for (name, model), images in first.items() if name == line}
        verdicts.append(judge(line, [row for row in rows if row.line == line], of_line))
    return Board(context, rows, _overall(rows, verdicts), tuple(verdicts))


def _overall(rows: Sequence[Row], verdicts: Sequence[Verdict]) -> tuple[Overall, ...]:
    named = Counter(verdict.run for verdict in verdicts)
    tied = Counter(model for verdict in verdicts for model in verdict.tied)
    judged = sum(verdict.run is not None for verdict in verdicts)
    models = sorted({row.model for row in rows})
    found = [_one(model, [row for row in rows if row.model == model], named, tied, judged) for model in models]
    return tuple(sorted(found, key=lambda one: (-(one.run_in + one.tied_in), -(one.image_auroc or 0.0), one.model)))


def _one(model: str, rows: Sequence[Row], named: Counter[str | None], tied: Counter[str], judged: int) -> Overall:
    done = [row for row in rows if row.quality]
    qualities = [row.quality for row in done if row.quality]
    good_in = named[model] + tied[model]
    return Overall(
        model=model,
        provenance=next((row.provenance for row in done), None),
        lines=len(done),
        failed=sum(bool(row.failures) for row in rows),
        image_auroc=_mean([quality.image_auroc for quality in qualities]),
        recall=_mean([quality.recall for quality in qualities]),
        false_alarm_rate=_mean([quality.false_alarm_rate for quality in qualities]),
        pixel_auroc=_mean([quality.pixel_auroc for quality in qualities]),
        au_pro=_mean([quality.au_pro for quality in qualities]),
        ms_per_image=_average([row.speed.p50_ms for row in done if row.speed]),
        test_minutes=_average([row.test_minutes for row in done if row.test_minutes is not None]),
        size_mb=_average([row.size.disk_mb for row in done if row.size]),
        run_in=named[model],
        tied_in=tied[model],
        conclusion=f"best or tied on {good_in} of {judged} lines" if done else "finished on no line",
    )


def _mean(numbers: Sequence[Number]) -> float | None:
    return _average([number.value for number in numbers if number.value is not None])


def _average(values: Sequence[float]) -> float | None:
    return statistics.mean(values) if values else None
