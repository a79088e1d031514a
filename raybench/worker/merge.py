"""Merge the partial metrics of a unit's shards, in any order, and build the unit's row of the comparison."""

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
    ImageCounts,
    MeasureRecord,
    QualityRecord,
    ResourceUsage,
    ScoreRecord,
    TrainRecord,
    UnitResult,
)
from raybench.runs.run import RunStore, score_name, versions

R = TypeVar("R")


@dataclass
class Partials:
    """The merged partial metrics of a unit's shards so far."""

    shards: set[str] = field(default_factory=set)
    """Keys of the image shards that are merged."""
    rows: int = 0
    """Number of images scored."""
    masks: int = 0
    """Number of images with a mask among them."""
    images: ImageScores = field(default_factory=ImageScores.empty)
    """Image scores."""
    pixels: PixelSketch = field(default_factory=PixelSketch.empty)
    """Histogram of heat-map values, for the pixel metrics."""
    regions: Regions = field(default_factory=Regions.empty)
    """Annotated regions and the peaks of the heat maps in them."""
    contrast: HeatmapContrast = field(default_factory=HeatmapContrast.empty)
    """Signal and background of the heat maps."""
    spent: ResourceUsage | None = None
    """Resources used by scoring. None if nothing was scored."""

    def add(self, run: RunStore, record: ScoreRecord) -> None:
        """Merge the partial metrics of one scored shard; a shard that is merged already is skipped."""
        if record.image_shard in self.shards:
            return
        images, pixels, regions, contrast = run.get_blobs(record.images, record.pixels, record.regions, record.contrast)
        self.images = self.images.merge(ImageScores.from_bytes(images))
        self.pixels.merge(PixelSketch.from_bytes(pixels))
        self.regions = self.regions.merge(Regions.from_bytes(regions))
        self.contrast = self.contrast.merge(HeatmapContrast.from_bytes(contrast))
        self.rows += record.rows
        self.masks += record.masks
        self.spent = self.spent.plus(record.spent) if self.spent else record.spent
        self.shards.add(record.image_shard)


def merge(unit: Unit, manifest: Manifest, run: RunStore, partials: Partials) -> QualityRecord:
    """Merge the shards that `partials` lacks, compute the unit's quality and commit it.

    Raises IntegrityError when a shard is not committed, or the number of images differs from that of the manifest.
    """
    if done := run.read(unit.unit_id, "quality", QualityRecord):
        return done
    for shard in manifest.scored_shards:
        if shard.key not in partials.shards:
            partials.add(run, _committed(run, unit.unit_id, score_name(shard.key), ScoreRecord))
    expected = manifest.scored_images
    if partials.rows != expected or len(partials.images.image_ids) != expected:
        raise IntegrityError(f"{unit}: {partials.rows} images scored, {expected} in the line's manifest")
    trained = _committed(run, unit.detector_id, "train", TrainRecord)
    images = partials.images
    regions = region_recall(partials.regions, trained.pixel_threshold)
    record = QualityRecord(
        unit_id=unit.unit_id,
        quality=_quality(partials, trained.threshold),
        regions=regions,
        images=run.put_blob(unit.unit_id, "images", images.to_bytes()),
        scored=partials.rows,
        test=ImageCounts(len(images.of_label("ok")), len(images.of_label("ng")), partials.masks, images.chosen),
        versions=versions(),
        spent=partials.spent,
    )
    return run.commit(unit.unit_id, "quality", record)


def finalize(unit: Unit, run: RunStore) -> UnitResult:
    """Commit the unit's result, which marks the unit as done. Raises IntegrityError when a phase is not committed."""
    result = UnitResult(
        unit_id=unit.unit_id,
        line=unit.line,
        model=unit.model,
        seed=unit.seed,
        input=unit.input,
        trained=_committed(run, unit.detector_id, "train", TrainRecord),
        measured=_committed(run, unit.detector_id, unit.measure_name, MeasureRecord),
        judged=_committed(run, unit.unit_id, "quality", QualityRecord),
    )
    return run.commit(unit.unit_id, "finished", result)


def _committed(run: RunStore, owner: str, name: str, kind: type[R]) -> R:
    """Read a commit of a unit or a detector."""
    record = run.read(owner, name, kind)
    if record is None:
        raise IntegrityError(f"{run.store.uri(run.key(owner, name))} is not committed")
    return record


def _quality(partials: Partials, threshold: Threshold) -> Quality:
    images = image_quality(partials.images, threshold)
    groups = dict(zip(partials.images.image_ids.tolist(), partials.images.groups.tolist(), strict=True))
    pixels = partials.pixels.evaluate(groups)
    heatmaps = heatmap_quality(partials.contrast, groups)
    return Quality(**vars(images), **vars(pixels), **vars(heatmaps))
