"""From a unit's commits to its row of the comparison. Partial metrics merge in any order."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeVar

from raybench.config.unit import Unit
from raybench.data.manifest import Manifest
from raybench.errors import IntegrityError
from raybench.metrics.heatmap_contrast import HeatmapContrast, heatmap_quality
from raybench.metrics.image import ImageScores, image_quality
from raybench.metrics.numbers import Quality, Threshold
from raybench.metrics.pixel import PixelSketch
from raybench.metrics.regions import Regions, region_recall
from raybench.runs.records import (
    Counts,
    MeasureRecord,
    Phase,
    QualityRecord,
    ResourceUsage,
    ScoreRecord,
    TrainRecord,
    UnitResult,
)
from raybench.runs.run import Run, score_name

R = TypeVar("R")


@dataclass
class Partials:
    """What a unit's scored shards add up to so far. `add` is idempotent by shard."""

    shards: set[str] = field(default_factory=set)
    rows: int = 0
    masks: int = 0
    images: ImageScores = field(default_factory=ImageScores.empty)
    pixels: PixelSketch = field(default_factory=PixelSketch.empty)
    regions: Regions = field(default_factory=Regions.empty)
    glow: HeatmapContrast = field(default_factory=HeatmapContrast.empty)
    spent: ResourceUsage | None = None

    def add(self, run: Run, record: ScoreRecord) -> None:
        if record.image_shard in self.shards:
            return
        self.images = self.images.merge(ImageScores.from_bytes(run.get_blob(record.images)))
        self.pixels.merge(PixelSketch.from_bytes(run.get_blob(record.pixels)))
        self.regions = self.regions.merge(Regions.from_bytes(run.get_blob(record.regions)))
        self.glow = self.glow.merge(HeatmapContrast.from_bytes(run.get_blob(record.glow)))
        self.rows += record.rows
        self.masks += record.masks
        if record.spent:
            self.spent = self.spent.plus(record.spent) if self.spent else record.spent
        self.shards.add(record.image_shard)


def merge(unit: Unit, manifest: Manifest, run: Run, partials: Partials) -> QualityRecord:
    """Merge what `partials` lacks, compute the unit's quality and commit it.

    Raises IntegrityError when a shard is not committed or the counts are not the line's.
    """
    if done := run.read(unit.unit_id, "quality", QualityRecord):
        return done
    for shard in manifest.scored_shards:
        if shard.key not in partials.shards:
            partials.add(run, _committed(run, unit, score_name(shard.key), ScoreRecord))
    expected = sum(shard.rows for shard in manifest.scored_shards)
    if partials.rows != expected or len(partials.images.image_ids) != expected:
        raise IntegrityError(f"{unit}: {partials.rows} images scored, {expected} in the line's manifest")
    trained = _committed(run, unit, "train", TrainRecord)
    images = run.put_blob(unit.unit_id, "images", partials.images.to_bytes())
    regions = region_recall(partials.regions, trained.pixel_threshold)
    quality = _quality(partials, trained.threshold)
    counts = (partials.rows, partials.masks)
    record = QualityRecord(unit.unit_id, quality, regions, images, *counts, spent=partials.spent)
    return run.commit(unit.unit_id, "quality", record)


def finalize(unit: Unit, manifest: Manifest, run: Run) -> UnitResult:
    """Commit the unit's result: it is done. Raises IntegrityError when a phase is not committed."""
    trained = _committed(run, unit, "train", TrainRecord)
    merged = _committed(run, unit, "quality", QualityRecord)
    measured = _committed(run, unit, "measure", MeasureRecord)
    return run.commit(unit.unit_id, "result", _result(unit, manifest, trained, merged, measured))


def _committed(run: Run, unit: Unit, name: str, kind: type[R]) -> R:
    record = run.read(unit.unit_id, name, kind)
    if record is None:
        raise IntegrityError(f"{unit}: {name} is not committed")
    return record


def _quality(partials: Partials, threshold: Threshold) -> Quality:
    images = image_quality(partials.images, threshold)
    pixels = partials.pixels.evaluate()
    heat = heatmap_quality(partials.glow)
    return Quality(**vars(images), **vars(pixels), **vars(heat))


def _result(
    unit: Unit, manifest: Manifest, trained: TrainRecord, merged: QualityRecord, measured: MeasureRecord
) -> UnitResult:
    counts = Counts(
        train_ok=trained.train_ok,
        held_out_ok=trained.held_out_ok,
        test_ok=manifest.counts.get("test/ok", 0),
        test_ng=manifest.counts.get("test/ng", 0),
        masks=merged.masks,
    )
    spent: dict[Phase, ResourceUsage | None] = {
        "train": trained.spent,
        "score": merged.spent,
        "measure": measured.spent,
    }
    return UnitResult(
        unit_id=unit.unit_id,
        line=unit.line,
        model=unit.model,
        seed=unit.seed,
        provenance=trained.provenance,
        weights_note=trained.weights_note,
        input=unit.input,
        counts=counts,
        threshold=trained.threshold,
        pixel_threshold=trained.pixel_threshold,
        quality=merged.quality,
        regions=merged.regions,
        speed=measured.speed,
        size=measured.size,
        train_s=trained.train_s,
        not_exportable=trained.not_exportable,
        spent={phase: each for phase, each in spent.items() if each},
    )
