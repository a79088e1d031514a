"""One row of the comparison: a line × model, its seeds merged."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field, fields

from raybench.analysis.cost_report import Hours, hours_of
from raybench.analysis.heatmap_grade import HeatmapGrade, heatmap_grade
from raybench.analysis.squash_baseline import NonSquare, SquashBaseline, non_square
from raybench.data.geometry import Input
from raybench.detectors.protocol import Provenance
from raybench.metrics.numbers import Estimate, Quality, RegionRecall, Speed, Threshold
from raybench.runs.records import Counts, Failure, ModelSize, UnitResult


@dataclass(frozen=True)
class BoardRow:
    """seeds: those that finished. test_minutes: the line's test set, one image after the other, decoding included.
    non_square: how the line's aspect reaches the network, and its worth. heat: its heat maps in words. failures: of
    the seeds that failed. hours: of all seeds that finished."""

    line: str
    model: str
    seeds: tuple[int, ...]
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
    test_minutes: float | None
    non_square: NonSquare
    heat: HeatmapGrade | None
    failures: tuple[Failure, ...]
    not_exportable: str = ""
    hours: Hours = field(default_factory=Hours)


def merge_seeds(results: Sequence[UnitResult], twin: SquashBaseline | None = None) -> BoardRow:
    """The results of one line and model. Numbers are means over the seeds that finished. twin: the squashed one."""
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
        non_square=non_square(first.input, twin),
        heat=heatmap_grade(quality) if quality else None,
        failures=tuple(result.failure for result in results if result.failure),
        not_exportable=first.not_exportable,
        hours=hours_of(done),
    )


def _quality(qualities: Sequence[Quality]) -> Quality | None:
    if not qualities:
        return None
    return Quality(
        **{each.name: mean_number([getattr(quality, each.name) for quality in qualities]) for each in fields(Quality)}
    )


def _regions(found: Sequence[RegionRecall]) -> RegionRecall | None:
    if not found:
        return None

    def by(name: str) -> dict[str, Estimate]:
        parts = [getattr(one, name) for one in found]
        return {key: mean_number([part[key] for part in parts if key in part]) for key in parts[0]}

    return RegionRecall(mean_number([one.all for one in found]), by("by_type"), by("by_size"))


def mean_number(numbers: Sequence[Estimate]) -> Estimate:
    """The mean over seeds. Its interval reaches from the lowest low to the highest high: images and seeds both vary."""
    defined = [number for number in numbers if number.value is not None]
    if not defined:
        return numbers[0]
    values = [number.value for number in defined if number.value is not None]
    lows = [number.low for number in defined if number.low is not None]
    highs = [number.high for number in defined if number.high is not None]
    return Estimate(statistics.mean(values), min(lows, default=None), max(highs, default=None), defined[0].n)


def _test_minutes(result: UnitResult) -> float | None:
    if result.speed is None or result.counts is None:
        return None
    return result.speed.end_to_end_ms * (result.counts.test_ok + result.counts.test_ng) / 60_000
