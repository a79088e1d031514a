"""The report's pictures, read from the store: images of each line that matter, as all models see them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import cv2
import numpy as np

from raybench.analysis.anomaly_types.stored import TRAINING
from raybench.analysis.board import Board
from raybench.analysis.flags import Flag, ScoredImage
from raybench.config.plan import Plan
from raybench.config.unit import Unit
from raybench.data.decode import decode_mask
from raybench.data.line import decode_row
from raybench.data.manifest import Manifest, ShardInfo
from raybench.data.roi import roi_of
from raybench.data.shards import ImageRow, read_rows
from raybench.metrics.image import ImageScores
from raybench.metrics.small_maps import SmallMaps, heat_codes
from raybench.report.gallery import LONGEST_SIDE, THUMBNAIL_SIDE, HeatMap, Picture, hatched, outline_path, shrink
from raybench.runs.records import ScoreRecord, TrainRecord
from raybench.runs.run import RunStore, score_name
from raybench.runs.scores import ScoreRow, read_scores
from raybench.store import Store

PICTURES, PICTURES_PER_LINE = 400, 20
"""At most, so that a browser can open the page."""
BESIDE, BESIDE_PER_LINE = 400, 200
"""Further pictures, at most, whose pixels lie in files beside the page."""
UNITS = 120
"""Units whose heat maps are shown, at most one of each line more: those of all would make the page too large."""
FLAGS, FLAGS_PER_LINE = 600, 50
"""Flagged images in the page, at most: of all lines together, and of each line."""
READERS = 4


def pictures_per_line(lines: int) -> int:
    """Return how many images of each line are shown: fewer if there are many lines, but at least one."""
    return max(1, min(PICTURES_PER_LINE, PICTURES // max(1, lines)))


def beside_per_line(lines: int) -> int:
    """Return how many further images of each line lie beside the page: fewer if there are many lines."""
    return min(BESIDE_PER_LINE, BESIDE // max(1, lines))


def models_per_line(lines: int) -> int:
    """Return how many models' heat maps are shown on each line: fewer if there are many lines, but at least one."""
    return max(1, UNITS // max(1, lines))


def queue_per_line(lines: int) -> int:
    """Return how many flagged images of each line are in the page: fewer if there are many lines, but at least one."""
    return max(1, min(FLAGS_PER_LINE, FLAGS // max(1, lines)))


def chosen(
    images: Sequence[ScoredImage], named: str | None, count: int, queue: Sequence[str] = ()
) -> list[ScoredImage]:
    """Choose the images of a line to show with their heat maps.

    Args:
        images: The line's images, the most anomalous first.
        named: The model that the verdict names.
        count: How many to choose.
        queue: Ids of the flagged images, the most useful first.

    Returns:
        At most `count` of `images`, in their order. Up to half of them are mistakes of the named model, the largest
        first. A quarter is left to the most anomalous images, the rest to the queue.
    """
    wrong = [image for image in images if mistake(image.label, image.excess.get(named or ""))]
    wrong.sort(key=lambda image: -abs(image.excess[named or ""]))
    wanted = [image.image_id for image in wrong[: count // 2]]
    known = {image.image_id for image in images}
    flagged = [image_id for image_id in queue if image_id in known and image_id not in wanted]
    wanted += flagged[: count - count // 4 - len(wanted)]
    kept = set(list(dict.fromkeys([*wanted, *(image.image_id for image in images)]))[:count])
    return [image for image in images if image.image_id in kept]


def mistake(label: str, excess: float | None) -> str:
    """Return `missed` for an NG image at or below the threshold, `false alarm` for an OK one above it, else nothing."""
    if excess is None:
        return ""
    if label == "ng" and excess <= 0:
        return "missed"
    return "false alarm" if label == "ok" and excess > 0 else ""


def read_pictures(
    plan: Plan, run: RunStore, board: Board, images: Sequence[ScoredImage], flags: Sequence[Flag] = ()
) -> Iterator[Picture]:
    """Read images of each line with the heat maps of its best models, and the other images of the queue as thumbnails.

    Further images with their heat maps, those of the queue among them, are to lie beside the page.

    Args:
        plan: Where the lines lie.
        run: Where the heat maps are read from.
        board: The comparison, which ranks the models.
        images: Scored images, grouped by line, the most anomalous first.
        flags: The queue, by rank within its line.
    """
    lines = len(board.lines)
    count, models, queued = pictures_per_line(lines), models_per_line(lines), queue_per_line(lines)
    beside = beside_per_line(lines)
    by_line: dict[str, list[ScoredImage]] = {}
    for image in images:
        by_line.setdefault(image.line, []).append(image)
    queues: dict[str, list[Flag]] = {}
    for flag in flags:
        queues.setdefault(flag.line, []).append(flag)
    for line in board.lines:
        queue = queues.get(line, [])[:queued]
        names = [flag.image_id for flag in queue]
        run_named, scored = board.verdict_on(line).run, by_line.get(line, [])
        inside = {image.image_id for image in chosen(scored, run_named, count, names)}
        others = [image for image in scored if image.image_id not in inside]
        wanted = inside | {image.image_id for image in chosen(others, run_named, beside, names)}
        shown = [image for image in scored if image.image_id in wanted]
        scoring = {model for image in shown for model in image.excess}
        ranked = [row.model for row in board.rows_of(line) if row.model in scoring][:models]
        units = [next(unit for unit in plan.units if (unit.line, unit.model) == (line, model)) for model in ranked]
        if units:
            yield from _of_line(plan, run, units, shown, inside, queue)


def _of_line(
    plan: Plan,
    run: RunStore,
    units: Sequence[Unit],
    wanted: Sequence[ScoredImage],
    inside: set[str],
    queue: Sequence[Flag],
) -> Iterator[Picture]:
    """The pictures of one line.

    Args:
        units: Those whose heat maps are shown, at least one.
        inside: Images whose pixels are in the page; those of the others lie beside it.
    """
    manifest, lines = plan.manifests[units[0].line], plan.lines_of(units[0].line)
    images = {image.image_id: image for image in wanted}
    small = {flag.image_id: flag for flag in queue if flag.image_id not in inside}
    trained_on = {image_id for image_id, flag in small.items() if TRAINING in flag.kinds}
    shards = [(shard, held) for shard, _, held in _shards(run, units[0], manifest, images.keys() | small.keys())]
    there = {image_id for _, held in shards for image_id in held}
    with ThreadPoolExecutor(READERS) as pool:
        maps = list(pool.map(lambda unit: _heat_maps(run, unit, manifest, set(images)), units))
    maps = [of_unit for of_unit in maps if of_unit.keys() >= images.keys() & there]  # all pictures show the same models

    def picture(row: ImageRow, image: ScoredImage | Flag, longest: int, **more: Any) -> Picture:
        pixels, roi = decode_row(row, manifest), roi_of(row)
        return Picture(
            line=image.line,
            image_id=image.image_id,
            label=image.label,
            excess=image.excess if isinstance(image, ScoredImage) else {},
            image=hatched(shrink(pixels, longest), roi),
            has_roi=roi is not None,
            defect_type=row.defect_type,
            sha256=row.sha256,
            **more,
        )

    large, thumbnails = {}, {}
    scored = (row for shard, held in shards for row in read_rows(lines, shard, only=held))
    for row in itertools.chain(scored, _training_images(lines, manifest, trained_on)):  # one by one, for their bytes
        name = row.image_id
        if name in images:
            large[name] = picture(
                row,
                images[name],
                LONGEST_SIDE,
                outline=outline_path(decode_mask(row.mask, row.height, row.width)) if row.mask else "",
                maps=tuple(_inside(of_unit[name], row) for of_unit in maps),
                is_beside=name not in inside,
            )
        if name in small:
            thumbnails[name] = picture(row, small[name], THUMBNAIL_SIDE, is_thumbnail=True)
    for order, made in ((images, large), (small, thumbnails)):
        yield from (made[name] for name in order if name in made)


def _inside(heat: HeatMap, row: ImageRow) -> HeatMap:
    """Return a heat map of an image that is cold where it shows nothing of the region of interest."""
    if (roi := roi_of(row)) is None:
        return heat
    height, width = heat.codes.shape
    share = cv2.resize(roi.inside.astype(np.float32), (width, height), interpolation=cv2.INTER_AREA)
    return replace(heat, codes=np.where(share > 0, heat.codes, np.uint8(0)))


def _training_images(lines: Store, manifest: Manifest, ids: set[str]) -> Iterator[ImageRow]:
    """The training images with these ids. Shards without any of them are read without their images."""
    for shard in (each for each in manifest.shards if ids and each.split == "train"):
        held = {row.image_id for row in read_rows(lines, shard, images=False, only=ids)}
        if held:
            yield from read_rows(lines, shard, only=held)


def _heat_maps(run: RunStore, unit: Unit, manifest: Manifest, ids: set[str]) -> Mapping[str, HeatMap]:
    """The heat maps of a unit by image; none if it makes none or nothing is known of OK images."""
    trained = run.read(unit.detector_id, "train", TrainRecord)
    if trained is None or trained.heat_low is None or trained.heat_high is None:
        return {}
    low, high, limit = trained.heat_low, trained.heat_high, trained.pixel_threshold.value
    code = None if limit is None else int(heat_codes(np.array([limit], np.float32), low, high)[0])
    found: dict[str, HeatMap] = {}
    for _, record, held in _shards(run, unit, manifest, ids):
        if record.small_maps is not None:
            drawn = SmallMaps.from_bytes(run.get_blob(record.small_maps)).only(held)
            found |= {name: HeatMap(unit.model, codes, code) for name, codes in drawn.items()}
    return found


def scored_images(
    plan: Plan, run: RunStore, unit: Unit, manifest: Manifest, ids: set[str]
) -> Iterator[tuple[ImageRow, ScoreRow]]:
    """Images and their scores. Only shards whose small table of scores names one of `ids` are read."""
    lines = plan.lines_of(unit.line)
    for shard, record, held in _shards(run, unit, manifest, ids):
        scored = {row.image_id: row for row in read_scores(run.get_blob(record.shard), only=held)}
        yield from ((row, scored[row.image_id]) for row in read_rows(lines, shard, only=held))


def _shards(
    run: RunStore, unit: Unit, manifest: Manifest, ids: set[str]
) -> Iterator[tuple[ShardInfo, ScoreRecord, set[str]]]:
    """The scored shards that hold one of `ids`, with those that they hold."""
    for shard in manifest.scored_shards:
        record = run.read(unit.unit_id, score_name(shard.key), ScoreRecord)
        if record is None:
            continue
        held = ids & set(ImageScores.from_bytes(run.get_blob(record.images)).image_ids.tolist())
        if held:
            yield shard, record, held
