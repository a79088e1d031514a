"""Score shards with one trained detector: write scores, heat maps and partial metrics to the store."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
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
from raybench.runs.records import Blob, ResourceUsage, ScoreRecord, TrainRecord
from raybench.runs.run import score_name
from raybench.runs.scores import ScoreRow, write_scores
from raybench.worker import heatmaps
from raybench.worker.batches import ScoredBatch, ahead, score_all
from raybench.worker.context import WorkerContext, cached_detector, fit_of
from raybench.worker.usage import UsageMeter

JUDGED = ("ok", "ng")


def score(unit: Unit, manifest: Manifest, shard: ShardInfo, context: WorkerContext) -> ScoreRecord:
    """Score every image of `shard` and commit the record; see `score_shards`."""
    return score_shards(unit, manifest, [shard], context)[0]


def score_shards(
    unit: Unit, manifest: Manifest, shards: Sequence[ShardInfo], context: WorkerContext
) -> list[ScoreRecord]:
    """Score every image of some shards and commit a record for each; return the records, some of an earlier commit.

    On a GPU the stages overlap: it scores and judges images while those before are written, packed and put.

    Raises IntegrityError when the unit is not trained.
    """
    done = {shard.key: context.run.read(unit.unit_id, score_name(shard.key), ScoreRecord) for shard in shards}
    missing = [shard for shard in shards if not done[shard.key]]
    meter = UsageMeter(context)
    trained = context.run.read(unit.unit_id, "train", TrainRecord)
    if missing and trained is None:
        raise IntegrityError(f"{unit}: scored before it was trained")

    def judged() -> Iterator[tuple[_ShardScoring, ScoredBatch]]:
        for shard in missing:
            scoring = _ShardScoring(unit, manifest, shard, trained, context)  # type: ignore[arg-type]
            yield from ((scoring, batch) for batch in scoring.judged())

    overlapping = ahead if context.counting_device != "cpu" else iter
    described = ((scoring, scoring.rows(batch)) for scoring, batch in overlapping(judged()))
    with ThreadPoolExecutor(1) as committing:
        waiting = []
        for scoring, batches in itertools.groupby(overlapping(described), key=lambda pair: pair[0]):
            rows = itertools.chain.from_iterable(rows for _, rows in batches)
            scores = write_scores(rows, fit=unit.input.mode)
            spent = meter.read(len(scoring.scores), scoring.detector)
            waiting.append(committing.submit(scoring.commit, scores, spent))
        records = {record.image_shard: record for record in (future.result() for future in waiting)}
    return [record for shard in shards if (record := done[shard.key] or records.get(shard.key))]


class _ShardScoring:
    """Scores one shard in a single pass and adds up the partial metrics; holds a few batches of heat maps at a time."""

    def __init__(
        self, unit: Unit, manifest: Manifest, shard: ShardInfo, trained: TrainRecord, context: WorkerContext
    ) -> None:
        self.unit, self.shard, self.trained, self.context = unit, shard, trained, context
        self.detector = cached_detector(unit, trained, context)
        self.images = context.cached_shard(unit, manifest, shard)
        self.annotations = open_annotations(context.lines, shard, context.cache_dir)
        if [row["image_id"] for row in self.annotations.rows] != list(self.images.image_ids):
            raise IntegrityError(f"{shard.key}: the decode cache is not of this shard")
        self.has_masks, self.device = manifest.masks > 0, context.counting_device
        self.counts = heatmaps.counts_on(self.device, self.typical, context.threads)
        self.labelled: list[Annotation] = []
        self.masks = 0
        self.scores: list[float] = []
        self._descriptors: list[Descriptors] = []

    @property
    def typical(self) -> float:
        """Heat of a typical OK image."""
        return self.trained.heat_low or 0.0

    def judged(self) -> Iterator[ScoredBatch]:
        """Score all images in order, and add each batch to the metrics of heat maps."""
        return map(self._judge, score_all(self.detector, self.images, self.context.batch, self.device))

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
        for rows, maps in heatmaps.at_source(batch.heatmaps, labelled, sizes, fit_of(self.unit), self.device):
            some = [annotations[row] for row in rows]
            self.counts.add(
                [each.image_id for each in some], maps, [each.mask if self.has_masks else None for each in some]
            )
            self.labelled += [each.without_pixels() for each in some]
        self.masks += sum(annotations[row].has_mask for row in labelled if self.has_masks)
        return batch

    def rows(self, batch: ScoredBatch) -> list[ScoreRow]:
        """Return the rows of a batch that `judged` has yielded, and describe its images."""
        scored, limit, index = batch.scored(), self.trained.threshold.value, self.images.index
        maps = scored.heatmaps
        image_ids = [self.images.image_ids[position] for position in batch.positions]
        if maps is not None:
            values = [describe(heat, image, self.typical) for heat, image in zip(maps, batch.pixels, strict=True)]
            types = [self.annotations.rows[position]["defect_type"] for position in batch.positions]
            self._descriptors.append(Descriptors.of(image_ids, types, values))
        scores = scored.scores.tolist()
        self.scores += scores
        return [
            ScoreRow(
                image_id=image_ids[row],
                line=self.unit.line,
                model=self.unit.model,
                unit_id=self.unit.unit_id,
                label=index.labels[position],
                score=scores[row],
                is_anomalous=None if limit is None else scores[row] > limit,
                heatmap=None if maps is None else maps[row],
                height=index.heights[position],
                width=index.widths[position],
            )
            for row, position in enumerate(batch.positions)
        ]

    def commit(self, scores: bytes, spent: ResourceUsage) -> ScoreRecord:
        """Put the scores shard and the partial metrics, once all rows have been yielded, and commit the record."""
        data = {"scores": scores, **self._partials()}
        unit_id, stem = self.unit.unit_id, Path(self.shard.key).stem

        def put(name: str) -> Blob:
            path = f"scores/{stem}" if name == "scores" else f"partial/{stem}-{name}"
            return self.context.run.put_blob(unit_id, path, data[name])

        with ThreadPoolExecutor(len(data)) as pool:  # a store answers after milliseconds, whatever the size
            blobs = dict(zip(data, pool.map(put, data), strict=True))
        record = ScoreRecord(
            unit_id=unit_id,
            image_shard=self.shard.key,
            rows=len(self.scores),
            masks=self.masks,
            shard=blobs["scores"],
            images=blobs["images"],
            pixels=blobs["pixels"],
            regions=blobs["regions"],
            glow=blobs["glow"],
            traits=blobs["traits"],
            spent=spent,
        )
        return self.context.run.commit(unit_id, score_name(self.shard.key), record)

    def _partials(self) -> Mapping[str, bytes]:
        """Return the partial metrics of the shard by name, serialised."""
        pixels, heats = self.counts.finish()
        index = self.images.index
        images = ImageScores.of(index.image_ids, index.labels, self.scores, index.groups)
        regions, contrasts = [], []
        for heat, annotation in zip(heats, self.labelled, strict=True):
            contrasts.append(HeatmapContrast.of(annotation.image_id, annotation.label, heat, annotation.mask))
            if annotation.mask is not None and self.has_masks:
                regions.append(
                    Regions.of(annotation.image_id, annotation.defect_type, heat.region_peaks, annotation.mask)
                )
        return {
            "images": images.to_bytes(),
            "pixels": pixels.to_bytes(),
            "regions": Regions.empty().merge(*regions).to_bytes(),
            "glow": HeatmapContrast.empty().merge(*contrasts).to_bytes(),
            "traits": Descriptors.empty().merge(*self._descriptors).to_bytes(),
        }
