"""The board on a terminal: the report's numbers, one row per model; a table of one line fits 120 characters."""

from __future__ import annotations

from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from raybench.analysis.board import Board
from raybench.analysis.line_summary import LineSummary, poor_lines, worst_first
from raybench.report.column import Column, Output, Row, cells, headers
from raybench.report.columns import LINE_COLUMNS, OVERALL_COLUMNS, SUMMARY_COLUMNS
from raybench.report.conditions import conditions
from raybench.report.tables import FEW_LINES

WORST_SHOWN = 20
"""Lines in the table of the worst."""
_EXPLAINED = (
    "aspect: what keeping it is worth in image AUROC, against squashed images; the report has all intervals, and the "
    "reason for each conclusion"
)


def console_board(board: Board, lines: Sequence[str] = ()) -> RenderableType:
    """Return the board as tables for a terminal.

    Few lines get a verdict and a table each, then the table over all lines. Many lines get one table of the worst.

    Args:
        board: The comparison.
        lines: The only lines to show. Empty: all.
    """
    few = len(board.lines) <= FEW_LINES
    parts: list[RenderableType] = []
    for line in lines or (board.lines if few else ()):
        parts += _of_line(board, line)
    if len(board.lines) > 1 and not lines:
        parts.append(Text(board.over_all.sentence if board.over_all else "all lines", style="bold"))
        parts += [_table(OVERALL_COLUMNS, board, board.overall), Text("")]
    if not few and not lines:
        parts += [*_worst(board, worst_first(board)), Text("")]
    parts += [Text(text, style="dim") for text in (_EXPLAINED, *conditions(board))]
    return Group(*parts)


def _of_line(board: Board, line: str) -> list[RenderableType]:
    verdict = board.verdict_on(line)
    rows = board.rows_of(line)
    table = _table(LINE_COLUMNS, board, rows)
    for shown, row in zip(table.rows, rows, strict=True):
        shown.style = "bold" if row.model == verdict.run else None
    payoff = board.payoff_on(line)
    return [
        Text(verdict.sentence, style="bold"),
        table,
        *([Text(payoff.sentence, style="dim")] if payoff else []),
        Text(""),
    ]


def _worst(board: Board, summaries: Sequence[LineSummary]) -> list[RenderableType]:
    table = _table(SUMMARY_COLUMNS, board, summaries[:WORST_SHOWN])
    parts: list[RenderableType] = [Text(f"Worst lines first. {poor_lines(summaries)}", style="bold"), table]
    more = len(summaries) - WORST_SHOWN
    if more > 0:
        text = f"{more} more lines: all are in index.html; `raybench report … --line NAME` shows one in full"
        parts.append(Text(text, style="dim"))
    return parts


def _table(columns: Sequence[Column[Row]], board: Board, rows: Sequence[Row]) -> Table:
    table = Table(
        *headers(columns, Output.TERMINAL), box=None, header_style="dim", pad_edge=False, collapse_padding=True
    )
    for column in table.columns:
        column.overflow = "fold"
    table.columns[0].no_wrap = True
    for row in rows:
        table.add_row(*map(Text, cells(columns, board, row, Output.TERMINAL)))
    return table
