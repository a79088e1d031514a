"""Score shards with one trained detector, and judge the scores by labels and masks.

Scores and heat maps depend on the detector and the images alone, and are committed under the detector's ID. A shard
that is scored already is only judged again when its labels or masks have changed: from its stored heat maps, without a
detector. New scores are judged as they will be stored, so both ways give the same numbers.
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from types import MappingProxyType
from typing import Any

import numpy as np
import numpy.typing as npt

from raybench.config.unit import Unit
from raybench.data.cache import CachedShard
from raybench.data.geometry import to_source
from raybench.data.manifest import Manifest, ShardInfo
from raybench.data.masks import Annotation, open_annotations
from raybench.detectors.protocol import Detector
from raybench.errors import IntegrityError
from raybench.metrics.descriptors import Descriptors, describe
from raybench.metrics.heatmap_contrast import HeatmapContrast
from raybench.metrics.image import ImageScores
from raybench.metrics.regions import Regions
from raybench.metrics.small_maps import Codes, SmallMaps, heat_codes, small_size
from raybench.runs.records import ResourceUsage, ScoredShard, ScoreRecord, TrainRecord
from raybench.runs.run import score_name, scored_name
from raybench.runs.scores import ScoreRow, iter_scores, write_scores
from raybench.worker import heatmaps
from raybench.worker.batches import ScoredBatch, ahead, score_all
from raybench.worker.context import UsageMeter, WorkerContext, cached_detector, fit_of

JUDGED = ("ok", "ng")


def score(unit: Unit, manifest: Manifest, shard: ShardInfo, context: WorkerContext) -> ScoreRecord:
    """Score every image of `shard` and commit the record; see `score_shards`."""
    return score_shards(unit, manifest, [shard], context)[0]


def score_shards(
    unit: Unit, manifest: Manifest, shards: Sequence[ShardInfo], context: WorkerContext
) -> list[ScoreRecord]:
    """Score and judge every image of some shards and commit a record for each; return the records.

    What is committed already is not done again. On a GPU the stages overlap: it scores and judges images while those
    before are written, packed and put.

    Raises IntegrityError when the unit is not trained.
    """
    records = {shard.key: context.run.read(unit.unit_id, score_name(shard.key), ScoreRecord) for shard in shards}
    missing = [shard for shard in shards if not records[shard.key]]
    meter = UsageMeter(context)
    trained = context.run.read(unit.detector_id, "train", TrainRecord)
    if missing and trained is None:
        raise IntegrityError(f"{unit}: scored before it was trained")
    unscored = []
    for shard in missing:
        if stored := context.run.read(unit.detector_id, scored_name(shard), ScoredShard):
            judging = _ShardJudging(unit, manifest, shard, trained, context)  # type: ignore[arg-type]
            records[shard.key] = judging.judge_stored(stored)
        else:
            unscored.append(shard)

    def judged() -> Iterator[tuple[_ShardJudging, ScoredBatch]]:
        for shard in unscored:
            judging = _ShardJudging(unit, manifest, shard, trained, context)  # type: ignore[arg-type]
            yield from ((judging, batch) for batch in judging.judged())

    overlapping = ahead if context.counting_device != "cpu" else iter
    described = ((judging, judging.rows(batch)) for judging, batch in overlapping(judged()))
    with ThreadPoolExecutor(1) as committing:
        waiting = []
        for judging, batches in itertools.groupby(overlapping(described), key=lambda pair: pair[0]):
            rows = itertools.chain.from_iterable(rows for _, rows in batches)
            scores = write_scores(rows, fit=unit.input.mode)
            spent = meter.read(len(judging.scores), judging.detector)
            waiting.append(committing.submit(judging.commit_scored, scores, spent))
        records |= {record.image_shard: record for record in (future.result() for future in waiting)}
    return [record for record in records.values() if record]


class _ShardJudging:
    """Judges one shard in a single pass and adds up the partial metrics; holds a few batches of heat maps at a time."""

    def __init__(
        self, unit: Unit, manifest: Manifest, shard: ShardInfo, trained: TrainRecord, context: WorkerContext
    ) -> None:
        self.unit, self.manifest, self.shard, self.trained, self.context = unit, manifest, shard, trained, context
        self.annotations = open_annotations(context.lines, shard, context.cache_dir, manifest.reach(shard))
        self.has_masks, self.device = manifest.masks > 0, context.counting_device
        self.counts = heatmaps.counts_on(self.device, self.typical, context.threads)
        self.labelled: list[Annotation] = []
        self.masks = 0
        self.scores: list[float] = []
        self._descriptors: list[Descriptors] = []
        self._drawn: list[Codes] = []

    @property
    def typical(self) -> float:
        """Heat of a typical OK image."""
        return self.trained.heat_low or 0.0

    @functools.cached_property
    def detector(self) -> Detector:
        """The trained detector."""
        return cached_detector(self.unit, self.trained, self.context)

    @functools.cached_property
    def images(self) -> CachedShard:
        """The images at the network's size."""
        return self.context.cached_shard(self.unit, self.manifest, self.shard)

    def judged(self) -> Iterator[ScoredBatch]:
        """Score all images in order, and add each batch to the metrics of heat maps."""
        self._check_order(self.images.image_ids, "the decode cache is")
        fit = fit_of(self.unit)
        for scored in score_all(self.detector, self.images, self.context.batch, self.device):
            batch = heatmaps.inside_only(scored, self.images.rois, fit, self.detector)
            self._judge(batch.positions, batch.heatmaps)
            yield batch

    def judge_stored(self, stored: ScoredShard) -> ScoreRecord:
        """Judge the scores and heat maps that are stored, and commit the record."""
        run, start, image_ids = self.context.run, 0, list[str]()
        rows = iter_scores(run.get_blob(stored.scores))
        while chunk := list(itertools.islice(rows, self.context.batch)):
            maps = [row.heatmap for row in chunk if row.heatmap is not None]
            self._judge(range(start, start + len(chunk)), np.stack(maps) if maps else None)
            self.scores += [row.score for row in chunk]
            image_ids += [row.image_id for row in chunk]
            start += len(chunk)
        self._check_order(image_ids, "the stored scores are")
        types = {row["image_id"]: row["defect_type"] for row in self.annotations.rows}
        described = Descriptors.from_bytes(run.get_blob(stored.traits))
        names = [types[image_id] for image_id in described.image_ids.tolist()]
        traits = replace(described, defect_types=np.array(names, np.str_)).to_bytes()
        return self._commit(stored, {"traits": traits})

    def _check_order(self, image_ids: Sequence[str], what: str) -> None:
        if [row["image_id"] for row in self.annotations.rows] != list(image_ids):
            raise IntegrityError(f"{self.shard.key}: {what} not of this shard")

    def _judge(self, positions: range, maps: Any) -> None:
        """Add heat maps to the metrics, as they are stored and at the resolution of the source images.

        Pixel and region metrics use images whose every pixel is known to be OK or NG, contrast all labelled images.
        Outside its region of interest a heat map has no contrast, and its pixels do not count.
        Labels that do not count are left out, see `ImageScores.counts`.
        """
        if maps is None:
            return
        annotations = [self.annotations[position] for position in positions]
        labelled = [
            row
            for row, annotation in enumerate(annotations)
            if annotation.label in JUDGED and self.annotations.rows[positions[row]]["is_counted"]
        ]
        frames = [heatmaps.Frame(*self.annotations.size(positions[row]), annotations[row].roi) for row in labelled]
        stored = heatmaps.as_stored(maps)
        for frame, rows, at_source in heatmaps.at_source(stored, labelled, frames, fit_of(self.unit), self.device):
            some = [annotations[row] for row in rows]
            self.counts.add(
                [each.image_id for each in some],
                heatmaps.filled(at_source, frame.roi, self.typical, self.device),
                [each.mask if self.has_masks else None for each in some],
            )
            self.labelled += [each.without_pixels() for each in some]
        self.masks += sum(annotations[row].has_mask for row in labelled if self.has_masks)

    def rows(self, batch: ScoredBatch) -> list[ScoreRow]:
        """Return the rows of a batch that `judged` has yielded, and describe its images."""
        scored, limit, index = batch.scored(), self.trained.threshold.value, self.images.index
        maps = scored.heatmaps
        image_ids = [self.images.image_ids[position] for position in batch.positions]
        if maps is not None:
            values = [describe(heat, image, self.typical) for heat, image in zip(maps, batch.pixels, strict=True)]
            types = [self.annotations.rows[position]["defect_type"] for position in batch.positions]
            self._descriptors.append(Descriptors.of(image_ids, types, values))
            self._draw(maps, batch.positions)
        scores = scored.scores.tolist()
        self.scores += scores
        return [
            ScoreRow(
                image_id=image_ids[row],
                line=self.unit.line,
                model=self.unit.model,
                detector_id=self.unit.detector_id,
                score=scores[row],
                is_anomalous=None if limit is None else scores[row] > limit,
                heatmap=None if maps is None else maps[row],
                height=index.heights[position],
                width=index.widths[position],
            )
            for row, position in enumerate(batch.positions)
        ]

    def _draw(self, maps: npt.NDArray[np.float32], positions: Sequence[int]) -> None:
        """Draw heat maps small, if OK images say what is hot."""
        low, high, index = self.trained.heat_low, self.trained.heat_high, self.images.index
        if low is None or high is None:
            return
        for heat, position in zip(maps, positions, strict=True):
            size = small_size(index.heights[position], index.widths[position])
            self._drawn.append(heat_codes(to_source(heat, fit_of(self.unit), *size), low, high))

    @property
    def _stem(self) -> str:
        return Path(self.shard.key).stem

    def commit_scored(self, scores: bytes, spent: ResourceUsage) -> ScoreRecord:
        """Commit the scores of the shard, once all rows have been yielded, and what they are judged to be."""
        run, detector_id = self.context.run, self.unit.detector_id
        parts = {"scores": scores, "traits": Descriptors.empty().merge(*self._descriptors).to_bytes()}
        if self._drawn:
            parts["small_maps"] = SmallMaps.of(self.images.image_ids, self._drawn).to_bytes()
        blobs = run.put_blobs(detector_id, f"scores/{self._stem}", parts)
        drawn = blobs.get("small_maps")
        record = ScoredShard(detector_id, len(self.scores), blobs["scores"], blobs["traits"], drawn, spent)
        stored = run.commit(detector_id, scored_name(self.shard), record)
        if stored != record:  # another driver was first, perhaps by other labels or with other rounding
            return _ShardJudging(self.unit, self.manifest, self.shard, self.trained, self.context).judge_stored(stored)
        return self._commit(stored)

    def _commit(self, stored: ScoredShard, traits: Mapping[str, bytes] = MappingProxyType({})) -> ScoreRecord:
        """Put the partial metrics and commit the record. traits: those of labels that have changed since scoring."""
        run, unit_id = self.context.run, self.unit.unit_id
        blobs = run.put_blobs(unit_id, f"partial/{self._stem}", {**self._partials(), **traits})
        record = ScoreRecord(
            unit_id=unit_id,
            image_shard=self.shard.key,
            rows=len(self.scores),
            masks=self.masks,
            shard=stored.scores,
            images=blobs["images"],
            pixels=blobs["pixels"],
            regions=blobs["regions"],
            contrast=blobs["contrast"],
            traits=blobs.get("traits", stored.traits),
            small_maps=stored.small_maps,
            spent=stored.spent,
        )
        return run.commit(unit_id, score_name(self.shard.key), record)

    def _partials(self) -> Mapping[str, bytes]:
        """Return the partial metrics of the shard by name, serialised."""
        pixels, heats = self.counts.finish()
        names = ("image_id", "label", "group", "is_counted")
        image_ids, labels, groups, counts = ([row[name] for row in self.annotations.rows] for name in names)
        pools = [self.shard.pool] * len(image_ids)
        images = ImageScores.of(image_ids, labels, self.scores, groups, pools, counts)
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
            "contrast": HeatmapContrast.empty().merge(*contrasts).to_bytes(),
        }
