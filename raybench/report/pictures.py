"""The report's pictures, read from the store: the most anomalous images of each line."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from raybench.analysis.board import Board
from raybench.analysis.flags import ScoredImage, top_images
from raybench.config.plan import Plan
from raybench.config.unit import Unit
from raybench.data.decode import decode_image, decode_mask
from raybench.data.geometry import InputFit, to_source
from raybench.data.manifest import Manifest
from raybench.data.shards import ImageRow, read_rows
from raybench.metrics.image import ImageScores
from raybench.report.gallery import Picture
from raybench.runs.records import ScoreRecord, TrainRecord
from raybench.runs.run import RunStore, score_name
from raybench.runs.scores import ScoreRow, read_scores

PICTURES, PICTURES_PER_LINE = 400, 10
"""At most, so that a browser can open the page."""


def pictures_per_line(lines: int) -> int:
    """Return how many images of each line are shown: fewer if there are many lines, but at least one."""
    return max(1, min(PICTURES_PER_LINE, PICTURES // max(1, lines)))


def read_pictures(plan: Plan, run: RunStore, board: Board, images: Sequence[ScoredImage]) -> Iterator[Picture]:
    """Read the most anomalous images of each line, with heat maps of the best model that has scored one of them.

    Args:
        plan: Where the lines lie.
        run: Where the heat maps are read from.
        board: The comparison, which ranks the models.
        images: Scored images, grouped by line, the most anomalous first.
    """
    tops = list(top_images(images, pictures_per_line(len(board.lines))))
    for line in board.lines:
        wanted = [image for image in tops if image.line == line]
        scoring = {model for image in wanted for model in image.excess}
        models = [row.model for row in board.rows_of(line) if row.model in scoring]
        units = (unit for model in models for unit in plan.units if (unit.line, unit.model) == (line, model))
        if unit := next(units, None):
            yield from _of_line(plan, run, unit, wanted)


def _of_line(plan: Plan, run: RunStore, unit: Unit, wanted: Sequence[ScoredImage]) -> Iterator[Picture]:
    manifest = plan.manifests[unit.line]
    trained = run.read(unit.unit_id, "train", TrainRecord)
    if trained is None:
        return
    ids = {image.image_id for image in wanted}
    rows = {row.image_id: (row, scored) for row, scored in scored_images(plan, run, unit, manifest, ids)}
    for image in wanted:
        if image.image_id not in rows:
            continue
        row, scored = rows[image.image_id]
        size = (row.height, row.width)
        fit = InputFit(unit.input.mode, unit.input.height, unit.input.width)
        yield Picture(
            line=unit.line,
            image_id=image.image_id,
            label=image.label,
            excess=image.counted,
            flagged_by=image.flagged_by,
            model=unit.model,
            image=decode_image(row.image, manifest.white_level, manifest.black_level),
            heatmap=None if scored.heatmap is None else to_source(scored.heatmap, fit, *size),
            mask=decode_mask(row.mask, *size) if row.mask else None,
            heat_low=trained.heat_low,
            heat_high=trained.heat_high,
            defect_type=row.defect_type,
        )


def scored_images(
    plan: Plan, run: RunStore, unit: Unit, manifest: Manifest, ids: set[str]
) -> Iterator[tuple[ImageRow, ScoreRow]]:
    """Images and their scores. Only shards whose small table of scores names one of `ids` are read."""
    lines = plan.lines_of(unit.line)
    for shard in manifest.scored_shards:
        record = run.read(unit.unit_id, score_name(shard.key), ScoreRecord)
        if record is None:
            continue
        wanted = ids & set(ImageScores.from_bytes(run.get_blob(record.images)).image_ids.tolist())
        if wanted:
            scored = {row.image_id: row for row in read_scores(run.get_blob(record.shard), only=wanted)}
            yield from ((row, scored[row.image_id]) for row in read_rows(lines, shard, only=wanted))
