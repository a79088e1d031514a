"""Score one shard with one trained detector: write scores, heat maps and partial metrics to the store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from raybench.config.unit import Unit
from raybench.data.manifest import Manifest, ShardInfo
from raybench.data.masks import Annotation, open_annotations
from raybench.errors import IntegrityError
from raybench.metrics.descriptors import Descriptors, describe
from raybench.metrics.heatmap_contrast import HeatmapContrast
from raybench.metrics.image import ImageScores
from raybench.metrics.regions import Regions
from raybench.runs.records import Blob, ScoreRecord, TrainRecord
from raybench.runs.run import score_name
from raybench.runs.scores import ScoreRow, write_scores
from raybench.worker import heatmaps
from raybench.worker.batches import ScoredBatch, ahead, score_all
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
    scores = write_scores(scoring.rows(), fit=unit.input.mode)
    stem, data = Path(shard.key).stem, {"scores": scores, **scoring.partials()}

    def put(name: str) -> Blob:
        path = f"scores/{stem}" if name == "scores" else f"partial/{stem}-{name}"
        return context.run.put_blob(unit.unit_id, path, data[name])

    with ThreadPoolExecutor(len(data)) as pool:  # waiting for a store is most of the time of a short shard
        blobs = dict(zip(data, pool.map(put, data), strict=True))
    record = ScoreRecord(
        unit_id=unit.unit_id,
        image_shard=shard.key,
        rows=len(scoring.scores),
        masks=scoring.masks,
        shard=blobs["scores"],
        images=blobs["images"],
        pixels=blobs["pixels"],
        regions=blobs["regions"],
        glow=blobs["glow"],
        traits=blobs["traits"],
        spent=meter.read(len(scoring.scores), scoring.detector),
    )
    return context.run.commit(unit.unit_id, name, record)


class _ShardScoring:
    """Scores one shard in a single pass and adds up the partial metrics; holds a few batches of heat maps at a time."""

    def __init__(
        self, unit: Unit, manifest: Manifest, shard: ShardInfo, trained: TrainRecord, context: WorkerContext
    ) -> None:
        self.unit, self.trained, self.context = unit, trained, context
        self.detector = cached_detector(unit, trained, context)
        self.images = context.cached_shard(unit, manifest, shard)
        self.annotations = open_annotations(context.lines, shard, context.cache_dir)
        if [row["image_id"] for row in self.annotations.rows] != list(self.images.image_ids):
            raise IntegrityError(f"{shard.key}: the decode cache is not of this shard")
        self.has_masks = manifest.masks > 0
        self.counts = heatmaps.counts_on(context.device, self.typical, context.threads)
        self.judged: list[Annotation] = []
        self.masks = 0
        self.scores: list[float] = []
        self._descriptors: list[Descriptors] = []

    @property
    def typical(self) -> float:
        """Heat of a typical OK image."""
        return self.trained.heat_low or 0.0

    def rows(self) -> Iterator[ScoreRow]:
        """Score all images in order; the metrics are complete when the iterator is exhausted.

        On a GPU, the next batch is scored and judged while the rows of this one are written.
        """
        batches = map(self._judge, score_all(self.detector, self.images, self.context.batch, self.context.device))
        with ThreadPoolExecutor(self.context.threads) as pool:
            for batch in batches if self.context.device == "cpu" else ahead(batches):
                yield from self._rows(batch, pool)

    def _judge(self, batch: ScoredBatch) -> ScoredBatch:
        """Add a batch to the metrics of heat maps, at the resolution of the source images.

        Pixel and region metrics use images whose every pixel is known to be OK or NG, contrast all labelled images.
        """
        if batch.heatmaps is None:
            return batch
        annotations = [self.annotations[position] for position in batch.positions]
        labelled = [row for row, annotation in enumerate(annotations) if annotation.label in JUDGED]
        index = self.images.index
        sizes = [(index.heights[batch.positions[row]], index.widths[batch.positions[row]]) for row in labelled]
        for rows, maps in heatmaps.at_source(batch.heatmaps, labelled, sizes, fit_of(self.unit), self.context.device):
            some = [annotations[row] for row in rows]
            self.counts.add(
                [each.image_id for each in some], maps, [each.mask if self.has_masks else None for each in some]
            )
            self.judged += some
        self.masks += sum(annotations[row].has_mask for row in labelled if self.has_masks)
        return batch

    def _rows(self, batch: ScoredBatch, pool: ThreadPoolExecutor) -> Iterator[ScoreRow]:
        scored, limit, index = batch.scored(), self.trained.threshold.value, self.images.index
        maps = scored.heatmaps
        image_ids = [self.images.image_ids[position] for position in batch.positions]
        if maps is not None:
            describing = map if self.context.threads == 1 else pool.map
            values = list(describing(lambda heat, image: describe(heat, image, self.typical), maps, batch.pixels))
            types = [self.annotations.rows[position]["defect_type"] for position in batch.positions]
            self._descriptors.append(Descriptors.of(image_ids, types, values))
        for row, position in enumerate(batch.positions):
            raw = float(scored.scores[row])
            self.scores.append(raw)
            yield ScoreRow(
                image_id=image_ids[row],
                line=self.unit.line,
                model=self.unit.model,
                unit_id=self.unit.unit_id,
                label=index.labels[position],
                score=raw,
                is_anomalous=None if limit is None else raw > limit,
                heatmap=None if maps is None else maps[row],
                height=index.heights[position],
                width=index.widths[position],
            )

    def partials(self) -> Mapping[str, bytes]:
        """Return the partial metrics of the shard by name, serialised."""
        pixels, heats = self.counts.finish()
        regions, contrasts = [], []
        for heat, annotation in zip(heats, self.judged, strict=True):
            contrasts.append(HeatmapContrast.of(annotation.image_id, annotation.label, heat, annotation.mask))
            if annotation.mask is not None and self.has_masks:
                regions.append(
                    Regions.of(annotation.image_id, annotation.defect_type, heat.region_peaks, annotation.mask)
                )
        return {
            "images": ImageScores.of(self.images.image_ids, self.images.index.labels, self.scores).to_bytes(),
            "pixels": pixels.to_bytes(),
            "regions": Regions.empty().merge(*regions).to_bytes(),
            "glow": HeatmapContrast.empty().merge(*contrasts).to_bytes(),
            "traits": Descriptors.empty().merge(*self._descriptors).to_bytes(),
        }
