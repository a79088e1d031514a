"""Export the flags of a run, line by line, for annotation tools."""

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
