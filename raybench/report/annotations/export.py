"""All flags of a run, line by line, as annotation work."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from raybench.analysis.board import Board, board_from_json
from raybench.config.plan import Plan
from raybench.errors import InputError, ObjectMissing, UnknownName
from raybench.report.annotations.collect import items_of, outliner_of, tasks_of
from raybench.report.annotations.write import Written, check_formats, write
from raybench.runs.run import RunStore


@dataclass(frozen=True)
class Options:
    """formats: names of `write.FORMATS`. images: whether to write the images. picked: only those that the annotation
    budget picks."""

    formats: Sequence[str]
    images: bool = True
    picked: bool = False


@dataclass(frozen=True)
class LineExport:
    """model: whose outlines they are, empty where no model has heat maps. missing: flagged images that the line does
    not hold. written: None where nothing is flagged."""

    line: str
    model: str
    missing: int
    written: Written | None

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
    """Write `folder`/<line> for `line`, or for each of them, as the iterator is read.

    Raises UnknownName (line or format), InputError (no report yet, or a line's folder is already there).
    """
    check_formats(options.formats)
    run = RunStore(plan.store, plan.experiment.name)
    try:
        board = board_from_json(run.get_report("board.json"))
    except ObjectMissing as error:
        raise InputError(f"{run.name} has no report yet, and so no flags; build it with: raybench report") from error
    if line is not None and line not in board.lines:
        raise UnknownName("line", line, board.lines)
    for each in [line] if line else board.lines:
        yield _line(plan, run, board, folder / each, options)


def _line(plan: Plan, run: RunStore, board: Board, folder: Path, options: Options) -> LineExport:
    """folder: named as the line."""
    line = folder.name
    tasks = tasks_of(run, line, options.picked)
    if not tasks:
        return LineExport(line, "", 0, None)
    outliner = outliner_of(plan, run, board, line)
    items = items_of(plan, run, line, tasks, outliner)
    written = write(items, folder, options.formats, f"{run.name}: {line}", options.images)
    return LineExport(line, outliner.unit.model if outliner else "", len(tasks) - written.images, written)
