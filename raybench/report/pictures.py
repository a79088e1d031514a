"""The report's pictures, read from the store: images of each line that matter, as all models see them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np

from raybench.analysis.board import Board
from raybench.analysis.flags import ScoredImage
from raybench.config.plan import Plan
from raybench.config.unit import Unit
from raybench.data.decode import decode_image, decode_mask
from raybench.data.geometry import to_source
from raybench.data.manifest import Manifest, ShardInfo
from raybench.data.shards import ImageRow, read_rows
from raybench.metrics.image import ImageScores
from raybench.report.gallery import HEAT_SIDE, HeatMap, Picture, heat_codes, outline_path, shrink, small_size
from raybench.runs.records import ScoreRecord, TrainRecord
from raybench.runs.run import RunStore, score_name
from raybench.runs.scores import ScoreRow, read_scores
from raybench.worker.context import fit_of

PICTURES, PICTURES_PER_LINE = 400, 20
"""At most, so that a browser can open the page."""
UNITS = 120
"""Units whose heat maps are read, at most one of each line more: a unit's heat maps take megabytes in the store."""
READERS = 4


def pictures_per_line(lines: int) -> int:
    """Return how many images of each line are shown: fewer if there are many lines, but at least one."""
    return max(1, min(PICTURES_PER_LINE, PICTURES // max(1, lines)))


def models_per_line(lines: int) -> int:
    """Return how many models' heat maps are shown on each line: fewer if there are many lines, but at least one."""
    return max(1, UNITS // max(1, lines))


def chosen(images: Sequence[ScoredImage], named: str | None, count: int) -> list[ScoredImage]:
    """Choose the images of a line to show: what the named model gets wrong, and the most anomalous ones.

    Args:
        images: The line's images, the most anomalous first.
        named: The model that the verdict names.
        count: How many to choose.

    Returns:
        At most `count` of `images`, in their order. Up to half of them are mistakes of the named model, the largest
        first.
    """
    wrong = [image for image in images if mistake(image.label, image.excess.get(named or ""))]
    wrong.sort(key=lambda image: -abs(image.excess[named or ""]))
    first = {image.image_id for image in wrong[: count // 2]}
    rest = [image.image_id for image in images if image.image_id not in first]
    kept = first | set(rest[: count - len(first)])
    return [image for image in images if image.image_id in kept]


def mistake(label: str, excess: float | None) -> str:
    """Return `missed` for an NG image at or below the threshold, `false alarm` for an OK one above it, else nothing."""
    if excess is None:
        return ""
    if label == "ng" and excess <= 0:
        return "missed"
    return "false alarm" if label == "ok" and excess > 0 else ""


def read_pictures(plan: Plan, run: RunStore, board: Board, images: Sequence[ScoredImage]) -> Iterator[Picture]:
    """Read images of each line with the heat maps of its best models.

    Args:
        plan: Where the lines lie.
        run: Where the heat maps are read from.
        board: The comparison, which ranks the models.
        images: Scored images, grouped by line, the most anomalous first.
    """
    count, models = pictures_per_line(len(board.lines)), models_per_line(len(board.lines))
    by_line: dict[str, list[ScoredImage]] = {}
    for image in images:
        by_line.setdefault(image.line, []).append(image)
    for line in board.lines:
        wanted = chosen(by_line.get(line, []), board.verdict_on(line).run, count)
        scoring = {model for image in wanted for model in image.excess}
        ranked = [row.model for row in board.rows_of(line) if row.model in scoring][:models]
        units = [next(unit for unit in plan.units if (unit.line, unit.model) == (line, model)) for model in ranked]
        if units:
            yield from _of_line(plan, run, units, wanted)


def _of_line(plan: Plan, run: RunStore, units: Sequence[Unit], wanted: Sequence[ScoredImage]) -> Iterator[Picture]:
    """The pictures of one line. units: whose heat maps are shown, at least one."""
    manifest = plan.manifests[units[0].line]
    ids = {image.image_id for image in wanted}
    with ThreadPoolExecutor(READERS) as pool:
        maps = list(pool.map(lambda unit: _heat_maps(run, unit, manifest, ids), units))
    lines = plan.lines_of(units[0].line)
    found = (read_rows(lines, shard, only=held) for shard, _, held in _shards(run, units[0], manifest, ids))
    rows = {row.image_id: row for of_shard in found for row in of_shard}
    maps = [of_unit for of_unit in maps if of_unit.keys() >= rows.keys()]  # all pictures show the same models
    for image in (each for each in wanted if each.image_id in rows):
        row = rows[image.image_id]
        yield Picture(
            line=image.line,
            image_id=image.image_id,
            label=image.label,
            excess=image.excess,
            image=shrink(decode_image(row.image, manifest.white_level, manifest.black_level)),
            outline=outline_path(decode_mask(row.mask, row.height, row.width)) if row.mask else "",
            maps=tuple(of_unit[image.image_id] for of_unit in maps),
            defect_type=row.defect_type,
        )


def _heat_maps(run: RunStore, unit: Unit, manifest: Manifest, ids: set[str]) -> Mapping[str, HeatMap]:
    """The heat maps of a unit by image; none if it makes none or nothing is known of OK images."""
    trained = run.read(unit.detector_id, "train", TrainRecord)
    if trained is None or trained.heat_low is None or trained.heat_high is None:
        return {}
    low, high, limit = trained.heat_low, trained.heat_high, trained.pixel_threshold.value
    code = None if limit is None else int(heat_codes(np.array([limit], np.float32), low, high)[0])
    found = {}
    for _, record, held in _shards(run, unit, manifest, ids):
        for scored in read_scores(run.get_blob(record.shard), only=held):
            if scored.heatmap is not None:
                size = small_size(scored.height, scored.width, HEAT_SIDE)
                heat = to_source(scored.heatmap, fit_of(unit), *size)
                found[scored.image_id] = HeatMap(unit.model, heat_codes(heat, low, high), code)
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
