"""One unit's body as plain functions: train, score one shard, measure, conclude. Knows no Ray.

Each function commits its record last and put-if-absent; called again after a commit it returns what stands.
"""

from __future__ import annotations

import functools
import hashlib
import math
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from raybench.errors import BadScores, IntegrityError, LineError
from raybench.lines.decode import decode_image, decode_mask
from raybench.lines.fit import InputFit, to_network, to_source
from raybench.lines.fitted import ConcatImages, FittedShard, open_fitted
from raybench.lines.manifest import Manifest, ShardInfo, read_manifest
from raybench.lines.scores import ScoreRow, write_scores
from raybench.lines.shards import Row, read_rows
from raybench.metrics.image import ImageScores, image_quality
from raybench.metrics.pixel import PixelSketch
from raybench.metrics.threshold import conformal_threshold
from raybench.metrics.timing import TimingOptions, measure_speed
from raybench.models import registry
from raybench.models.base import Detector, FitContext, Scored
from raybench.results import Counts, Quality, Size, Speed, UnitResult
from raybench.runs import Blob, MeasureRecord, Run, ScoreRecord, TrainRecord
from raybench.units import Unit

BATCH = 16
HOT_DETECTORS = 2
MEASURED_IMAGES = 32


@dataclass(frozen=True)
class Site:
    """Where a unit is worked on: its run, this node's decode cache, the device and the CPU threads of the task."""

    run: Run
    cache_dir: Path
    device: str
    threads: int


def train(unit: Unit, site: Site) -> TrainRecord:
    """Fit the unit's detector on the line's OK images, set its threshold on the held-back ones and commit it."""
    if done := site.run.read(unit.unit_id, "train", TrainRecord):
        return done
    kept, held_out = split_train(unit, _train_shards(unit, site))
    spec = registry.resolve(unit.detector, unit.config)
    context = FitContext(unit.seed, site.device, site.threads, unit.protocol.train_budget_s)
    detector = registry.create(spec, unit.input.height, unit.input.width, context)
    started = time.perf_counter()
    detector.fit(kept, context)
    train_s = time.perf_counter() - started
    scored = list(_scored_batches(detector, held_out))
    with tempfile.TemporaryDirectory(dir=site.cache_dir) as folder:
        registry.save_detector(detector, spec, unit.input.height, unit.input.width, Path(folder))
        model = {
            path.name: site.run.put_blob(unit.unit_id, f"model/{path.name}", path.read_bytes())
            for path in sorted(Path(folder).iterdir())
        }
    scores = np.concatenate([batch.scores for batch in scored])
    low, high = _heat_anchor(scored)
    card = detector.card()
    record = TrainRecord(
        unit_id=unit.unit_id,
        model=model,
        threshold=conformal_threshold(scores, unit.protocol.false_alarm_budget),
        provenance=card.provenance,
        backbone=card.backbone,
        weights_note=card.weights_note,
        parameters=card.parameters,
        memory_bank=card.memory_bank,
        heat_low=low,
        heat_high=high,
        train_ok=len(kept),
        held_out_ok=len(held_out),
        train_s=train_s,
        details=dict(card.details),
    )
    return site.run.commit(unit.unit_id, "train", record)


def split_train(unit: Unit, shards: Sequence[FittedShard]) -> tuple[ConcatImages, ConcatImages]:
    """Train on / held back for the threshold: by hash of the image id, so the same for every model and seed.

    At least as many are held back as the false-alarm budget needs, at most half of all.
    """
    ids = [(shard, row) for shard in range(len(shards)) for row in range(len(shards[shard]))]
    order = sorted(ids, key=lambda at: hashlib.sha256(shards[at[0]].image_ids[at[1]].encode()).digest())
    needed = math.ceil(1 / unit.protocol.false_alarm_budget) - 1
    count = min(max(round(unit.protocol.held_out * len(ids)), needed), len(ids) // 2)
    held_out, kept = sorted(order[:count]), sorted(order[count:])
    return _subset(shards, kept), _subset(shards, held_out)


def score(unit: Unit, image_shard: ShardInfo, site: Site) -> ScoreRecord:
    """Score every image of one shard and commit the scores shard with its mergeable partial metrics."""
    name = f"score-{Path(image_shard.key).stem}"
    if done := site.run.read(unit.unit_id, name, ScoreRecord):
        return done
    trained = _trained(unit, site)
    detector = _hot_detector(unit, trained, site)
    images = ImageScores.empty()
    pixels = PixelSketch.empty()
    rows: list[ScoreRow] = []
    masks = 0
    for row, raw, heatmap in _scored_rows(unit, image_shard, detector, site):
        images = images.add(row.image_id, raw, row.label)
        if heatmap is not None and (mask := _mask(row)) is not None:
            masks += row.label == "ng"
            pixels.add([(to_source(heatmap, fit_of(unit), row.height, row.width), mask)])
        limit = trained.threshold.value
        flagged = None if limit is None else raw > limit
        rows.append(ScoreRow.of(row, unit, raw, flagged, heatmap))
    stem = Path(image_shard.key).stem
    record = ScoreRecord(
        unit_id=unit.unit_id,
        image_shard=image_shard.key,
        rows=len(rows),
        masks=masks,
        shard=site.run.put_blob(unit.unit_id, f"scores/{stem}.parquet", write_scores(rows)),
        images=site.run.put_blob(unit.unit_id, f"partial/{stem}.images", images.to_bytes()),
        pixels=site.run.put_blob(unit.unit_id, f"partial/{stem}.pixels", pixels.to_bytes()) if masks else None,
    )
    return site.run.commit(unit.unit_id, name, record)


def measure(unit: Unit, image_shard: ShardInfo, site: Site) -> MeasureRecord:
    """Speed with the device to itself, and size. The caller sees to it that nothing else runs on the device."""
    if done := site.run.read(unit.unit_id, "measure", MeasureRecord):
        return done
    trained = _trained(unit, site)
    raise NotImplementedError


def fit_of(unit: Unit) -> InputFit:
    return InputFit(unit.input.mode, unit.input.height, unit.input.width)
