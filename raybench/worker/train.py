"""Train one unit: fit the detector on OK images, set its thresholds on held-back OK images, and commit it.

A detector for several lines is fitted once, by a task of its own; then each line sets its own thresholds.
"""

from __future__ import annotations

import bisect
import hashlib
import itertools
import math
import tempfile
import time
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from raybench.config.unit import Protocol, Unit
from raybench.data.cache import CachedShard, ImageSubset
from raybench.data.corrections import read_corrections
from raybench.data.geometry import InputFit
from raybench.data.line import Line
from raybench.data.manifest import Manifest
from raybench.detectors import registry
from raybench.detectors.protocol import CODE, Card, Detector
from raybench.errors import IntegrityError
from raybench.metrics.image import ImageScores
from raybench.metrics.threshold import conformal_threshold
from raybench.runs.records import Blob, FitRecord, TrainRecord
from raybench.runs.run import RunStore, versions
from raybench.worker import heatmaps
from raybench.worker.batches import score_all
from raybench.worker.context import UsageMeter, WorkerContext, cached_detector, fit_of, size_of

Floats = npt.NDArray[np.float64]


def train(unit: Unit, manifest: Manifest, context: WorkerContext) -> TrainRecord:
    """Fit the unit's detector and commit the record; return a record that is committed already.

    Training images that were labelled NG or unknown after packing are left out. A detector for several lines is fitted
    already, see `fit_together`; what is left are the thresholds of this line.

    Raises IntegrityError when a detector for several lines is not fitted.
    """
    if done := context.run.read(unit.detector_id, "train", TrainRecord):
        return done
    meter = UsageMeter(context)
    kept, held_out = _split(unit, Line(context.lines, manifest), unit.protocol, context)
    detector, fitted = _fitted(unit, context) if unit.together else _fit(unit, kept, meter, context)
    scores, medians, peaks = _score_held_out(detector, held_out, fit_of(unit), context)
    budget, groups = unit.protocol.false_alarm_budget, held_out.groups
    spent = fitted.spent.shared(max(len(unit.together), 1)).plus(meter.read(len(held_out), detector))
    return context.run.commit(
        unit.detector_id,
        "train",
        TrainRecord(
            **vars(fitted) | {"detector_id": unit.detector_id, "spent": spent},
            threshold=conformal_threshold(scores, budget, groups),
            pixel_threshold=conformal_threshold(peaks, budget, groups),
            heat_low=float(np.median(medians)) if len(medians) else None,
            heat_high=float(peaks.max()) if len(peaks) else None,
            held_out_ok=len(held_out),
            held_out=_put_scores(held_out, scores, unit, context),
        ),
    )


def fit_together(unit: Unit, lines: Sequence[Line], context: WorkerContext) -> FitRecord:
    """Fit the detector of a unit on the OK images of several lines and commit it; return what is committed already.

    Held-back images of any of the lines, and copies of them, are not trained on.

    Args:
        unit: One of the units that share the detector.
        lines: All lines that it is trained on.
        context: The worker's.

    Raises IntegrityError when `lines` are not those of the unit.
    """
    if done := context.run.read(unit.fit_id, "fit", FitRecord):
        return done
    by_name = {line.name: line for line in lines}
    found = [(name, by_name[name].manifest.training_digest) for name in sorted(by_name)]
    if found != [(each.line, each.training_digest) for each in unit.together]:
        raise IntegrityError(f"{unit}: it is trained on {', '.join(each.line for each in unit.together)}, not on these")
    meter = UsageMeter(context)
    parts = [_split(unit, by_name[each.line], each.protocol, context) for each in unit.together]
    _, fitted = _fit(unit, _joined(parts, [by_name[each.line] for each in unit.together]), meter, context)
    together = tuple(each.line for each in unit.together)
    return context.run.commit(unit.fit_id, "fit", replace(fitted, detector_id=unit.fit_id, together=together))


def _fit(unit: Unit, images: ImageSubset, meter: UsageMeter, context: WorkerContext) -> tuple[Detector, FitRecord]:
    """Fit the unit's detector on images, and store its files."""
    fit_context = context.fit_context(unit)
    spec = registry.resolve(unit.detector, unit.config)
    detector = registry.create(spec, size_of(unit), fit_context)
    started = time.perf_counter()
    detector.fit(images, fit_context)
    train_s = time.perf_counter() - started
    card = detector.card()
    return detector, FitRecord(
        detector_id=unit.fit_id,
        model=_save(detector, unit, context),
        provenance=card.provenance,
        backbone=card.backbone,
        weights_note=card.weights_note,
        parameters=card.parameters,
        memory_bank=card.memory_bank,
        train_ok=len(images),
        train_s=train_s,
        device=context.device,
        versions=versions(),
        spent=meter.read(len(images), detector),
        details=dict(card.details),
        not_exportable=_not_exportable(card, unit),
        steps=card.steps,
    )


def _fitted(unit: Unit, context: WorkerContext) -> tuple[Detector, FitRecord]:
    """Return the detector that the unit shares with those of other lines."""
    fitted = context.run.read(unit.fit_id, "fit", FitRecord)
    if fitted is None:
        raise IntegrityError(f"{unit}: its thresholds were asked for before its detector was fitted")
    return cached_detector(unit, fitted, context), fitted


def _split(unit: Unit, line: Line, protocol: Protocol, context: WorkerContext) -> tuple[ImageSubset, ImageSubset]:
    """Return a line's images to train on, and those held back."""
    packed = line.manifest.shards_of("train")
    of_line = replace(context, lines=line.store)
    shards = [of_line.cached_shard(unit, line.manifest, shard) for shard in packed]
    corrections = [each for shard in packed for each in read_corrections(line.store, shard).values()]
    left_out = frozenset(each.image_id for each in corrections if each.label != "ok")
    return split_train(shards, protocol, left_out)


def _joined(parts: Sequence[tuple[ImageSubset, ImageSubset]], lines: Sequence[Line]) -> ImageSubset:
    """Return the images to train on of several lines, without copies of images that are held back on any of them.

    An image's ID is unique in its line only, so the line's name stands before it, and before the group.
    """
    digests = [line.digests(splits={"train"}) for line in lines]
    held_out = {
        of_line[image_id] for (_, held), of_line in zip(parts, digests, strict=True) for image_id in held.image_ids
    }
    shards: list[CachedShard] = []
    places: list[tuple[int, int]] = []
    for (kept, _), line, of_line in zip(parts, lines, digests, strict=True):
        places += [
            (len(shards) + shard, row)
            for (shard, row), image_id in zip(kept.places, kept.image_ids, strict=True)
            if of_line[image_id] not in held_out
        ]
        shards += [_named(shard, line.name) for shard in kept.shards]
    return ImageSubset(shards, places)


def _named(shard: CachedShard, line: str) -> CachedShard:
    ids, groups = (tuple(f"{line}/{name}" for name in names) for names in (shard.image_ids, shard.groups))
    return replace(shard, index=replace(shard.index, image_ids=ids, groups=groups))


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
    return run.put_blob(unit.fit_id, f"model/{path.name}", path.read_bytes())
