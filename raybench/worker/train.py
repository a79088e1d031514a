"""Train one unit: fit the detector on OK images, set its thresholds on held-back OK images, and commit it."""

from __future__ import annotations

import bisect
import hashlib
import itertools
import math
import tempfile
import time
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from raybench.config.unit import Protocol, Unit
from raybench.data.cache import CachedShard, ImageSubset
from raybench.data.corrections import read_corrections
from raybench.data.geometry import InputFit
from raybench.data.manifest import Manifest
from raybench.detectors import registry
from raybench.detectors.protocol import CODE, Card, Detector
from raybench.metrics.image import ImageScores
from raybench.metrics.threshold import conformal_threshold
from raybench.runs.records import Blob, TrainRecord
from raybench.runs.run import RunStore
from raybench.worker import heatmaps
from raybench.worker.batches import score_all
from raybench.worker.context import UsageMeter, WorkerContext, fit_of, size_of

Floats = npt.NDArray[np.float64]


def train(unit: Unit, manifest: Manifest, context: WorkerContext) -> TrainRecord:
    """Fit the unit's detector and commit the record; return a record that is committed already.

    Training images that were labelled NG or unknown after packing are left out.
    """
    if done := context.run.read(unit.detector_id, "train", TrainRecord):
        return done
    meter = UsageMeter(context)
    packed = manifest.shards_of("train")
    shards = [context.cached_shard(unit, manifest, shard) for shard in packed]
    corrections = [each for shard in packed for each in read_corrections(context.lines, shard).values()]
    left_out = frozenset(each.image_id for each in corrections if each.label != "ok")
    kept, held_out = split_train(shards, unit.protocol, left_out)
    fit_context = context.fit_context(unit)
    spec = registry.resolve(unit.detector, unit.config)
    detector = registry.create(spec, size_of(unit), fit_context)
    started = time.perf_counter()
    detector.fit(kept, fit_context)
    train_s = time.perf_counter() - started
    scores, medians, peaks = _score_held_out(detector, held_out, fit_of(unit), context)
    card = detector.card()
    budget, groups = unit.protocol.false_alarm_budget, held_out.groups
    return context.run.commit(
        unit.detector_id,
        "train",
        TrainRecord(
            detector_id=unit.detector_id,
            model=_save(detector, unit, context),
            threshold=conformal_threshold(scores, budget, groups),
            pixel_threshold=conformal_threshold(peaks, budget, groups),
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
            device=context.device,
            details=dict(card.details),
            not_exportable=_not_exportable(card, unit),
            held_out=_put_scores(held_out, scores, unit, context),
            spent=meter.read(len(kept) + len(held_out), detector),
            steps=card.steps,
        ),
    )


def _not_exportable(card: Card, unit: Unit) -> str:
    is_plugin = CODE in unit.weights
    return card.not_exportable or ("it is a class of your own" if is_plugin else "")


def _put_scores(images: ImageSubset, scores: Floats, unit: Unit, context: WorkerContext) -> Blob:
    image_scores = ImageScores.of(images.image_ids, ["ok"] * len(images), scores.tolist(), images.groups)
    return context.run.put_blob(unit.detector_id, "held-out", image_scores.to_bytes())


def split_train(
    shards: Sequence[CachedShard], protocol: Protocol, left_out: Collection[str] = ()
) -> tuple[ImageSubset, ImageSubset]:
    """Split OK images into those to train on and those held back for the thresholds.

    Whole groups are held back; an image without a group is a group of its own. The split depends on the hash of the
    group's name (of the image id, without a group), so it is the same for every model, seed and order of shards. As
    many groups are held back as the protocol asks for, but at least as many as the false-alarm budget needs for a
    finite threshold, and at most half of all groups and of all images. A group of more than half of the images is
    trained on. Where the protocol wants few images, they are whole groups too, and those of a larger number are added
    to them.

    Args:
        shards: All training shards of the line.
        protocol: Share to hold back and false-alarm budget.
        left_out: IDs of images of these shards that are in neither part.

    Returns:
        Images to train on, and images held back.
    """
    places: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for index, shard in enumerate(shards):
        for row, (image_id, group) in enumerate(zip(shard.image_ids, shard.groups, strict=True)):
            if image_id not in left_out:
                places[group].append((index, row))
    if protocol.train_images is not None:
        places = _some(places, protocol.train_images)
    half = sum(map(len, places.values())) // 2
    needed = math.ceil(1 / protocol.false_alarm_budget) - 1
    count = min(max(round(protocol.held_out * len(places)), needed), len(places) // 2)
    small = (group for group in sorted(places, key=_hash) if len(places[group]) <= half)
    chosen = list(itertools.islice(small, count))
    images = list(itertools.accumulate(len(places[group]) for group in chosen))
    held_out = sorted(place for group in chosen[: bisect.bisect(images, half)] for place in places[group])
    kept = sorted(set(itertools.chain.from_iterable(places.values())) - set(held_out))
    return ImageSubset(shards, kept), ImageSubset(shards, held_out)


def _some(places: Mapping[str, list[tuple[int, int]]], images: int) -> dict[str, list[tuple[int, int]]]:
    """Return whole groups of at least so many images, in an order that has nothing to do with which are held back."""
    chosen: dict[str, list[tuple[int, int]]] = {}
    for group in sorted(places, key=lambda name: _hash(f"train_images {name}")):
        if sum(map(len, chosen.values())) < images:
            chosen[group] = places[group]
    return chosen


def _hash(group: str) -> bytes:
    return hashlib.sha256(group.encode()).digest()


def _score_held_out(
    detector: Detector, images: ImageSubset, fit: InputFit, context: WorkerContext
) -> tuple[Floats, Floats, Floats]:
    """Return scores, and medians and maxima of the heat maps, each (n,) float64; the last two are empty without maps.

    Heat maps are resized to the source image first, as those of test images are, and count in the region of interest.
    """
    scores: list[float] = []
    rois = images.rois
    medians: list[float] = []
    peaks: list[float] = []
    for scored in score_all(detector, images, context.batch, context.counting_device):
        batch = heatmaps.inside_only(scored, rois, fit, detector)
        scores += batch.scored().scores.tolist()
        if batch.heatmaps is None:
            continue
        frames = [heatmaps.Frame(*images.source_size(position), rois[position]) for position in batch.positions]
        rows = range(len(batch.positions))
        for frame, _, maps in heatmaps.at_source(batch.heatmaps, rows, frames, fit, context.counting_device):
            middle, peak = heatmaps.middles_and_peaks(maps, frame.roi, context.counting_device)
            medians += middle.tolist()
            peaks += peak.tolist()
    return np.array(scores, np.float64), np.array(medians, np.float64), np.array(peaks, np.float64)


def _save(detector: Detector, unit: Unit, context: WorkerContext) -> dict[str, Blob]:
    spec = registry.resolve(unit.detector, unit.config)
    with tempfile.TemporaryDirectory(dir=context.cache_dir) as folder:
        registry.save_detector(detector, spec, size_of(unit), Path(folder))
        return {path.name: _put(context.run, unit, path) for path in sorted(Path(folder).iterdir())}


def _put(run: RunStore, unit: Unit, path: Path) -> Blob:
    return run.put_blob(unit.detector_id, f"model/{path.name}", path.read_bytes())
