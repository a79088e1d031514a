"""Everything that the report's page shows, as data: `html` writes it, `page.html.j2` lays it out."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from raybench.analysis.board import Board
from raybench.analysis.flags import Flag, ScoredImage
from raybench.analysis.line_summary import LineSummary, poor_lines, worst_first
from raybench.analysis.queue_evaluation import QueueEvaluation
from raybench.analysis.rows import BoardRow
from raybench.analysis.sentences import format_number
from raybench.analysis.verdict import Verdict
from raybench.metrics.numbers import Estimate
from raybench.report.charts import Chart, charts
from raybench.report.column import cells, shown
from raybench.report.columns import FLAG_COLUMNS, LINE_COLUMNS, OVERALL_COLUMNS, SUMMARY_COLUMNS
from raybench.report.conditions import conditions
from raybench.report.gallery import Picture
from raybench.report.inspection import Section
from raybench.report.tables import FEW_LINES

FLAGS_SHOWN = 50
NOT_FLAGGED = "not flagged"
OfLine = TypeVar("OfLine", Flag, ScoredImage, Picture)


@dataclass(frozen=True)
class Bar:
    """An interval on a scale from 0 to 100 %."""

    start: float
    """Per cent."""
    width: float
    """Per cent."""
    value: float
    """Per cent, on the same scale as `start`."""


@dataclass(frozen=True)
class Cell:
    """A cell of a line's table."""

    text: str
    style: str
    """CSS class; empty for none."""
    bar: Bar | None
    """The interval to draw below the text."""


@dataclass(frozen=True)
class PageRow:
    """A row of a line's table."""

    row: BoardRow
    cells: tuple[Cell, ...]
    defects_found: tuple[str, ...]
    """Share of defects found, in the order of `PageLine.defect_kinds`. Empty without masks."""


@dataclass(frozen=True)
class PagePicture:
    """A picture with the values that it is filtered by."""

    picture: Picture
    reasons: tuple[str, ...]
    signal: str
    """Type of the anomaly; empty if unknown."""


@dataclass(frozen=True)
class PageFlag:
    """A flagged image with the values that it is filtered by."""

    flag: Flag
    reasons: tuple[str, ...]
    defect_type: str
    """Of the picture on the page; empty without one."""
    cells: tuple[str, ...]


@dataclass(frozen=True)
class PageLine:
    """The section of one line."""

    summary: LineSummary
    summary_cells: tuple[str, ...]
    verdict: Verdict
    payoff: QueueEvaluation | None
    rows: tuple[PageRow, ...]
    defect_kinds: tuple[tuple[str, int], ...]
    """Types and sizes of the line's masked defects, and how many there are."""
    charts: tuple[Chart, ...]
    filters: Mapping[str, Sequence[str]]
    """The values that pictures and flags can be filtered by."""
    pictures: tuple[PagePicture, ...]
    flags: tuple[PageFlag, ...]
    """The first `FLAGS_SHOWN`."""
    flag_count: int
    """Number of all flags."""
    section: Section | None
    """Quality of the line's data. None if nothing is known about it."""

    @property
    def name(self) -> str:
        return self.summary.line


@dataclass(frozen=True)
class PageModel:
    """Everything that the template shows."""

    board: Board
    lines: tuple[PageLine, ...]
    """The worst first."""
    poor: str
    """How many lines are poor, in a sentence."""
    overall: tuple[tuple[str, ...], ...]
    """Cells of the table over all lines."""
    conditions: tuple[str, ...]

    @property
    def is_long(self) -> bool:
        """Whether the lines are listed in short above their sections."""
        return len(self.lines) > FEW_LINES


def page_model(
    board: Board,
    flags: Sequence[Flag],
    pictures: Sequence[Picture],
    seen: Sequence[ScoredImage],
    sections: Mapping[str, Section],
) -> PageModel:
    """Return everything that the page shows. The arguments are those of `html.render`."""
    flags_of, pictures_of, seen_of = _by_line(flags), _by_line(pictures), _by_line(seen)
    summaries = worst_first(board)
    lines = (
        _page_line(board, each, flags_of[each.line], pictures_of[each.line], seen_of[each.line], sections)
        for each in summaries
    )
    return PageModel(
        board=board,
        lines=tuple(lines),
        poor=poor_lines(summaries),
        overall=tuple(tuple(cells(OVERALL_COLUMNS, board, row)) for row in board.overall),
        conditions=tuple(conditions(board)),
    )


def _page_line(
    board: Board,
    summary: LineSummary,
    flags: Sequence[Flag],
    pictures: Sequence[Picture],
    seen: Sequence[ScoredImage],
    sections: Mapping[str, Section],
) -> PageLine:
    verdict, rows = board.verdict_on(summary.line), board.rows_of(summary.line)
    kinds = {kind: number.n for row in rows for kind, number in _defects_found(row).items()}
    page_pictures = _page_pictures(pictures, flags)
    page_flags = _page_flags(board, flags[:FLAGS_SHOWN], pictures)
    return PageLine(
        summary=summary,
        summary_cells=tuple(cells(SUMMARY_COLUMNS, board, summary)),
        verdict=verdict,
        payoff=board.payoff_on(summary.line),
        rows=tuple(_page_row(board, row, tuple(kinds)) for row in rows),
        defect_kinds=tuple(kinds.items()),
        charts=tuple(charts(rows, seen, verdict.run)),
        filters=_filters(page_pictures, page_flags),
        pictures=page_pictures,
        flags=page_flags,
        flag_count=len(flags),
        section=sections.get(summary.line),
    )


def _page_row(board: Board, row: BoardRow, kinds: Sequence[str]) -> PageRow:
    found = _defects_found(row)
    return PageRow(
        row=row,
        cells=_cells(board, row),
        defects_found=tuple(format_number(found.get(kind, Estimate(None))) for kind in kinds) if row.regions else (),
    )


def _cells(board: Board, row: BoardRow) -> tuple[Cell, ...]:
    page_cells = []
    for column in shown(LINE_COLUMNS):
        text = column.text(board, row)
        style = "words" if column.is_sentence else "interval" if "(" in text else ""
        page_cells.append(Cell(text, style, _bar(row) if column.name == "image_auroc" else None))
    return tuple(page_cells)


def _page_pictures(pictures: Sequence[Picture], flags: Sequence[Flag]) -> tuple[PagePicture, ...]:
    reasons = {flag.image_id: _reasons(flag) for flag in flags}
    signals = {flag.image_id: flag.signal for flag in flags if flag.signal}
    return tuple(
        PagePicture(each, reasons.get(each.image_id, (NOT_FLAGGED,)), signals.get(each.image_id, ""))
        for each in pictures
    )


def _page_flags(board: Board, flags: Sequence[Flag], pictures: Sequence[Picture]) -> tuple[PageFlag, ...]:
    defects = {picture.image_id: picture.defect_type for picture in pictures}
    return tuple(
        PageFlag(flag, _reasons(flag), defects.get(flag.image_id, ""), tuple(cells(FLAG_COLUMNS, board, flag)))
        for flag in flags
    )


def _filters(pictures: Sequence[PagePicture], flags: Sequence[PageFlag]) -> Mapping[str, Sequence[str]]:
    """The values that pictures and flags can be filtered by; a filter without values is left out."""
    values = {
        "label": {*(each.flag.label for each in flags), *(each.picture.label for each in pictures)},
        "model": {
            *(model for each in flags for model in each.flag.models),
            *(model for each in pictures for model in each.picture.flagged_by),
        },
        "reason": {
            *(reason for each in flags for reason in each.reasons),
            *(reason for each in pictures for reason in each.reasons),
        },
        "defect": {each.picture.defect_type for each in pictures if each.picture.defect_type},
        "signal": {
            *(each.flag.signal for each in flags if each.flag.signal),
            *(each.signal for each in pictures if each.signal),
        },
    }
    return {name: sorted(found) for name, found in values.items() if found}


def _reasons(flag: Flag) -> tuple[str, ...]:
    return flag.kinds or (flag.kind,)


def _by_line(items: Sequence[OfLine]) -> Mapping[str, list[OfLine]]:
    by_line: defaultdict[str, list[OfLine]] = defaultdict(list)
    for item in items:
        by_line[item.line].append(item)
    return by_line


def _defects_found(row: BoardRow) -> dict[str, Estimate]:
    """Share of defects found, by type and by size."""
    return {**row.regions.by_type, **row.regions.by_size} if row.regions else {}


def _bar(row: BoardRow) -> Bar | None:
    number = row.quality.image_auroc if row.quality else None
    if number is None or number.value is None or number.low is None or number.high is None:
        return None
    return Bar(100 * number.low, max(100 * (number.high - number.low), 0.5), 100 * number.value)
