"""Export the flags of a run for annotation tools, with the regions that each line's best model outlines."""

from __future__ import annotations

import io
import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa

from raybench.analysis.board import Board, board_from_json
from raybench.config.plan import Plan
from raybench.config.unit import Unit
from raybench.data.geometry import to_source
from raybench.data.manifest import Manifest, ShardInfo
from raybench.data.roi import roi_of
from raybench.data.shards import ImageRow, read_rows
from raybench.errors import InputError, IntegrityError, ObjectMissing, UnknownName
from raybench.report.annotations.item import AnnotatedImage, SourcePicture, Task
from raybench.report.annotations.write import Written, check_formats, write
from raybench.runs.records import ScoreRecord
from raybench.runs.run import RunStore, score_name
from raybench.runs.scores import ScoreRow, iter_scores
from raybench.store import Store
from raybench.worker.context import fit_of

_FLAGS = "flags.parquet"
_COLUMNS = ("image_id", "label", "score", "reason")
_PICKED, _SIGNAL = "picked", "signal"  # not in reports of earlier versions


@dataclass(frozen=True)
class Options:
    """What to export."""

    formats: Sequence[str]
    """Names of `write.FORMATS`."""
    images: bool = True
    """Whether to write the images."""
    picked: bool = False
    """Whether to export only the images that the annotation budget picks."""


@dataclass(frozen=True)
class LineExport:
    """The export of one line."""

    line: str
    model: str
    """The model that outlined the regions; empty if no model has heat maps."""
    missing: int
    """Number of flagged images that are not in the line."""
    written: Written | None
    """None if nothing is flagged."""

    def __str__(self) -> str:
        if self.written is None:
            return f"{self.line}: nothing is flagged"
        found = self.written
        outlines = (
            f"{found.regions} regions by {self.model} on {found.outlined} of them" if self.model else "no outlines"
        )
        missing = f"; {self.missing} flagged images are not in the line" if self.missing else ""
        return f"{self.line}: {found.images} flagged images, {outlines}{missing}: {found.folder}"


def annotate(plan: Plan, line: str | None, folder: Path, options: Options) -> Iterator[LineExport]:
    """Write `folder`/<line>, one line at a time, as the iterator is read.

    Args:
        plan: The experiment.
        line: The only line to export. None: all lines.
        folder: Local folder.
        options: What to export.

    Raises:
        UnknownName: There is no such line or format.
        InputError: There is no report yet, or a line's folder already exists.
    """
    check_formats(options.formats)
    run = RunStore.of(plan)
    try:
        board = board_from_json(run.get_report("board.json"))
    except ObjectMissing as error:
        raise InputError(f"{run.name} has no report yet, and so no flags; build it with: raybench report") from error
    if line is not None and line not in board.lines:
        raise UnknownName("line", line, board.lines)
    for each in [line] if line else board.lines:
        yield _line(plan, run, board, folder / each, options)


def _line(plan: Plan, run: RunStore, board: Board, folder: Path, options: Options) -> LineExport:
    """Export one line. folder: named as the line."""
    line = folder.name
    tasks = tasks_of(run, line, options.picked)
    if not tasks:
        return LineExport(line, "", 0, None)
    outliner = outliner_of(plan, run, board, line)
    items = items_of(plan, run, line, tasks, outliner)
    written = write(items, folder, options.formats, f"{run.name}: {line}", options.images)
    return LineExport(line, outliner.unit.model if outliner else "", len(tasks) - written.images, written)


@dataclass(frozen=True)
class Outliner:
    """The unit whose heat maps outline the anomalies."""

    unit: Unit
    threshold: float
    """Pixels with a higher heat are anomalous."""


def tasks_of(run: RunStore, line: str, picked: bool = False) -> list[Task]:
    """Return the flags of a line as tasks, in the order of the report.

    Args:
        run: The run.
        line: Product line.
        picked: Return only the flags that the annotation budget picks.

    Raises:
        ObjectMissing: There is no report.
        IntegrityError: The flags are damaged.
        InputError: The report is of an earlier version that had no annotation budget.
    """
    try:
        table = pd.read_parquet(io.BytesIO(run.get_report(_FLAGS)), filters=[("line", "==", line)])
        columns = [table.astype({"score": np.float64})[name].tolist() for name in _COLUMNS]
    except (pa.ArrowException, OSError, KeyError, ValueError) as error:
        raise IntegrityError(
            f"{run.store.uri(f'{run.root}/report/{_FLAGS}')} is damaged: {error}; build it again with: raybench report"
        ) from error
    if picked and _PICKED not in table:
        raise InputError(f"the report of {run.name} knows of no annotation budget; build it with: raybench report")
    kept = table[_PICKED].tolist() if picked else [True] * len(table)
    signals = table[_SIGNAL].fillna("").tolist() if _SIGNAL in table else [""] * len(table)
    return [
        Task(rank, line, image_id, label, score if math.isfinite(score) else None, reason, signals[rank - 1])
        for rank, (image_id, label, score, reason) in enumerate(zip(*columns, strict=True), start=1)
        if kept[rank - 1]
    ]


def outliner_of(plan: Plan, run: RunStore, board: Board, line: str) -> Outliner | None:
    """Return the best model of a line that has heat maps, or None if no model has any."""
    for name in (row.model for row in board.rows_of(line)):
        for unit in plan.compared:
            if (unit.line, unit.model) == (line, name):
                result = run.result(unit)
                if result and (limit := result.trained.pixel_threshold.value) is not None:
                    return Outliner(unit, limit)
    return None


def items_of(
    plan: Plan, run: RunStore, line: str, tasks: Iterable[Task], outliner: Outliner | None
) -> Iterator[AnnotatedImage]:
    """Yield the tasks with images and outlines, in the order of the line's shards.

    One row group of images and a few dozen heat maps are in memory at a time. A task whose image is not in the line is
    left out.
    """
    manifest, lines = plan.manifests[line], plan.lines_of(line)
    wanted = {task.image_id: task for task in tasks}
    for shard in (*manifest.scored_shards, *manifest.shards_of("train")):
        here = _here(lines, shard, wanted)
        if here:
            rows = read_rows(lines, shard, only=here)
            scored = _scored(run, outliner, shard, here)
            yield from (
                _item(wanted[row.image_id], row, heat, manifest, outliner) for row, heat in _pairs(rows, scored)
            )
            for image_id in here:
                del wanted[image_id]
        if not wanted:
            return


def _here(lines: Store, shard: ShardInfo, wanted: Mapping[str, Task]) -> set[str]:
    rows = read_rows(lines, shard, images=False, only=wanted)
    return {row.image_id for row in rows}


def _scored(run: RunStore, outliner: Outliner | None, shard: ShardInfo, ids: set[str]) -> Iterator[ScoreRow]:
    """The scores of a shard; nothing for a shard that was not scored, such as a training shard."""
    record = run.read(outliner.unit.unit_id, score_name(shard.key), ScoreRecord) if outliner else None
    return iter_scores(run.get_blob(record.shard), only=ids) if record else iter(())


def _pairs(rows: Iterable[ImageRow], scored: Iterator[ScoreRow]) -> Iterator[tuple[ImageRow, ScoreRow | None]]:
    """Images with their scores, which may come in any order. Nothing is kept if both have the same order."""
    waiting: dict[str, ScoreRow] = {}
    for row in rows:
        while row.image_id not in waiting and (found := next(scored, None)) is not None:
            waiting[found.image_id] = found
        yield row, waiting.pop(row.image_id, None)


def _item(
    task: Task, row: ImageRow, scored: ScoreRow | None, manifest: Manifest, outliner: Outliner | None
) -> AnnotatedImage:
    picture = SourcePicture.of(row, manifest.white_level, manifest.black_level)
    if outliner is None or scored is None or scored.heatmap is None:
        return AnnotatedImage(task, picture, np.zeros((row.height, row.width), np.bool_), "")
    heat, roi = to_source(scored.heatmap, fit_of(outliner.unit), row.height, row.width), roi_of(row)
    is_hot = heat > outliner.threshold
    return AnnotatedImage(task, picture, is_hot if roi is None else is_hot & roi.inside, outliner.unit.model)
