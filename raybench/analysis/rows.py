"""A row of the comparison: one model on one line, with its seeds merged."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, fields

from raybench.analysis.cost_report import Hours, hours_of
from raybench.analysis.heatmap_grade import HeatmapGrade, heatmap_grade
from raybench.analysis.squash_baseline import NonSquare, SquashBaseline, non_square
from raybench.data.geometry import Input
from raybench.detectors.protocol import Provenance, TrainSteps
from raybench.metrics.intervals import student_quantile
from raybench.metrics.numbers import Estimate, Quality, RegionRecall, Speed, Threshold
from raybench.metrics.ranking import seed_error
from raybench.runs.records import Counts, Failure, ModelSize, UnitResult


@dataclass(frozen=True)
class BoardRow:
    """One model on one line. A metric is the mean over its finished seeds."""

    line: str
    model: str
    seeds: tuple[int, ...]
    """Seeds that finished."""
    provenance: Provenance | None
    weights_note: str
    quality: Quality | None
    regions: RegionRecall | None
    speed: Speed | None
    size: ModelSize | None
    input: Input | None
    counts: Counts | None
    threshold: Threshold | None
    pixel_threshold: Threshold | None
    train_s: float | None
    """Mean wall time of training, in seconds."""
    test_minutes: float | None
    """Minutes to score the line's test set, one image after the other, decoding included."""
    non_square: NonSquare
    """How images of this aspect are fitted to the network, and the gain over squashing them."""
    heat: HeatmapGrade | None
    """Grade of its heat maps."""
    failures: tuple[Failure, ...]
    """Failures of the seeds that failed."""
    not_exportable: str = ""
    """Why the model cannot be exported; empty if it can."""
    hours: Hours = field(default_factory=Hours)
    """Hours of all seeds that finished."""
    trained_on: tuple[str, ...] = ()
    """Kinds of device that its seeds were trained on, by torch's names; empty in runs of an older raybench."""
    steps: TrainSteps | None = None
    """Optimiser steps of the seed that took the fewest. None for a model without an optimiser, and if unknown."""


def merge_seeds(results: Sequence[UnitResult], baseline: SquashBaseline | None = None) -> BoardRow:
    """Merge the results of one model on one line.

    Args:
        results: Results of its seeds, at least one; failed ones included.
        baseline: The same model on squashed images, if it was run.
    """
    done = [result for result in results if result.failure is None]
    first = done[0] if done else results[0]
    quality = _quality([result.quality for result in done if result.quality])
    return BoardRow(
        line=first.line,
        model=first.model,
        seeds=tuple(sorted(result.seed for result in done)),
        provenance=first.provenance,
        weights_note=first.weights_note,
        quality=quality,
        regions=_regions([result.regions for result in done if result.regions]),
        speed=first.speed,
        size=first.size,
        input=first.input,
        counts=first.counts,
        threshold=first.threshold,
        pixel_threshold=first.pixel_threshold,
        train_s=statistics.mean([result.train_s for result in done if result.train_s is not None]) if done else None,
        test_minutes=_test_minutes(first),
        non_square=non_square(first.input, baseline),
        heat=heatmap_grade(quality) if quality else None,
        failures=tuple(result.failure for result in results if result.failure),
        not_exportable=first.not_exportable,
        hours=hours_of(done),
        trained_on=tuple(sorted({result.spent["train"].device for result in done if "train" in result.spent})),
        steps=min((result.steps for result in done if result.steps), key=lambda steps: steps.done, default=None),
    )


def _quality(qualities: Sequence[Quality]) -> Quality | None:
    if not qualities:
        return None
    return Quality(
        **{
            metric.name: mean_number([getattr(quality, metric.name) for quality in qualities])
            for metric in fields(Quality)
        }
    )


def _regions(recalls: Sequence[RegionRecall]) -> RegionRecall | None:
    if not recalls:
        return None

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
    mean, seeds = statistics.mean(values), len(values)
    below = [number.value - number.low for number in defined if number.value is not None and number.low is not None]
    above = [number.high - number.value for number in defined if number.value is not None and number.high is not None]
    if not below or not above:
        return Estimate(mean, n=defined[0].n)
    error, degrees = seed_error(values)
    of_seeds = student_quantile(degrees) * error if seeds > 1 else 0.0
    low, high = (math.hypot(statistics.mean(parts), of_seeds) for parts in (below, above))
    return Estimate(mean, max(0.0, mean - low), min(1.0, mean + high), defined[0].n)


def _test_minutes(result: UnitResult) -> float | None:
    if result.speed is None or result.counts is None:
        return None
    return result.speed.end_to_end_ms * (result.counts.test_ok + result.counts.test_ng) / 60_000
