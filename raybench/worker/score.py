"""Score one shard with one trained detector: scores and heat maps back to the store, partial metrics beside them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from raybench.config.unit import Unit
from raybench.data.decode import decode_mask
from raybench.data.geometry import to_source
from raybench.data.manifest import Manifest, ShardInfo
from raybench.data.shards import ImageRow, read_rows
from raybench.errors import IntegrityError
from raybench.metrics.descriptors import Descriptors, describe
from raybench.metrics.heatmap_contrast import HeatmapContrast
from raybench.metrics.image import ImageScores
from raybench.metrics.pixel import PixelMap, PixelSketch
from raybench.metrics.regions import Regions
from raybench.runs.records import ScoreRecord, TrainRecord
from raybench.runs.run import score_name
from raybench.runs.scores import ScoreRow, write_scores
from raybench.worker.batches import score_all
from raybench.worker.context import WorkerContext, cached_detector, fit_of
from raybench.worker.usage import UsageMeter

JUDGED = ("ok", "ng")


def score(unit: Unit, manifest: Manifest, shard: ShardInfo, site: WorkerContext) -> ScoreRecord:
    """Score every image of `shard` and commit; a committed record is returned as it stands.

    Raises IntegrityError when the unit is not trained.
    """
    name = score_name(shard.key)
    if done := site.run.read(unit.unit_id, name, ScoreRecord):
        return done
    meter = UsageMeter(site)
    trained = site.run.read(unit.unit_id, "train", TrainRecord)
    if trained is None:
        raise IntegrityError(f"{unit}: scored before it was trained")
    pass_ = _Pass(unit, manifest, shard, trained, site)
    stem = Path(shard.key).stem
    scores = write_scores(pass_.rows(), fit=unit.input.mode)
    record = ScoreRecord(
        unit_id=unit.unit_id,
        image_shard=shard.key,
        rows=len(pass_.scores),
        masks=pass_.masks,
        shard=site.run.put_blob(unit.unit_id, f"scores/{stem}", scores),
        images=site.run.put_blob(unit.unit_id, f"partial/{stem}-images", pass_.image_scores().to_bytes()),
        pixels=site.run.put_blob(unit.unit_id, f"partial/{stem}-pixels", pass_.pixels.to_bytes()),
        regions=site.run.put_blob(unit.unit_id, f"partial/{stem}-regions", pass_.regions.to_bytes()),
        glow=site.run.put_blob(unit.unit_id, f"partial/{stem}-glow", pass_.glow.to_bytes()),
        traits=site.run.put_blob(unit.unit_id, f"partial/{stem}-traits", pass_.traits().to_bytes()),
        spent=meter.read(len(pass_.scores), pass_.detector),
    )
    return site.run.commit(unit.unit_id, name, record)


class _Pass:
    """One pass over a shard; holds one batch of heat maps at a time."""

    def __init__(
        self, unit: Unit, manifest: Manifest, shard: ShardInfo, trained: TrainRecord, site: WorkerContext
    ) -> None:
        self.unit, self.trained = unit, trained
        self.detector = cached_detector(unit, trained, site)
        self.images = site.fitted(unit, manifest, shard)
        self._facts = read_rows(site.lines, shard, images=False)
        self.pixels = PixelSketch.empty()
        self.regions = Regions.empty()
        self.glow = HeatmapContrast.empty()
        self._traits: list[Descriptors] = []
        self.threads, self.batch, self.has_masks = site.threads, site.batch, manifest.masks > 0
        self.masks = 0
        self.scores: list[float] = []

    def rows(self) -> Iterator[ScoreRow]:
        images, limit = self.images, self.trained.threshold.value
        for positions, scored in score_all(self.detector, images, self.batch):
            maps = scored.heatmaps
            if maps is not None:
                self._add_pixels(positions, maps)
            for at, row in enumerate(positions):
                raw = float(scored.scores[at])
                self.scores.append(raw)
                yield ScoreRow(
                    image_id=images.image_ids[row],
                    line=self.unit.line,
                    model=self.unit.model,
                    unit_id=self.unit.unit_id,
                    label=images.index.labels[row],
                    score=raw,
                    is_anomalous=None if limit is None else raw > limit,
                    heatmap=None if maps is None else maps[at],
                    height=images.index.heights[row],
                    width=images.index.widths[row],
                )

    def _add_pixels(self, positions: range, maps: npt.NDArray[np.float32]) -> None:
        """What heat maps of labelled images say, at the source's own resolution; pixel metrics on those whose every
        pixel is known to be OK or NG."""
        typical = self.trained.heat_low or 0.0
        found, regions, glow = [], [], []
        types: list[str] = []
        for heatmap, at in zip(maps, positions, strict=True):
            row = next(self._facts)
            if row.image_id != self.images.image_ids[at]:
                raise IntegrityError(f"{row.image_id}: the decode cache is not of this shard")
            types.append(row.defect_type)
            if row.label not in JUDGED:
                continue
            mask = _mask(row)
            full = to_source(heatmap, fit_of(self.unit), row.height, row.width)
            glow.append(HeatmapContrast.of(row.image_id, row.label, full, typical, mask))
            if mask is not None and self.has_masks:
                self.masks += row.mask is not None
                found.append(PixelMap(row.image_id, full, mask))
                regions.append(Regions.of(row.image_id, row.defect_type, full, mask))
        self.pixels.add(found, self.threads)
        self.regions = self.regions.merge(*regions)
        self.glow = self.glow.merge(*glow)
        self._add_traits(positions, maps, types, typical)

    def _add_traits(
        self, positions: range, maps: npt.NDArray[np.float32], types: Sequence[str], typical: float
    ) -> None:
        pairs = zip(maps, positions, strict=True)
        values = [describe(heatmap, self.images.batch([at])[0], typical) for heatmap, at in pairs]
        self._traits.append(Descriptors.of([self.images.image_ids[at] for at in positions], types, values))

    def traits(self) -> Descriptors:
        return Descriptors.empty().merge(*self._traits)

    def image_scores(self) -> ImageScores:
        return ImageScores.of(self.images.image_ids, self.images.index.labels, self.scores)


def _mask(row: ImageRow) -> npt.NDArray[np.bool_] | None:
    if row.mask is not None:
        return decode_mask(row.mask, row.height, row.width)
    return np.zeros((row.height, row.width), bool) if row.label == "ok" else None
