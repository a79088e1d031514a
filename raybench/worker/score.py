"""Score one shard with one trained detector: write scores, heat maps and partial metrics to the store."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt

from raybench.config.unit import Unit
from raybench.data.decode import decode_mask
from raybench.data.geometry import to_source
from raybench.data.manifest import Manifest, ShardInfo
from raybench.data.shards import ImageRow, read_rows
from raybench.detectors.protocol import Images
from raybench.errors import IntegrityError
from raybench.metrics.descriptors import Descriptors, describe
from raybench.metrics.heatmap_contrast import HeatmapContrast
from raybench.metrics.image import ImageScores
from raybench.metrics.pixel import PixelMap, PixelSketch
from raybench.metrics.regions import Regions
from raybench.runs.records import Blob, ScoreRecord, TrainRecord
from raybench.runs.run import score_name
from raybench.runs.scores import ScoreRow, write_scores
from raybench.worker.batches import score_all
from raybench.worker.context import WorkerContext, cached_detector, fit_of
from raybench.worker.usage import UsageMeter

JUDGED = ("ok", "ng")


def score(unit: Unit, manifest: Manifest, shard: ShardInfo, context: WorkerContext) -> ScoreRecord:
    """Score every image of `shard` and commit the record; return a record that is committed already.

    Raises IntegrityError when the unit is not trained.
    """
    name = score_name(shard.key)
    if done := context.run.read(unit.unit_id, name, ScoreRecord):
        return done
    meter = UsageMeter(context)
    trained = context.run.read(unit.unit_id, "train", TrainRecord)
    if trained is None:
        raise IntegrityError(f"{unit}: scored before it was trained")
    scoring = _ShardScoring(unit, manifest, shard, trained, context)
    stem = Path(shard.key).stem
    scores = write_scores(scoring.rows(), fit=unit.input.mode)

    def put_partial(kind: str, data: bytes) -> Blob:
        return context.run.put_blob(unit.unit_id, f"partial/{stem}-{kind}", data)

    record = ScoreRecord(
        unit_id=unit.unit_id,
        image_shard=shard.key,
        rows=len(scoring.scores),
        masks=scoring.masks,
        shard=context.run.put_blob(unit.unit_id, f"scores/{stem}", scores),
        images=put_partial("images", scoring.image_scores().to_bytes()),
        pixels=put_partial("pixels", scoring.pixels.to_bytes()),
        regions=put_partial("regions", scoring.regions.to_bytes()),
        glow=put_partial("glow", scoring.contrast.to_bytes()),
        traits=put_partial("traits", scoring.descriptors().to_bytes()),
        spent=meter.read(len(scoring.scores), scoring.detector),
    )
    return context.run.commit(unit.unit_id, name, record)


class _ShardScoring:
    """Scores one shard in a single pass and adds up the partial metrics; holds one batch of heat maps at a time."""

    def __init__(
        self, unit: Unit, manifest: Manifest, shard: ShardInfo, trained: TrainRecord, context: WorkerContext
    ) -> None:
        self.unit, self.trained = unit, trained
        self.detector = cached_detector(unit, trained, context)
        self.images = context.cached_shard(unit, manifest, shard)
        self._facts = read_rows(context.lines, shard, images=False)
        self.pixels = PixelSketch.empty()
        self.regions = Regions.empty()
        self.contrast = HeatmapContrast.empty()
        self._descriptors: list[Descriptors] = []
        self.threads, self.batch, self.has_masks = context.threads, context.batch, manifest.masks > 0
        self.masks = 0
        self.scores: list[float] = []

    def rows(self) -> Iterator[ScoreRow]:
        """Score all images in order; the metrics are complete when the iterator is exhausted."""
        images, limit = self.images, self.trained.threshold.value
        for positions, pixels, scored in score_all(self.detector, images, self.batch):
            maps = scored.heatmaps
            if maps is not None:
                self._add_heatmaps(positions, pixels, maps)
            for index, position in enumerate(positions):
                raw = float(scored.scores[index])
                self.scores.append(raw)
                yield ScoreRow(
                    image_id=images.image_ids[position],
                    line=self.unit.line,
                    model=self.unit.model,
                    unit_id=self.unit.unit_id,
                    label=images.index.labels[position],
                    score=raw,
                    is_anomalous=None if limit is None else raw > limit,
                    heatmap=None if maps is None else maps[index],
                    height=images.index.heights[position],
                    width=images.index.widths[position],
                )

    def _add_heatmaps(self, positions: range, pixels: Images, maps: npt.NDArray[np.float32]) -> None:
        """Add one batch to the metrics of heat maps, at the resolution of the source images.

        Pixel and region metrics use images whose every pixel is known to be OK or NG, contrast all labelled images,
        and descriptors all images.
        """
        typical = self.trained.heat_low or 0.0
        pixel_maps, regions, contrasts = [], [], []
        image_ids = [self.images.image_ids[position] for position in positions]
        types: list[str] = []
        for heatmap, image_id in zip(maps, image_ids, strict=True):
            row = next(self._facts)
            if row.image_id != image_id:
                raise IntegrityError(f"{row.image_id}: the decode cache is not of this shard")
            types.append(row.defect_type)
            if row.label not in JUDGED:
                continue
            mask = _mask(row)
            full = to_source(heatmap, fit_of(self.unit), row.height, row.width)
            contrasts.append(HeatmapContrast.of(row.image_id, row.label, full, typical, mask))
            if mask is not None and self.has_masks:
                if row.mask is not None:
                    self.masks += 1
                pixel_maps.append(PixelMap(row.image_id, full, mask))
                regions.append(Regions.of(row.image_id, row.defect_type, full, mask))
        self.pixels.add(pixel_maps, self.threads)
        self.regions = self.regions.merge(*regions)
        self.contrast = self.contrast.merge(*contrasts)
        values = [describe(heatmap, image, typical) for heatmap, image in zip(maps, pixels, strict=True)]
        self._descriptors.append(Descriptors.of(image_ids, types, values))

    def descriptors(self) -> Descriptors:
        return Descriptors.empty().merge(*self._descriptors)

    def image_scores(self) -> ImageScores:
        return ImageScores.of(self.images.image_ids, self.images.index.labels, self.scores)


def _mask(row: ImageRow) -> npt.NDArray[np.bool_] | None:
    """Return the mask (H, W) at the source's resolution, all False for an OK image without one; None if unknown."""
    if row.mask is not None:
        return decode_mask(row.mask, row.height, row.width)
    return np.zeros((row.height, row.width), bool) if row.label == "ok" else None
