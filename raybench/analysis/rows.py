"""A row of the comparison: one model on one line, with its seeds merged."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, fields

from raybench.analysis.cost_report import Hours, hours_of
from raybench.analysis.heatmap_grade import HeatmapGrade, heatmap_grade
from raybench.analysis.squash_baseline import NonSquare, SquashBaseline, non_square
from raybench.data.geometry import Input
from raybench.detectors.protocol import TrainSteps
from raybench.metrics.intervals import student_quantile
from raybench.metrics.numbers import Estimate, Quality, RegionRecall
from raybench.metrics.ranking import seed_error
from raybench.runs.records import FailedUnit, Failure, ImageCounts, MeasureRecord, TrainRecord, UnitResult


@dataclass(frozen=True)
class FinishedModel:
    """The finished seeds of one model on one line. A metric is their mean."""

    input: Input
    """Size of the network's input and how images are resized for it."""
    test: ImageCounts
    trained: TrainRecord
    """Of the first seed: its detector is the one that is used."""
    measured: MeasureRecord
    """Of the first seed."""
    quality: Quality
    regions: RegionRecall
    train_s: float
    """Mean wall time of training, in seconds."""
    non_square: NonSquare
    """How images of this aspect are fitted to the network, and the gain over squashing them."""
    heat: HeatmapGrade | None
    """Grade of its heat maps; None without heat maps to grade."""
    trained_on: tuple[str, ...]
    """Kinds of device that its seeds were trained on, by torch's names."""
    steps: TrainSteps | None
    """Optimiser steps of the seed that took the fewest. None for a model without an optimiser."""

    @property
    def test_minutes(self) -> float:
        """Minutes to score the line's test set, one image after the other, decoding included."""
        return self.measured.speed.end_to_end_ms * (self.test.ok + self.test.ng) / 60_000


@dataclass(frozen=True)
class BoardRow:
    """One model on one line."""

    line: str
    model: str
    seeds: tuple[int, ...]
    """Seeds that finished."""
    failures: tuple[Failure, ...]
    """Failures of the seeds that failed."""
    hours: Hours
    """Hours of the seeds that finished."""
    finished: FinishedModel | None
    """None if no seed finished."""


def merge_seeds(results: Sequence[UnitResult | FailedUnit], baseline: SquashBaseline | None = None) -> BoardRow:
    """Merge the results of one model on one line.

    Args:
        results: Results of its seeds, at least one; failed ones included.
        baseline: The same model on squashed images, if it was run.
    """
    done = [result for result in results if isinstance(result, UnitResult)]
    return BoardRow(
        line=results[0].line,
        model=results[0].model,
        seeds=tuple(sorted(result.seed for result in done)),
        failures=tuple(result.failure for result in results if isinstance(result, FailedUnit)),
        hours=hours_of(done),
        finished=_finished(done, baseline) if done else None,
    )


def _finished(results: Sequence[UnitResult], baseline: SquashBaseline | None) -> FinishedModel:
    first, trained = results[0], [result.trained for result in results]
    quality = _mean_quality([result.judged.quality for result in results])
    return FinishedModel(
        input=first.input,
        test=first.judged.test,
        trained=first.trained,
        measured=first.measured,
        quality=quality,
        regions=_mean_regions([result.judged.regions for result in results]),
        train_s=statistics.fmean(record.train_s for record in trained),
        non_square=non_square(first.input, baseline),
        heat=heatmap_grade(quality),
        trained_on=tuple(sorted({record.spent.device for record in trained})),
        steps=min((record.steps for record in trained if record.steps), key=lambda steps: steps.done, default=None),
    )


def _mean_quality(qualities: Sequence[Quality]) -> Quality:
    return Quality(
        **{
            metric.name: mean_number([getattr(quality, metric.name) for quality in qualities])
            for metric in fields(Quality)
        }
    )


def _mean_regions(recalls: Sequence[RegionRecall]) -> RegionRecall:
    def mean_by(name: str) -> dict[str, Estimate]:
        parts = [getattr(recall, name) for recall in recalls]
        return {key: mean_number([part[key] for part in parts if key in part]) for key in parts[0]}

    return RegionRecall(mean_number([recall.all for recall in recalls]), mean_by("by_type"), mean_by("by_size"))


def mean_number(numbers: Sequence[Estimate]) -> Estimate:
    """Average a share, such as an AUROC or a recall, over seeds.

    The images are the same for all seeds, so their part of the interval does not shrink; the part of the seeds shrinks
    with their number (`metrics.ranking.seed_error`). The parts are added as variances. The interval of one seed is
    valid for that trained detector, not for another training.
    """
    defined = [number for number in numbers if number.value is not None]
    if not defined:
        return numbers[0]
    values = [number.value for number in defined if number.value is not None]
    mean, seeds = statistics.fmean(values), len(values)
    below = [number.value - number.low for number in defined if number.value is not None and number.low is not None]
    above = [number.high - number.value for number in defined if number.value is not None and number.high is not None]
    if not below or not above:
        return Estimate(mean, n=defined[0].n)
    error, degrees = seed_error(values)
    of_seeds = student_quantile(degrees) * error if seeds > 1 else 0.0
    low, high = (math.hypot(statistics.fmean(parts), of_seeds) for parts in (below, above))
    return Estimate(mean, max(0.0, mean - low), min(1.0, mean + high), defined[0].n)
