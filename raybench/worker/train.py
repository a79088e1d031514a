"""Train one unit: fit on OK images, set the threshold on OK images held back, commit the detector."""

from __future__ import annotations

import hashlib
import math
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from raybench.config.unit import Protocol, Unit
from raybench.data.cache import CachedShard, ImageSubset
from raybench.data.geometry import InputFit, to_source
from raybench.data.manifest import Manifest
from raybench.detectors import registry
from raybench.detectors.protocol import CODE, Card, Detector
from raybench.metrics.image import ImageScores
from raybench.metrics.threshold import conformal_threshold
from raybench.runs.records import Blob, TrainRecord
from raybench.runs.run import Run
from raybench.worker.batches import score_all
from raybench.worker.context import MAX_BATCH, WorkerContext, fit_of, size_of
from raybench.worker.usage import UsageMeter

Floats = npt.NDArray[np.float64]


def train(unit: Unit, manifest: Manifest, site: WorkerContext) -> TrainRecord:
    """Fit the unit's detector and commit it; a committed one is returned as it stands."""
    if done := site.run.read(unit.unit_id, "train", TrainRecord):
        return done
    meter = UsageMeter(site)
    shards = [site.fitted(unit, manifest, shard) for shard in manifest.shards_of("train")]
    kept, held_out = split_train(shards, unit.protocol)
    context = site.context(unit)
    spec = registry.resolve(unit.detector, unit.config)
    detector = registry.create(spec, size_of(unit), context)
    started = time.perf_counter()
    detector.fit(kept, context)
    train_s = time.perf_counter() - started
    scores, medians, peaks = _held_out(detector, held_out, fit_of(unit))
    card = detector.card()
    return site.run.commit(
        unit.unit_id,
        "train",
        TrainRecord(
            unit_id=unit.unit_id,
            model=_save(detector, unit, site),
            threshold=conformal_threshold(scores, unit.protocol.false_alarm_budget),
            pixel_threshold=conformal_threshold(peaks, unit.protocol.false_alarm_budget),
            provenance=card.provenance,
            backbone=card.backbone,
            weights_note=card.weights_note,
            parameters=card.parameters,
            memory_bank=card.memory_bank,
            heat_low=float(np.median(medians)) if len(medians) else None,
            heat_high=float(peaks.max()) if len(peaks) else None,
            train_ok=len(kept),
            held_out_ok=len(held_out),
            train_s=train_s,
            device=site.device,
            details=dict(card.details),
            not_exportable=_not_exportable(card, unit),
            held_out=_put_scores(held_out, scores, unit, site),
            spent=meter.read(len(kept) + len(held_out), detector),
        ),
    )


def _not_exportable(card: Card, unit: Unit) -> str:
    is_own = CODE in unit.weights
    return card.not_exportable or ("it is a class of your own" if is_own else "")


def _put_scores(images: ImageSubset, scores: Floats, unit: Unit, site: WorkerContext) -> Blob:
    found = ImageScores.of(images.image_ids, ["ok"] * len(images), scores.tolist())
    return site.run.put_blob(unit.unit_id, "held-out", found.to_bytes())


def split_train(shards: Sequence[CachedShard], protocol: Protocol) -> tuple[ImageSubset, ImageSubset]:
    """Images to train on, and images held back for the threshold.

    Chosen by hash of the image id, so they are the same for every model, seed and order of shards. At least as many
    are held back as the false-alarm budget needs for a finite threshold, at most half of all.
    """
    places = [(at, row) for at, shard in enumerate(shards) for row in range(len(shard))]
    by_hash = sorted(places, key=lambda place: _hash(shards[place[0]].image_ids[place[1]]))
    needed = math.ceil(1 / protocol.false_alarm_budget) - 1
    count = min(max(round(protocol.held_out * len(places)), needed), len(places) // 2)
    return ImageSubset(shards, sorted(by_hash[count:])), ImageSubset(shards, sorted(by_hash[:count]))


def _hash(image_id: str) -> bytes:
    return hashlib.sha256(image_id.encode()).digest()


def _held_out(detector: Detector, images: ImageSubset, fit: InputFit) -> tuple[Floats, Floats, Floats]:
    """Image by image: its score, and the median and the highest value of its heat map (none without heat maps).

    Heat maps are looked at in the source's geometry, as those of the test images are.
    """
    scores: list[float] = []
    medians: list[float] = []
    peaks: list[float] = []
    for positions, scored in score_all(detector, images, MAX_BATCH):
        scores += scored.scores.tolist()
        for at, heatmap in zip(positions, () if scored.heatmaps is None else scored.heatmaps, strict=False):
            whole = to_source(heatmap, fit, *images.source_size(at))
            medians.append(float(np.median(whole)))
            peaks.append(float(whole.max()))
    return np.array(scores, np.float64), np.array(medians, np.float64), np.array(peaks, np.float64)


def _save(detector: Detector, unit: Unit, site: WorkerContext) -> dict[str, Blob]:
    spec = registry.resolve(unit.detector, unit.config)
    with tempfile.TemporaryDirectory(dir=site.cache_dir) as folder:
        registry.save_detector(detector, spec, size_of(unit), Path(folder))
        return {path.name: _put(site.run, unit, path) for path in sorted(Path(folder).iterdir())}


def _put(run: Run, unit: Unit, path: Path) -> Blob:
    return run.put_blob(unit.unit_id, f"model/{path.name}", path.read_bytes())
